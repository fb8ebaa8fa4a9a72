"""What the tests of streams share: sources, and a generator that says how it ended."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from harness import wait_for

import sidecar

T = TypeVar("T")


def in_thread(function: Callable[..., T], *args: Any) -> T:
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(function, *args).result()


async def count(to: int, start: int = 0) -> AsyncIterator[int]:
    for number in range(start, to):
        yield number


async def count_slowly(to: int) -> AsyncIterator[int]:
    for number in range(to):
        await asyncio.sleep(0.001)
        yield number


async def open_count(to: int) -> AsyncIterator[int]:
    await asyncio.sleep(0)
    return count(to)


class Countdown:
    """An async iterable that is no generator: no ``asend``, no ``aclose``."""

    def __init__(self, start: int) -> None:
        self.left = start

    def __aiter__(self) -> Countdown:
        return self

    async def __anext__(self) -> int:
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        await asyncio.sleep(0)
        return self.left


def here() -> tuple[str, asyncio.AbstractEventLoop]:
    """The task by its name: held, it would keep its stream's generator from being garbage."""
    task = asyncio.current_task()
    assert task is not None
    return task.get_name(), asyncio.get_running_loop()


class Tracked:
    """A generator that says how it was: which task began it, which one cleaned up, and where."""

    def __init__(self, items: int = 1000, cleanup: float = 0.0) -> None:
        self.items = items
        self.cleanup = cleanup
        self.begun: object = None
        self.ended: tuple[str, asyncio.AbstractEventLoop] | None = None
        self.how: type[BaseException] | None = None

    async def run(self) -> AsyncIterator[int]:
        self.begun = here()
        try:
            for number in range(self.items):
                yield number
        except BaseException as error:
            self.how = type(error)
            raise
        finally:
            try:
                await asyncio.sleep(self.cleanup)
            finally:
                self.ended = here()

    def check(self, bridge: sidecar.Sidecar, seconds: float = 20.0) -> None:
        """Cleaned up, on the loop, in the task that began it."""
        wait_for(lambda: self.ended, "the generator's cleanup", seconds)
        assert self.ended == self.begun and self.ended is not None and self.ended[1] is bridge.get_loop()


def records(caplog: Any, name: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == name]
