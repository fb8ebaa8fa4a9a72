"""Modules by ``--emit``: they do what the wrapped ones do, and tracebacks lead into them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import pickle
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sidecar.type_stubs.__main__ import main

STUBBED = Path(__file__).resolve().parents[1] / "stubs"
NAMES = ("shop", "shop_impl", "shop_faces")
Make = Callable[[str], ModuleType]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Either module, imported anew: the emitted one takes the library's place."""
    for name in ("shop.py", "shop_impl.py"):
        shutil.copy(STUBBED / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    made: list[Any] = []

    def make(name: str) -> ModuleType:
        for each in NAMES:
            sys.modules.pop(each, None)
        if name == "shop_faces":
            assert main(["shop", "--emit", "shop_faces"]) == 0
            importlib.invalidate_caches()
        module = importlib.import_module(name)
        made.append(module.synchronizer)
        return module

    yield make
    for synchronizer in made:
        synchronizer.close()
    for each in NAMES:
        sys.modules.pop(each, None)


def blocking(shop: Any) -> list[Any]:
    """All that a blocking caller can do."""
    connection = shop.Connection("db:1", retries=1)
    found: list[Any] = [
        connection.query("a", 1, 2, times=2, x="y"),
        connection.query.future("b").result(),
        connection.itself() is connection,
        connection.default(),
        connection.default(3),
        connection.price(),
        type(shop.Connection.connect("u")) is shop.Connection,
        connection.connect("u").name,
        shop.Connection.ping("abc"),
        connection.ping("abcd"),
        shop.Connection.parse("db:1"),
        list(connection.rows(3)),
        connection.same_as(connection),
        connection.same_as(),
        connection.list(),
        len(connection),
        list(connection),
        shop.square(3),
        list(shop.lines(2)),
        shop.converted(3),
        shop.converted("3"),
        shop.later("u").name,
        shop.plain(connection)[0] is connection,
        shop.greeted("you"),
        shop.LIMIT,
        shop.Point(1).shifted(2),
        shop.first([1, 2]),
    ]
    connection.name = "other"
    found.append(connection.name)
    with connection as entered, connection.transaction("t") as inside, shop.opened("u") as opened:
        found += [entered is connection, inside is connection, type(opened) is shop.Connection]
    found.append(connection.list())
    client = shop.Client.connected("host")
    with client as entered:
        found += [entered is client, client.get("a", times=2), list(client.pages(2)), list(client)]
    found += [client.host, client.itself() is client, type(client) is shop.Client]
    secure = shop.Secure("k")
    found += [secure.key(), type(secure.itself()) is shop.Secure, isinstance(secure, shop.Connection)]
    found += [
        shop.same(secure) == [secure],
        secure.query("q"),
        shop.Box(3).get(),
        shop.Box[int](3).swapped(4),
    ]
    for bad in (
        lambda: shop.Connection(""),
        lambda: shop.square(),
        lambda: shop.square("a"),
        connection.fail,
    ):
        with pytest.raises(Exception) as caught:
            bad()
        found.append((type(caught.value), str(caught.value).replace("_square_aio", "square")))
    return found


async def awaiting(shop: Any) -> list[Any]:
    connection = await shop.Connection.connect.aio("db:1")
    found: list[Any] = [
        type(connection) is shop.Connection,
        await connection.query.aio("a", 1, times=1, x="y"),
        [number async for number in connection.rows.aio(3)],
        [number async for number in connection],
        await shop.Connection.ping.aio("abc"),
        await shop.square.aio(3),
        [line async for line in shop.lines.aio(2)],
        await shop.converted.aio(3),
        (await shop.later.aio("u")).name,
        await shop.called.aio(shop_text, "a", loud=True),
    ]
    async with connection as entered, shop.opened("u") as opened, shop.opened.aio("u") as again:
        found += [entered is connection, type(opened) is shop.Connection, type(again) is shop.Connection]
    found += [await shop.resized("cat"), await shop.resized("cat", width=3)]
    found.append([number async for number in shop.counted(3)])
    async with shop.locked("a") as name:
        found.append(name)
    account = await shop.Account.on_pool("Ada", balance=3)
    found += [
        type(account) is shop.Account,
        account.owner,
        await account.deposit(5),
        account.bank,
        account.rich,
    ]
    merged = await account.merged([account, await shop.Account.opened("Bob")])
    found += [type(merged) is shop.Account, merged.balance, (await account.everyone())[0] is account]
    found += [each is account async for each in account.each()]
    async with account.lock() as locked:
        found.append(locked is account)
    found += [await shop.Account.rate(50), len(account), [number async for number in account]]
    async with account as entered:
        found.append(entered is account)
    found.append(account.balance)
    return found


async def shop_text(text: str, *, loud: bool = False) -> str:
    return text.upper() if loud else text


def test_the_same_for_both_sides(make: Make) -> None:
    wanted = [blocking(shop := make("shop")), asyncio.run(awaiting(shop))]
    got = [blocking(faces := make("shop_faces")), asyncio.run(awaiting(faces))]
    assert [repr(each) for each in got] == [repr(each) for each in wanted]


def test_they_look_the_same(make: Make) -> None:
    shop, faces = make("shop"), make("shop_faces")
    assert faces.__doc__ == shop.__doc__
    for name in ("square", "lines", "opened", "resized", "counted", "greeted"):
        there, here = getattr(shop, name), getattr(faces, name)
        assert here.__doc__ == there.__doc__ and (here.__name__, here.__module__) == (name, "shop_faces")
        assert list(inspect.signature(here).parameters) == list(inspect.signature(there).parameters), name
        assert inspect.iscoroutinefunction(here) == inspect.iscoroutinefunction(there), name
        assert inspect.getsourcefile(inspect.unwrap(here)) == faces.__file__
    assert str(inspect.signature(faces.Connection)) == "(url: 'str', *, retries: 'int' = 3) -> 'None'"
    assert faces.Connection.query.__doc__ == "Ask the shop." and faces.Connection.__module__ == "shop_faces"
    default = inspect.signature(faces.Connection.default).parameters["value"].default
    assert default is sys.modules["shop_impl"].MISSING
    assert faces.synchronizer.is_synchronized(faces.square) and faces.synchronizer.is_synchronized(
        faces.Connection
    )


def test_pickled(make: Make) -> None:
    faces = make("shop_faces")
    connection = faces.Connection("u")
    for each in (
        faces.square,
        faces.square.aio,
        faces.Connection,
        faces.resized,
        faces.Account,
        faces.Connection.ping,
    ):
        assert pickle.loads(pickle.dumps(each)) is each
    assert pickle.loads(pickle.dumps(connection.query)).func is connection.query.func
    copy = pickle.loads(pickle.dumps(connection))
    assert type(copy) is faces.Connection and copy.name == "u" and copy.query("a") == ["a"]
    account = pickle.loads(pickle.dumps(faces.Account("Ada")))
    assert type(account) is faces.Account and account.owner == "Ada"


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="frames are taken out of tracebacks since CPython 3.11"
)
def test_tracebacks_lead_into_it(make: Make) -> None:
    faces = make("shop_faces")

    async def aio() -> None:
        await faces.Connection("u").fail.aio()

    for call in (faces.Connection("u").fail, lambda: asyncio.run(aio())):
        with pytest.raises(LookupError) as caught:
            call()
        files = [Path(frame.filename).name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert files[-2:] == ["shop_faces.py", "shop_impl.py"]


def test_derived_from(make: Make) -> None:
    faces = make("shop_faces")

    class Mine(faces.Connection):  # type: ignore[misc]
        def twice(self, text: str) -> list[str]:
            found: list[str] = self.query(text) * 2
            return found

    assert Mine("u").twice("a") == ["a", "a"] and type(Mine("u").itself()) is Mine

    class MyAccount(faces.Account):  # type: ignore[misc]
        async def twice(self, amount: int) -> int:
            await self.deposit(amount)
            total: int = await self.deposit(amount)
            return total

    async def main() -> None:
        account = await MyAccount.on_pool("Ada")
        assert type(account) is MyAccount and await account.twice(2) == 4

    asyncio.run(main())


def test_check(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("shop_faces")
    assert main(["shop", "--emit", "shop_faces", "--check"]) == 0
    path = Path("shop_faces.py")
    path.write_text(path.read_text().replace("width: int = 100", "width: int = 10"))
    capsys.readouterr()
    assert main(["shop", "--emit", "shop_faces", "--check"]) == 1
    assert "+async def resized(name: str, width: int = 100) -> str:" in capsys.readouterr().out
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
