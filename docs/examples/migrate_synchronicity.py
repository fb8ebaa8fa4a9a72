"""From synchronicity: one import changes, the code stays; then sidecar's own names."""

import asyncio
from collections.abc import AsyncIterator

from sidecar.compat.synchronicity import Synchronizer

synchronizer = Synchronizer()


@synchronizer.wrap
async def square(x: int) -> int:
    await asyncio.sleep(0.001)
    return x * x


@synchronizer.create_blocking
class Client:
    def __init__(self, name: str) -> None:
        self._name = name

    async def rows(self, count: int) -> AsyncIterator[str]:
        for number in range(count):
            yield f"{self._name} {number}"


print(square(3))  # -> 9
print(square(4, _future=True).result())  # -> 16
print(list(Client("row").rows(2)))  # -> ['row 0', 'row 1']


async def user() -> None:
    print(await square.aio(5))
    print([row async for row in Client("row").rows.aio(2)])


asyncio.run(user())
# -> 25
# -> ['row 0', 'row 1']


# Later, by sidecar's own names: the same objects, and public ones for what had an underscore.
from sidecar.synchronizer import Synchronizer as Native  # noqa: E402

native = Native(name="library")


@native.wrap
async def cube(x: int) -> int:
    return x**3


print(cube(2), cube.future(3).result())  # -> 8 27
native.close()
synchronizer._close_loop()
