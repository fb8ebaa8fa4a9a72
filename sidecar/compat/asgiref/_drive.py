"""Where the coroutine of an ``async_to_sync`` runs, and the thread that waits for it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

from sidecar import _core
from sidecar._bridge import Sidecar
from sidecar._loop import Loop
from sidecar.compat.asgiref._places import (
    Crossing,
    alias,
    home,
    process,
    tell,
    waiter,
    write_back,
)
from sidecar.compat.asgiref.current_thread_executor import BridgeCaller, CurrentThreadExecutor

# What is to run: called on its loop.
Work = Callable[[], Awaitable[Any]]

# -- what is told to the loops ---------------------------------------------------------


async def amid(error: BaseException, work: Work) -> Any:
    """Run it while that error, the calling thread's, is being handled."""
    traceback = error.__traceback__
    try:
        try:
            raise error
        except BaseException:
            error.__traceback__ = traceback
            return await work()
    finally:
        del error


async def noted(crossing: Crossing, work: Work) -> Any:
    """Whoever awaits the blocking code that waits for this can cancel it."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    entry = (loop, task)
    crossing.inner.append(entry)
    try:
        return await work()
    finally:
        crossing.inner.remove(entry)


async def called(work: Work) -> Any:
    return await work()


# -- on a bridge -----------------------------------------------------------------------


def on_bridge(bridge: Sidecar, awaitable: Awaitable[Any]) -> Any:
    """This thread drives the bridge's loop, and runs thread-sensitive code in between."""
    caller = BridgeCaller(bridge, waiter.get(None))
    token = waiter.set(caller)
    try:
        return bridge.run_sync(awaitable, propagate=True)
    finally:
        caller.end()
        waiter.reset(token)


def bridge_of(loop: Any) -> Sidecar | None:
    """The bridge whose loop it is, while that runs."""
    bridge: Sidecar | None = loop._bridge()
    return bridge if bridge is not None and not loop.is_closed() else None


# -- on a loop that another thread runs --------------------------------------------------


class _Posted:
    """On its way to a loop. Where that never gets to it, whoever waits is told."""

    def __init__(self, work: Work, context: contextvars.Context, call: _Call) -> None:
        self._work: Work | None = work
        self._context = context
        self._call = call
        self._home = home()

    def __call__(self) -> None:
        work, self._work = self._work, None
        assert work is not None
        if self._call.left:
            return
        self._context.run(alias.set, (threading.get_ident(), self._home))
        task = self._context.run(asyncio.get_running_loop().create_task, self._call.run(work))
        self._call.task = task
        _running.add(task)
        task.add_done_callback(self._call.ended)

    def __del__(self) -> None:
        if self._work is not None:
            self._call.fail(RuntimeError("the event loop ended before this call began"))


class _Call:
    """What the waiting thread and the loop both know."""

    def __init__(self) -> None:
        self.result: Future[Any] = Future()
        self.changed: contextvars.Context | None = None
        self.task: asyncio.Task[Any] | None = None
        self.left = False

    async def run(self, work: Work) -> Any:
        try:
            return await work()
        except (KeyboardInterrupt, SystemExit) as error:
            # They are the caller's, and would end the loop.
            self.fail(error)
        finally:
            self.changed = contextvars.copy_context()

    def ended(self, task: asyncio.Task[Any]) -> None:
        _running.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self.fail(error)
        elif not self.result.done():
            self.result.set_result(task.result())

    def fail(self, error: BaseException) -> None:
        if not self.result.done():
            self.result.set_exception(error)

    def leave(self) -> None:
        """On the loop: nobody waits for it any more."""
        self.left = True
        if self.task is not None:
            self.task.cancel()


# A loop knows its tasks by weak references only.
_running: set[asyncio.Task[Any]] = set()


def on_loop(loop: asyncio.AbstractEventLoop, work: Work) -> Any:
    """Another thread runs it; this one runs thread-sensitive code meanwhile. Raises ``LoopGone``."""
    executor = CurrentThreadExecutor(waiter.get(None))
    call = _Call()
    context = contextvars.copy_context()
    context.run(waiter.set, executor)
    try:
        # Nobody but the loop keeps what it is told.
        if not tell(loop, _Posted(work, context, call)):
            raise LoopGone
        executor.run_until_future(call.result)
    except BaseException:
        # Of a signal's handler.
        tell(loop, call.leave)
        raise
    if call.changed is not None:
        _take_over(call.changed)
    try:
        return call.result.result()
    except BaseException as error:
        _core.prune(error)
        raise
    finally:
        del call


def _take_over(changed: contextvars.Context) -> None:
    """But for what says where it ran."""
    before = [(var, var.get(None)) for var in (waiter, alias)]
    write_back(changed)
    for var, value in before:
        if var.get(None) is not value:
            var.set(value)


class LoopGone(Exception):
    """The loop was closed before it could be told."""


def on_new_loop(work: Work) -> Any:
    """On one that nobody else has, which ends with it."""
    runs = LoopThread()
    try:
        loop = runs.loop()
        assert loop is not None
        return on_loop(loop, work)
    finally:
        runs.end()


# -- one thread for all of a block -------------------------------------------------------


class LoopThread:
    """A thread that runs an event loop, from the first call to ``end()``."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._generation = process.generation
        self._lock = threading.Lock()

    def loop(self) -> asyncio.AbstractEventLoop | None:
        """None in the child of a fork, where its thread is not."""
        if self._generation != process.generation:
            return None
        with self._lock:
            if self._loop is None:
                self._loop = loop = Loop()
                self._thread = threading.Thread(target=_run_loop, args=(loop,), name="asgiref-loop", daemon=True)
                self._thread.start()
        return self._loop

    def end(self) -> None:
        loop, running = self._loop, self._thread
        if loop is not None and running is not None and self._generation == process.generation:
            tell(loop, loop.stop)
            running.join()


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        try:
            loop.run_until_complete(_wind_up(loop))
        finally:
            asyncio.set_event_loop(None)
            loop.close()


async def _wind_up(loop: asyncio.AbstractEventLoop) -> None:
    """What is left of it, as at the end of ``asyncio.run()``."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
