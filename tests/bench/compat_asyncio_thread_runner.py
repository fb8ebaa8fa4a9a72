"""Measure ``sidecar.compat.asyncio_thread_runner`` against asyncio-thread-runner; print tables."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import asyncio_thread_runner
from compat_case import CALL, ITEM, SLOWER_NEVER, Work, case, main, repeated

from sidecar.compat.asyncio_thread_runner import ThreadRunner

LENGTH = 1000


async def number() -> int:
    return 1


async def numbers() -> AsyncIterator[int]:
    for each in range(LENGTH):
        yield each


@contextlib.asynccontextmanager
async def context() -> AsyncIterator[int]:
    yield 1


def both(make: Callable[[Any], Work]) -> Any:
    @contextlib.contextmanager
    def pair() -> Iterator[tuple[Work, Work]]:
        with ThreadRunner() as ours, asyncio_thread_runner.ThreadRunner() as theirs:
            yield make(ours), make(theirs)

    return pair


def run(runner: Any) -> Work:
    return repeated(lambda: runner.run(number()))


def items(runner: Any) -> Work:
    def work(times: int) -> None:
        for _ in range(times // LENGTH):
            for _ in runner.wrap_iter(numbers()):
                pass

    return work


def entered(runner: Any) -> Work:
    def enter() -> None:
        with runner.wrap_context(context()):
            pass

    return repeated(enter)


def futures(runner: Any) -> Work:
    def work(times: int) -> None:
        for future in [runner.run_as_future(number()) for _ in range(times)]:
            future.result()

    return work


NAME = "asyncio-thread-runner"
CASES = [
    case("run", "run()", NAME, both(run), CALL),
    case("items", "an item of wrap_iter()", NAME, both(items), ITEM, LENGTH),
    case("context", "wrap_context(), entered and left", NAME, both(entered), SLOWER_NEVER),
    case("futures", "run_as_future(), many at once", NAME, both(futures), SLOWER_NEVER),
]

if __name__ == "__main__":
    main(__doc__, NAME, CASES)
