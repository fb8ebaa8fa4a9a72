"""An async library for blocking and for async callers: functions, generators, context managers, classes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sidecar.synchronizer import Synchronizer

synchronizer = Synchronizer(name="library")


@synchronizer.wrap
async def square(x: int) -> int:
    await asyncio.sleep(0.001)
    return x * x


print(square(3))  # -> 9
print([future.result() for future in map(square.future, range(4))])  # -> [0, 1, 4, 9]


async def user() -> None:
    print(await square.aio(5))


asyncio.run(user())  # -> 25


@synchronizer.wrap
async def rows(count: int) -> AsyncIterator[str]:
    for number in range(count):
        await asyncio.sleep(0.001)
        yield f"row {number}"


for row in rows(2):
    print(row)
# -> row 0
# -> row 1


async def read() -> None:
    print([row async for row in rows.aio(2)])


asyncio.run(read())  # -> ['row 0', 'row 1']


class _Connection:
    def __init__(self, url: str) -> None:
        self._url = url

    async def query(self, text: str) -> str:
        await asyncio.sleep(0.001)
        return f"{text} at {self._url}"

    async def is_same(self, other: "_Connection") -> bool:
        return other is self

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["_Connection"]:
        yield self
        await asyncio.sleep(0.001)
        print("committed")

    async def __aenter__(self) -> "_Connection":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.sleep(0.001)


Connection = synchronizer.wrap(_Connection, name="Connection", target_module=__name__)

with Connection("db:1") as connection:
    print(connection.query("select"))  # -> select at db:1
    print(connection.is_same(connection))  # -> True
    with connection.transaction() as inner:
        print(inner is connection)
# -> True
# -> committed


async def work() -> None:
    async with Connection("db:2") as connection:
        print(await connection.query.aio("select"))


asyncio.run(work())  # -> select at db:2


@synchronizer.wrap
async def each(names: list[str], callback: Any) -> list[str]:
    return [await callback(name) for name in names]


# The caller's own function, which may block: it runs on the pool.
print(each(["a", "b"], synchronizer.create_callback(str.upper)))  # -> ['A', 'B']

synchronizer.close()  # by itself at exit; the next call starts it again
print(square(4))  # -> 16
