"""Async code for sync code: it runs on the bridge's loop, its signature stays."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sidecar import to_sync


@to_sync
async def greet(name: str) -> str:
    await asyncio.sleep(0.01)
    return f"hello {name}"


@to_sync(timeout=0.05)
async def stuck() -> None:
    await asyncio.sleep(60)


@to_sync
async def ticks(count: int) -> AsyncIterator[int]:
    for number in range(count):
        await asyncio.sleep(0.001)
        yield number


@to_sync
@asynccontextmanager
async def connection(host: str) -> AsyncIterator[str]:
    print("connect")
    yield f"connected to {host}"
    print("close")


@to_sync
class Client:
    def __init__(self, host: str) -> None:
        self.loop = asyncio.get_running_loop()  # constructed on the loop
        self.host = host

    async def get(self, path: str) -> str:
        await asyncio.sleep(0)
        return f"{self.host}/{path}"

    async def both(self, *paths: str) -> list:
        return await asyncio.gather(*(self.get(path) for path in paths))

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        print("left")


print(greet("world"))  # -> hello world
try:
    stuck()
except TimeoutError as error:
    print(error.code)  # -> SC0003
print(list(ticks(3)))  # -> [0, 1, 2]

with connection("db") as state:  # -> connect
    print(state)  # -> connected to db
# -> close

with Client("example.org") as client:
    print(client.both("a", "b"))  # -> ['example.org/a', 'example.org/b']
# -> left

# A function of somebody else's, too.
sleep = to_sync(asyncio.sleep)
print(sleep(0.01, "slept"))  # -> slept
