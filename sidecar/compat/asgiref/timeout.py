"""``asgiref.timeout``: a limit of time for a block, from before ``asyncio.timeout``."""

from __future__ import annotations

import asyncio
import sys
import warnings
from types import TracebackType

__all__ = ["timeout"]


class timeout:  # noqa: N801
    """``async with`` it, the block is cancelled after so many seconds, and ``asyncio.TimeoutError`` raised.

    timeout: seconds; None: no limit.
    """

    def __init__(self, timeout: float | None, *, loop: asyncio.AbstractEventLoop | None = None) -> None:
        if sys.version_info >= (3, 11):
            warnings.warn("Use asyncio.timeout() instead of asgiref.timeout.timeout.", DeprecationWarning, stacklevel=2)
        self._seconds = timeout
        self._loop = loop
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._until: float | None = None
        self._expired = False

    async def __aenter__(self) -> timeout:
        self._loop = loop = self._loop or asyncio.get_running_loop()
        if self._seconds is not None:
            self._task = asyncio.current_task()
            if self._task is None:
                raise RuntimeError("Timeout context manager should be used inside a task")
            self._until = loop.time() + self._seconds
            if self._seconds <= 0:
                loop.call_soon(self._expire)
            else:
                self._timer = loop.call_at(self._until, self._expire)
        return self

    def _expire(self) -> None:
        if self._task is not None:
            self._expired = True
            self._task.cancel()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._timer is not None:
            self._timer.cancel()
        if not self._expired or task is None:
            return
        if sys.version_info >= (3, 11):
            task.uncancel()
        if exc_type is not None and issubclass(exc_type, asyncio.CancelledError):
            raise asyncio.TimeoutError from exc_val

    @property
    def expired(self) -> bool:
        return self._expired

    @property
    def remaining(self) -> float | None:
        """Seconds; None: no limit, or over."""
        if self._until is None or self._loop is None or self._task is None:
            return None
        return max(self._until - self._loop.time(), 0.0)
