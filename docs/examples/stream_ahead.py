"""A stream that reads ahead while its consumer works."""

import asyncio
import time
from collections.abc import AsyncIterator

from sidecar import stream

made = 0


async def pages() -> AsyncIterator[int]:
    global made
    for number in range(8):
        await asyncio.sleep(0.05)  # an HTTP call
        made += 1
        yield number


def work() -> None:
    time.sleep(0.05)  # sync code: a template, a file


def consume(prefetch: int) -> float:
    began = time.perf_counter()
    for _ in stream(pages(), prefetch=prefetch):
        work()
    return time.perf_counter() - began


print(consume(prefetch=4) < consume(prefetch=0))  # -> True

made = 0
with stream(pages(), prefetch=3) as ahead:
    next(ahead)
    time.sleep(1)
    print(made)  # -> 4
