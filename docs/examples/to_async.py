"""Blocking code for async code: its work runs on the bridge's threads, the loop goes on."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sidecar import to_async


@to_async
def resize(name: str, width: int = 100) -> str:
    time.sleep(0.1)  # a library that knows nothing of asyncio
    return f"{name} at {width}"


@to_async
def lines(name: str) -> Iterator[str]:
    for number in range(3):
        yield f"{name}:{number}"


@to_async
@contextmanager
def transaction(name: str) -> Iterator[str]:
    print("begin", name)
    yield name
    print("commit", name)


@to_async
class Account:
    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.balance = 0

    def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance


async def functions() -> None:
    print(await resize("cat"))  # -> cat at 100
    began = time.perf_counter()
    await asyncio.gather(*(resize(f"cat {number}") for number in range(10)))
    assert time.perf_counter() - began < 0.9  # one after another would take a second


async def generators() -> None:
    print([line async for line in lines("log")])  # -> ['log:0', 'log:1', 'log:2']
    async with transaction("transfer"):  # -> begin transfer
        print("work")  # -> work
    # -> commit transfer


async def classes() -> None:
    account = Account("Ada")
    print(await account.deposit(5), account.owner)  # -> 5 Ada
    other = await Account.on_pool("Bob")  # where the constructor itself blocks
    print(other.balance)  # -> 0


async def objects() -> None:
    file = to_async(open(__file__))
    async with file:
        async for line in file:
            print(line.split()[0])  # -> """Blocking
            break


async def main() -> None:
    await functions()
    await generators()
    await classes()
    await objects()


asyncio.run(main())
