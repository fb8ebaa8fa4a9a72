"""``Runner``: coroutines of the main program, one after another on one loop; Ctrl-C waits for their cleanup."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from types import TracebackType
from typing import Any, TypeVar

import sidecar
from sidecar.compat.synchronicity.exceptions import NestedEventLoops

__all__ = ["NestedEventLoops", "Runner"]

T = TypeVar("T")


class Runner:
    """``asyncio.Runner`` with a loop of sidecar's; before CPython 3.11 a bridge of its own."""

    _runner: Any

    def __enter__(self) -> Runner:
        if asyncio._get_running_loop() is not None:
            raise NestedEventLoops
        if sys.version_info >= (3, 11):
            self._runner = asyncio.Runner(loop_factory=sidecar.Loop).__enter__()
        else:
            self._runner = sidecar.Sidecar(name="Runner").start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._runner.close()

    def run(self, coro: Awaitable[T]) -> T:
        if sys.version_info < (3, 11):
            found: T = self._runner.run_sync(coro)
            return found
        return self._runner.run(_awaited(coro))  # type: ignore[no-any-return]


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable
