"""Ten waits at the same time, from sync code."""

import asyncio
import time

from sidecar import run_sync


async def fetch(number: int) -> int:
    await asyncio.sleep(0.1)  # an HTTP call, a query
    return number


async def fetch_all() -> list:
    return await asyncio.gather(*(fetch(number) for number in range(10)))


began = time.perf_counter()
print(sum(run_sync(fetch_all())))  # -> 45
assert time.perf_counter() - began < 0.9  # one after another would take a second
