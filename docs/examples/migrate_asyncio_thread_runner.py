"""From asyncio-thread-runner: one import changes, the code stays; then sidecar's own names."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sidecar.compat.asyncio_thread_runner import ThreadRunner


async def double(x: int) -> int:
    await asyncio.sleep(0.001)
    return 2 * x


async def numbers() -> AsyncIterator[int]:
    yield 1
    yield 2


@asynccontextmanager
async def session(name: str) -> AsyncIterator[str]:
    yield name
    print("closed", name)


with ThreadRunner() as runner:
    print(runner.run(double(2)))  # -> 4
    print(runner.run_as_future(double(3)).result())  # -> 6
    print(list(runner.wrap_iter(numbers())))  # -> [1, 2]
    print(runner.enter_context(lambda: session("kept")))  # -> kept
    with runner.wrap_context(session("request")) as name:
        print(name)
# -> request
# -> closed request
# -> closed kept

# Later, by sidecar's own names:
import sidecar  # noqa: E402

print(sidecar.run_sync(double(2)))  # -> 4
print(sidecar.submit(double, 3).result())  # -> 6
print(list(sidecar.stream(numbers)))  # -> [1, 2]
with sidecar.wrap_context(session("request")) as name:
    print(name)
# -> request
# -> closed request
