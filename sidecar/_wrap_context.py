"""Async context managers on a bridge: as sync ones, and entered for as long as the bridge lives."""

from __future__ import annotations

import asyncio
import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from sidecar._support import logger
from sidecar._wrap_common import (
    bridge_of,
    check_bridge,
    cut,
    is_async_context,
    refuse_coroutine,
    shown,
)
from sidecar._wrap_sync import SyncContext, made

_T = TypeVar("_T")

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from typing import Union

    from sidecar._bridge import Sidecar

    _Manager = AbstractAsyncContextManager[_T]
    _Source = Union[_Manager[_T], Callable[[], Union[_Manager[_T], Awaitable[_Manager[_T]]]]]


def wrap_context(source: _Source[_T], /, *, bridge: Sidecar | None = None) -> AbstractContextManager[_T]:
    """A sync context manager that enters and exits an async one on the bridge's loop, in one task.

    source: an async context manager; or a function or class without arguments that makes one, which is called
        on the loop (for clients that want a running loop when they are made), and awaited if need be.
    bridge: ``None`` for this process's own.
    Raises ``TypeError`` for anything else. What the entering and leaving raise, and an exception that the exit
    suppresses, are as with ``async with``.
    """
    _check(source, "wrap_context", bridge)
    return SyncContext(source, bridge)


def enter_context(source: _Source[_T], /, *, bridge: Sidecar | None = None) -> _T:
    """Enter an async context manager now, and leave it when the bridge shuts down. Returns its value.

    ``source`` and ``bridge`` are ``wrap_context``'s. What was entered last is left first, all in one task each,
    within the limit of the shutdown; what fails or takes longer is named in the log.
    """
    _check(source, "enter_context", bridge)
    chosen = bridge_of(bridge)
    entry = _Entry(source)
    try:
        value: _T = chosen.run_sync(entry.begin())
    except BaseException as error:
        cut(error)
        raise
    # Atomic: two threads may come first at once.
    chosen.__dict__.setdefault("_entered", []).append(entry)
    return value


def _check(source: Any, what: str, bridge: Any) -> None:
    check_bridge(bridge, what)
    refuse_coroutine(source, what)
    if not is_async_context(source) and not callable(source):
        raise TypeError(
            f"{what}() takes an async context manager, or a function that makes one, not {shown(source)}"
            + (": a sync one is used as it is" if hasattr(source, "__enter__") else "")
        )


class _Entry:
    """A context manager that stays entered: by a task of its own, for a scope must be left where it was entered."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._process = os.getpid()

    def __repr__(self) -> str:
        return shown(self._source)

    @property
    def inherited(self) -> bool:
        """Entered by the parent of this process, whose own it remains."""
        return self._process != os.getpid()

    async def begin(self) -> Any:
        """On the loop: its value, once it is entered."""
        loop = asyncio.get_running_loop()
        self.loop = loop
        self._left = asyncio.Event()
        entered: asyncio.Future[Any] = loop.create_future()
        self.task = loop.create_task(self._stay(entered))
        try:
            await asyncio.wait({self.task, entered}, return_when=asyncio.FIRST_COMPLETED)
            return entered.result() if entered.done() else self.task.result()
        except asyncio.CancelledError as error:
            self.task.cancel()
            await asyncio.wait({self.task})
            cut(error)
            raise
        except BaseException as error:
            cut(error)
            raise

    async def _stay(self, entered: asyncio.Future[Any]) -> None:
        async with await made(self._source) as value:
            entered.set_result(value)
            await self._left.wait()

    async def end(self, seconds: float) -> bool:
        """On the loop: leave it; whether it has been left in time."""
        self._left.set()
        done, _ = await asyncio.wait({self.task}, timeout=seconds)
        if done and not self.task.cancelled() and self.task.exception() is not None:
            logger.error(
                "leaving %r at the shutdown of its bridge failed", self, exc_info=self.task.exception()
            )
        return bool(done)


async def leave_all(bridge: Sidecar, deadline: float) -> list[str]:
    """On the bridge's loop, at its shutdown: leave what ``enter_context`` has entered, the last one first.

    deadline: on the clock of ``time.monotonic()``; each may use what is left of it but for a share for those
    after it. Returns what was not left by then, in words; their tasks are the caller's to cancel.
    """
    entries: list[_Entry] = bridge.__dict__.get("_entered", [])
    loop = asyncio.get_running_loop()
    stuck = []
    while entries:
        entry = entries.pop()
        if entry.inherited or entry.loop is not loop:
            continue
        left = max(deadline - loop.time(), 0.0)
        if not await entry.end(left / (1 + bool(entries))):
            stuck.append(f"leaving {entry!r}")
    return stuck
