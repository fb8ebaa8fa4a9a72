"""Where code runs: which loop a thread does its blocking work for, and whose data it may see."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable, Generator
from threading import get_ident
from typing import Any

from sidecar._core import LoopCore
from sidecar._support import write_back as write_back


class _Process:
    """How often this process is a child of a fork of its first one: what a parent had is of no use."""

    generation = 0

    def forked(self) -> None:
        self.generation += 1


process = _Process()
os.register_at_fork(after_in_child=process.forked)

running_loop: Callable[[], asyncio.AbstractEventLoop | None] = asyncio._get_running_loop

# What the thread does for a coroutine: ``crossing``, a Crossing.
thread = threading.local()

# The call of async_to_sync() whose thread waits for this context's code: a CurrentThreadExecutor. None: there is
# one, but it is not to be used.
waiter: contextvars.ContextVar[Any] = contextvars.ContextVar("sidecar_compat_asgiref_waiter")

# A coroutine that another thread waits for works with that thread's data: the thread it runs on, and that one.
alias: contextvars.ContextVar[tuple[int, object] | None] = contextvars.ContextVar(
    "sidecar_compat_asgiref_alias", default=None
)


def is_bridge(loop: object) -> bool:
    return isinstance(loop, LoopCore) and loop._bridged


def home() -> object:
    """Whose data this is: a thread's. None on a bridge's loop, whose coroutines move from thread to thread."""
    loop = running_loop()
    if loop is not None:
        return home_on(loop)
    crossing = crossing_here()
    return get_ident() if crossing is None else crossing.home


def home_on(loop: asyncio.AbstractEventLoop) -> object:
    """The same for this loop's code, in it."""
    if isinstance(loop, LoopCore) and loop._bridged:
        return None
    here = get_ident()
    other = alias.get()
    return other[1] if other is not None and other[0] == here else here


class Crossing:
    """One blocking call of a coroutine, on its way to a thread and back. It is what asgiref calls a task context.

    Awaited, it is handed to ``put``, a queue of functions, and wakes its task where asyncio's own future would take
    another turn of the loop. ``run`` is for whoever else runs it.

    handler: called on the thread with the loop, ``exc_info``, this, ``func`` and ``child``; None: no need to.
    inner: the tasks that the blocking code waits for by async_to_sync() just now, each with its loop.
    began, over: whether the function has been called, and has returned. cancelled: nobody waits for it.
    """

    _asyncio_future_blocking = False
    began = over = cancelled = False
    put: Callable[[Callable[[], None], Callable[[BaseException], None]], None]
    _result: Any = None
    _error: BaseException | None = None
    _wakes: asyncio.Future[None] | None = None
    _callback: Callable[[Any], object]
    _context: contextvars.Context | None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handler: Callable[..., Any] | None,
        exc_info: Any,
        func: Callable[..., Any],
        child: Callable[[], Any],
    ) -> None:
        self.loop = loop
        self.home = home_on(loop)
        self.handler = handler
        self.exc_info = exc_info
        self.func = func
        self.child = child
        self.generation = process.generation
        self.inner: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    # -- on the thread --

    def run(self) -> Any:
        self.began = True
        before = getattr(thread, "crossing", None)
        thread.crossing = self
        try:
            if self.handler is None:
                result = self._result = self.func(self.child)
            else:
                result = self._result = self.handler(self.loop, self.exc_info, self, self.func, self.child)
        except BaseException as error:
            self._error = error
            raise
        finally:
            thread.crossing = before
            self.over = True
            if self._wakes is not None:
                tell(self.loop, _wake, self._wakes)
        return result

    def _settle(self) -> None:
        if self.cancelled:
            return
        self.began = True
        try:
            if self.handler is None:
                before = getattr(thread, "crossing", None)
                thread.crossing = self
                try:
                    self._result = self.func(self.child)
                finally:
                    thread.crossing = before
            else:
                self._result = self.handler(self.loop, self.exc_info, self, self.func, self.child)
        except BaseException as error:
            self._error = error
        self.over = True
        try:
            self.loop.call_soon_threadsafe(self._deliver, context=self._context)
        except RuntimeError:
            pass  # the loop was closed

    def _fail(self, error: BaseException) -> None:
        """It is not run."""
        self._error = error
        self.over = True
        try:
            self.loop.call_soon_threadsafe(self._deliver, context=self._context)
        except RuntimeError:
            pass  # the loop was closed

    # -- on the loop: what a task wants of a future --

    def __await__(self) -> Generator[Any, None, Any]:
        self._asyncio_future_blocking = True
        yield self
        return self.result()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self.loop

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: contextvars.Context | None = None
    ) -> None:
        self._callback = callback
        self._context = context
        self.over = False
        self._error = None
        try:
            # Not before the callback is known: the thread may be done at once.
            self.put(self._settle, self._fail)
        except BaseException as error:
            self._fail(error)

    def _deliver(self) -> None:
        if not self.cancelled:
            self._callback(self)

    def result(self) -> Any:
        if self.cancelled:
            raise asyncio.CancelledError
        if self._error is not None:
            raise self._error
        return self._result

    def cancel(self, msg: object = None) -> bool:
        """What its blocking code waits for is told, and it has the last word; code by itself cannot be stopped."""
        if self.over or self.cancelled:
            return False
        if self.inner:
            self._cancel_inner()
        else:
            self.cancelled = True
            self.loop.call_soon(self._callback, self, context=self._context)
        return True

    def _cancel_inner(self) -> None:
        for loop, task in list(self.inner):
            if loop is self.loop:
                task.cancel()
            else:
                tell(loop, task.cancel)

    async def outlast(self) -> Any:
        """Where ``run`` was handed to others and that wait was cancelled: the same."""
        while True:
            self._cancel_inner()
            self._wakes = wakes = self.loop.create_future()
            if not self.over:  # looked at once the future is there: whoever was done before has woken nobody
                try:
                    await wakes
                except asyncio.CancelledError:
                    if not self.inner:
                        raise
                    continue
            return self.result()

    def forget(self) -> None:
        """Its error's traceback leads to itself."""
        self._error = self._result = self.exc_info = None


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: Any) -> bool:
    """Whether the loop can still be told."""
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        return False
    return True


def crossing_here() -> Crossing | None:
    """The call that this thread is in the middle of; not one that belongs to a parent process."""
    crossing: Crossing | None = getattr(thread, "crossing", None)
    return crossing if crossing is not None and crossing.generation == process.generation else None
