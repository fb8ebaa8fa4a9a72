"""``submit()``: work that nobody waits for just now, and what becomes of its errors."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import sys
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any

from sidecar import _core
from sidecar._sent import Sent
from sidecar._support import coroutine_of, logger, name_of

if TYPE_CHECKING:
    from sidecar._bridge import Sidecar
    from sidecar._loop import BridgeLoop

__all__ = ["SubmittedFuture", "submit"]


class Submitted(concurrent.futures.Future):  # type: ignore[type-arg]
    """The future of ``submit()``. An exception that nobody has asked it for is logged when it goes.

    Asked for by ``result()`` or ``exception()`` that came to it; a callback that calls neither has not asked,
    nor has who gave up before the end.
    """

    _what: object = None
    _request: str | None = None
    _asked = False
    _task: asyncio.Task[Any] | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    def cancel(self) -> bool:
        """As ``concurrent.futures``' does; a coroutine is cancelled, wherever it has come to."""
        cancelled = super().cancel()
        if cancelled and self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._cancel_task)
            except RuntimeError:
                pass  # the loop was closed, and has cancelled all that ran on it
        return cancelled

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _join(self, request: _core.Request) -> None:
        """It is cancelled with the request. In Python it is not: the request cancels what it makes of tasks."""

    def _get_snapshot(self) -> tuple[bool, bool, Any, BaseException | None]:
        """What ``asyncio.wrap_future()`` asks since 3.15, instead of ``exception()``."""
        snapshot: tuple[bool, bool, Any, BaseException | None] = super()._get_snapshot()  # type: ignore[misc]
        if snapshot[0]:
            self._asked = True
        return snapshot

    def _log(self, error: BaseException, how: str) -> None:
        what = name_of(self._what) if inspect.iscoroutine(self._what) else repr(self._what)
        request = f" of request {self._request}" if self._request else ""
        logger.error("submit: %s%s failed%s", what, request, how, exc_info=error)

    def _log_lost(self) -> None:
        if self._exception is not None:
            self._log(self._exception, ", and nobody asked for it")


class SubmittedFuture(_core.Future, Submitted):
    """It does in C what ``concurrent.futures.Future`` does, and makes its condition when somebody waits."""

    __doc__ = Submitted.__doc__


# Greenlets wait for another kind (``_gevent.py``).
future_type: type[Submitted] = SubmittedFuture


def submit(bridge: Sidecar, work: Any, args: tuple[Any, ...], kwargs: dict[str, Any], detach: bool) -> Submitted:
    """``bridge.submit(work, *args, detach=detach, **kwargs)``."""
    if detach:
        return _core._detached_context().run(submit, bridge, work, args, kwargs, False)
    if _core._is_plain(work):
        return _submit_function(bridge, work, args, kwargs)
    if isinstance(work, Awaitable) or inspect.isawaitable(work):
        if args or kwargs:
            if inspect.iscoroutine(work):
                work.close()
            raise TypeError(f"submit({work!r}) takes no arguments: they are the coroutine function's")
        return _submit_awaitable(bridge, work)
    if not callable(work):
        raise TypeError(f"submit() takes a function or an awaitable, not {work!r}")
    if _is_coroutine_function(work):
        return _submit_awaitable(bridge, work(*args, **kwargs))
    return _submit_function(bridge, work, args, kwargs)


def _submit_function(bridge: Sidecar, work: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Submitted:
    bridge.get_loop()
    future = _new_future(work)
    bridge._pool.submit_into(future, work, *args, **kwargs)
    return future


def _is_coroutine_function(work: Any) -> bool:
    if inspect.iscoroutinefunction(work):
        return True
    if sys.version_info < (3, 12) and asyncio.iscoroutinefunction(work):
        return True  # by asyncio's own mark, which inspect knows since 3.12
    return not inspect.isroutine(work) and not isinstance(work, type) and inspect.iscoroutinefunction(work.__call__)


def _new_future(what: object) -> Submitted:
    future = future_type()
    future._what = what
    request = _core.current()
    if request is not None:
        future._request = request.id
        future._join(request)
    return future


def _submit_awaitable(bridge: Sidecar, awaitable: Awaitable[Any]) -> Submitted:
    """Make a task of it on the loop, from any thread, in a copy of this context."""
    coro = coroutine_of(awaitable)
    try:
        loop = bridge.get_loop()
        future = _new_future(awaitable)
        future._loop = loop
        _Start(future, coro).send(loop)
    except BaseException:
        coro.close()
        raise
    return future


# A loop knows its tasks by weak references only.
_running: set[asyncio.Task[Any]] = set()


class _Start(Sent):
    """A coroutine on its way to its loop. One that does not get there is closed, and its future cancelled."""

    def __init__(self, future: Submitted, coro: Coroutine[Any, Any, Any]) -> None:
        self._context = _context_of_nobody()
        self._future = future
        self._coro: Coroutine[Any, Any, Any] | None = coro

    def arrive(self, loop: BridgeLoop) -> None:
        future, coro = self._future, self._coro
        assert coro is not None
        if future.cancelled():
            self.drop()
            return
        self._coro = None
        if sys.version_info >= (3, 11):
            task = loop.create_task(coro, context=self._context)
        else:
            task = self._context.run(loop.create_task, coro)
        _running.add(task)
        future._task = task
        if future.cancelled():
            task.cancel()  # meanwhile, by another thread that saw no task yet
        task.add_done_callback(lambda task: _end(future, task))

    def drop(self) -> None:
        coro, self._coro = self._coro, None
        if coro is not None:
            coro.close()
            concurrent.futures.Future.cancel(self._future)
            self._future.set_running_or_notify_cancel()


def _context_of_nobody() -> contextvars.Context:
    """A copy of this one, in which nobody waits for what runs: ``to_caller`` has no thread to run on."""
    context = contextvars.copy_context()
    lineage: contextvars.ContextVar[object] = _core._lineage
    if context.get(lineage) is not None:
        context.run(lineage.set, None)
    return context


def _end(future: Submitted, task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    future._task = None
    if task.cancelled():
        concurrent.futures.Future.cancel(future)
        future.set_running_or_notify_cancel()
        return
    error = task.exception()
    if error is not None:
        _core.prune(error)  # as where an error leaves run_sync
    if not future.set_running_or_notify_cancel():
        if error is not None:
            future._log(error, " after it was cancelled")
    elif error is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())
