"""Measure ``sidecar.compat.synchronaut`` against synchronaut; print tables.

synchronaut sets uvloop's event loop policy: all loops but the bridge's are uvloop's, for both.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import synchronaut
from compat_case import SLOWER_NEVER, Work, case, main, repeated

import sidecar
from sidecar.compat import synchronaut as ours


def plain(x: int) -> int:
    return x


async def number(x: int) -> int:
    return x


def both(make: Callable[[Any], Work]) -> Any:
    @contextlib.contextmanager
    def pair() -> Iterator[tuple[Work, Work]]:
        try:
            yield make(ours), make(synchronaut)
        finally:
            sidecar.shutdown()

    return pair


def in_sync(module: Any) -> Work:
    return repeated(lambda: module.call_any(number, 1))


def in_sync_limited(module: Any) -> Work:
    return repeated(lambda: module.call_any(number, 1, timeout=10))


def decorated(module: Any) -> Work:
    face = module.synchronaut()(number)
    return repeated(lambda: face(1))


def offloaded(module: Any) -> Work:
    return repeated(lambda: module.call_any(plain, 1, force_offload=True))


def in_async(module: Any) -> Work:
    async def go(times: int) -> None:
        for _ in range(times):
            await module.call_any(plain, 1)

    return lambda times: asyncio.run(go(times))


def passed_through(module: Any) -> Work:
    async def go(times: int) -> None:
        for _ in range(times):
            await module.call_any(number, 1)

    return lambda times: asyncio.run(go(times))


def mapped(module: Any) -> Work:
    calls = [(number, (1,), {}, None)] * 10
    return repeated(lambda: module.parallel_map(calls))


NAME = "synchronaut"
CASES = [
    case("async-in-sync", "call_any() of an async function, in sync code", NAME, both(in_sync), SLOWER_NEVER),
    case("limited", "the same with a time-out", NAME, both(in_sync_limited), SLOWER_NEVER),
    case("decorated", "a decorated async function, in sync code", NAME, both(decorated), SLOWER_NEVER),
    case("sync-in-async", "call_any() of a sync function, in asyncio", NAME, both(in_async), SLOWER_NEVER),
    case("async-in-async", "call_any() of an async function, in asyncio", NAME, both(passed_through), SLOWER_NEVER),
    case("offloaded", "a sync function with force_offload, in sync code", NAME, both(offloaded), SLOWER_NEVER),
    case("map", "parallel_map() of 10 async functions, in sync code", NAME, both(mapped), SLOWER_NEVER),
]

if __name__ == "__main__":
    main(__doc__, NAME, CASES)
