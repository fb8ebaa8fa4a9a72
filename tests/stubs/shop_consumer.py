# ruff: noqa: UP006, UP007, UP035, UP045 (old spellings are what is tested)
"""What type checkers must make of ``shop`` by its stub. Never run.

A deliberate mistake is ignored by name for mypy and for pyright; one that is none any more is an error.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator
from concurrent.futures import Future
from decimal import Decimal
from typing import List, Optional

import shop
from typing_extensions import assert_type

from sidecar import Stream

connection = shop.Connection("shop:1", retries=2)
assert_type(connection, shop.Connection)
assert_type(connection.query("a", 1, times=2, x="y"), List[str])
assert_type(connection.query.future("a"), Future[List[str]])
assert_type(connection.itself(), shop.Connection)
assert_type(connection.list(), List[str])
assert_type(connection.price(), Decimal)
assert_type(connection.rows(3), Generator[int, None, None])
assert_type(connection.same_as(connection), bool)
assert_type(connection.name, str)
assert_type(connection.url, str)
assert_type(len(connection), int)
assert_type(shop.Connection.connect("shop:1"), shop.Connection)
assert_type(shop.Connection.ping("shop:1"), float)
assert_type(shop.Connection.parse("shop:1"), str)
connection.name = "other"
with connection as entered, connection.transaction("t") as inside:
    assert_type(entered, shop.Connection)
    assert_type(inside, shop.Connection)
for number in connection:
    assert_type(number, int)

secure = shop.Secure("shop:1")
assert_type(secure.key(), bytes)
assert_type(secure.itself(), shop.Secure)
assert_type(shop.same(secure), List[shop.Secure])

box = shop.Box("a")
assert_type(box, shop.Box[str])
assert_type(box.get(), str)
assert_type(box.swapped("b"), str)
assert_type(box.plain(), str)

assert_type(shop.square(3), int)
assert_type(shop.lines(3), Iterator[str])
assert_type(shop.converted(3), str)
assert_type(shop.converted("3"), int)
assert_type(shop.converted.future("3"), Future[int])
assert_type(shop.later("shop:1"), shop.Connection)
assert_type(shop.plain(connection), List[shop.Connection])
assert_type(shop.greeted("you"), str)
with shop.opened("shop:1") as opened:
    assert_type(opened, shop.Connection)

client = shop.Client.connected("host")
assert_type(client, shop.Client)
assert_type(client.get("a", times=2), bytes)
assert_type(client.pages(3), Stream[str])
assert_type(client.host, str)
with client as client_entered:
    assert_type(client_entered, shop.Client)
for page in client:
    assert_type(page, str)


async def shout(text: str, /, *, loud: bool = False) -> bytes:
    return text.encode()


assert_type(shop.called(shout, "a", loud=True), bytes)

assert_type(shop.LIMIT, int)
assert_type(shop.NAMES, List[str])
assert_type(shop.fallback, Optional[shop.Connection])
assert_type(shop.first([1], "small"), int)
assert_type(shop.Point(1).shifted(2), shop.Point)
assert_type(shop.Pair(1).right, str)
number_: shop.Number = 3
colour: shop.Colour = shop.Colour.RED
options: shop.Options = {"colour": colour}


async def awaiting() -> None:
    assert_type(await connection.query.aio("a"), List[str])
    assert_type(connection.rows.aio(3), AsyncGenerator[int, None])
    assert_type(await shop.Connection.connect.aio("shop:1"), shop.Connection)
    assert_type(await secure.itself.aio(), shop.Secure)
    assert_type(await box.get.aio(), str)
    assert_type(await shop.converted.aio(3), str)
    assert_type(await shop.later.aio("shop:1"), shop.Connection)
    assert_type(await shop.called.aio(shout, "a"), bytes)
    async with connection as entered, shop.opened("shop:1") as opened, shop.opened.aio("shop:1") as again:
        assert_type(entered, shop.Connection)
        assert_type(opened, shop.Connection)
        assert_type(again, shop.Connection)
    async for line in shop.lines.aio(3):
        assert_type(line, str)


async def turned() -> None:
    assert_type(await shop.resized("cat"), str)
    assert_type(shop.counted(3), AsyncGenerator[int, str])
    async with shop.locked("a") as name:
        assert_type(name, str)
    account = await shop.Account.on_pool("Ada", 3)
    assert_type(account, shop.Account)
    assert_type(await account.deposit(5), int)
    assert_type(await account.merged([account]), shop.Account)
    assert_type(await account.everyone(), List[shop.Account])
    assert_type(account.each(), AsyncGenerator[shop.Account, None])
    assert_type(await shop.Account.opened("Bob"), shop.Account)
    assert_type(await shop.Account.rate(3), float)
    assert_type(account.owner, str)
    assert_type(account.peers, List[str])
    assert_type(account.bank, str)
    assert_type(account.rich, bool)
    assert_type(len(account), int)
    async with account as entered, account.lock() as locked:
        assert_type(entered, shop.Account)
        assert_type(locked, shop.Account)
    async for number in account:
        assert_type(number, int)


async def wrong() -> None:
    shop.square("3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await shop.square.aio()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    shop.square.nothing()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    await shop.square(3)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    shop.lines.future(3)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    shop.Connection(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    connection.query("a", times="b")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    connection.nothing()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    shop.Connection.parse(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    shop.same(3)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    shop.converted(b"")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    shop.called(shout, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    box.put(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    account = shop.Account(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await account.deposit("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    for _ in account:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        pass
