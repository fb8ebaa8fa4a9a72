"""Measure ``sidecar.compat.palitra`` against palitra; print tables."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import palitra
from compat_case import CALL, SLOWER_NEVER, Work, case, main, repeated

from sidecar.compat import palitra as ours


async def number() -> int:
    return 1


async def number_later() -> int:
    await asyncio.sleep(0)
    return 1


def both(make: Callable[[Any], Work]) -> Any:
    @contextlib.contextmanager
    def pair() -> Iterator[tuple[Work, Work]]:
        try:
            yield make(ours), make(palitra)
        finally:
            ours.shutdown_global_runner()
            palitra.shutdown_global_runner()

    return pair


def run(module: Any) -> Work:
    return repeated(lambda: module.run(number()))


def run_later(module: Any) -> Work:
    return repeated(lambda: module.run(number_later()))


def runner(module: Any) -> Work:
    made = module.EventLoopThreadRunner()
    return repeated(lambda: made.run(number()))


def gather(module: Any) -> Work:
    return repeated(lambda: module.gather(*[number_later() for _ in range(10)]))


NAME = "palitra"
CASES = [
    case("run", "run() of a coroutine that does not wait", NAME, both(run), CALL),
    case("run-later", "run() of a coroutine that waits once", NAME, both(run_later), CALL),
    case("runner", "a runner's own run()", NAME, both(runner), CALL),
    case("gather", "gather() of 10 coroutines", NAME, both(gather), SLOWER_NEVER),
]

if __name__ == "__main__":
    main(__doc__, NAME, CASES)
