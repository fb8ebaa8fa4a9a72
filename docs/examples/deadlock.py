"""A sync call inside a coroutine of the same bridge could only wait for itself: it raises."""

import asyncio

from sidecar import run_sync
from sidecar.errors import DeadlockError


async def inner() -> int:
    return 1


async def outer() -> int:
    try:
        return run_sync(inner())
    except DeadlockError as error:
        print(error.code)  # -> SC0001
        return await inner()


async def moved_to_a_thread() -> int:
    # Blocking code off the loop's thread may call back.
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, run_sync, inner())


print(run_sync(outer()))  # -> 1
print(run_sync(moved_to_a_thread()))  # -> 1
