"""Begin something now, and ask for it later or never: functions on the pool, coroutines on the loop."""

import asyncio
import concurrent.futures
import logging
import time

import sidecar
from sidecar import submit


def slow(x: int) -> int:
    time.sleep(0.01)
    return x * x


async def fetch(x: int) -> int:
    await asyncio.sleep(0.01)
    return x + 1


# A function goes to the worker pool, a coroutine function or an awaitable to the loop.
square = submit(slow, 7)
fetched = submit(fetch, 7)
print(square.result(), fetched.result(timeout=5))  # -> 49 8

# They are concurrent.futures' futures.
futures = [submit(fetch, i) for i in range(5)]
print(sorted(f.result() for f in concurrent.futures.as_completed(futures)))  # -> [1, 2, 3, 4, 5]


# In a coroutine, of any loop.
async def main() -> int:
    return await asyncio.wrap_future(submit(slow, 3))


print(asyncio.run(main()))  # -> 9


# cancel() cancels the coroutine, and its cleanup runs.
async def follow() -> None:
    try:
        await asyncio.sleep(3600)
    finally:
        print("cleaned up")  # -> cleaned up


following = submit(follow)
submit(fetch, 0).result()  # it has begun by now
following.cancel()
concurrent.futures.wait([following])
print(following.cancelled())  # -> True


# Nobody asks for the error of this one: it is in the log of "sidecar", with its traceback.
class Show(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(record.levelname, repr(record.exc_info[1]))


logging.getLogger("sidecar").addHandler(Show())


def audit(user: str) -> None:
    raise OSError("disk full")


concurrent.futures.wait([submit(audit, "ann")])
sidecar.shutdown()  # -> ERROR OSError('disk full')
