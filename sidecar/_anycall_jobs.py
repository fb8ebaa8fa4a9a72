"""What ``sidecar.anycall`` runs on: sync functions on threads, and time-outs, in asyncio and in Trio.

Trio is never imported here: code that runs inside it has done so.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import math
import os
import sys
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

from sidecar import _core
from sidecar._envelope import pack, with_time_left
from sidecar._pool import WorkerPool
from sidecar._support import logger, native_lock
from sidecar._wrap_common import cut
from sidecar.cpu import far
from sidecar.cpu.executors import runs_threads
from sidecar.errors import CallTimeoutError

__all__ = [
    "CallAnyTimeout",
    "Job",
    "asyncio_limited",
    "asyncio_offload",
    "name_of",
    "run_blocking",
    "trio_limited",
    "trio_offload",
]

_NESTED_WORKERS = min(32, (os.cpu_count() or 1) + 4)

Call = Callable[[], Any]


class CallAnyTimeout(CallTimeoutError):
    """A call went on for longer than its ``timeout``.

    A ``TimeoutError``. Its message is exactly ``Function NAME timed out after Ns``, without the error's number.
    """


def name_of(func: Any) -> str:
    while isinstance(func, functools.partial):
        func = func.func
    return getattr(func, "__name__", None) or type(func).__name__


def _timeout_error(name: str, timeout: float, cause: BaseException | None = None) -> CallAnyTimeout:
    error = CallAnyTimeout(f"Function {name} timed out after {timeout}s")
    error.__cause__ = cause
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        cut(cause)
        cause = cause.__cause__ or cause.__context__
    return error


# -- async functions ----------------------------------------------------------


def run_blocking(awaitable: Awaitable[Any], name: str, timeout: float | None) -> Any:
    """Run it on the bridge from sync code."""
    try:
        return _core.run_sync(awaitable, timeout=timeout)
    except CallTimeoutError as error:
        # The call's own time-out is raised right here; a coroutine's own one has come through its frames, or
        # through ours alone, and then it is a call_any's.
        through = error.__traceback__ is None or error.__traceback__.tb_next is not None
        if timeout is None or through or type(error) is not CallTimeoutError:
            raise
        raise _timeout_error(name, timeout, error)


async def asyncio_limited(call: Callable[[], Awaitable[Any]], name: str, timeout: float) -> Any:
    """Await ``call()`` for ``timeout`` seconds; then cancel it and wait for its cleanup.

    As in ``run_sync``: what it raises after it was cancelled becomes the cause of the time-out's error.
    """
    if sys.version_info < (3, 11):
        return await _limited_in_a_task(call, name, timeout)
    try:
        async with asyncio.timeout(timeout) as scope:
            return await call()
    except Exception as error:
        if not scope.expired():
            raise
        raise _timeout_error(name, timeout, error)


async def _limited_in_a_task(call: Callable[[], Awaitable[Any]], name: str, timeout: float) -> Any:
    """Before 3.11 a task cannot tell who cancels it, so the call gets one of its own."""
    task = asyncio.ensure_future(call())
    try:
        await asyncio.wait({task}, timeout=timeout)
        if task.done():
            return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if task.cancelled():
        raise _timeout_error(name, timeout)
    error = task.exception()
    if isinstance(error, Exception):
        raise _timeout_error(name, timeout, error)
    return task.result()


async def trio_limited(call: Callable[[], Awaitable[Any]], name: str, timeout: float) -> Any:
    trio: Any = sys.modules["trio"]
    with trio.move_on_after(timeout) as scope:
        return await call()
    assert scope.cancelled_caught
    raise _timeout_error(name, timeout)


# -- sync functions: a job, and the line it stands in ---------------------------


class _Line:
    """Where the jobs of one executor wait for a thread, as far as their time-outs go."""

    def __init__(self) -> None:
        self.moved = -math.inf  # when a job last got its thread


_lines: weakref.WeakKeyDictionary[Any, _Line] = weakref.WeakKeyDictionary()
_lock = native_lock()
_current: contextvars.ContextVar[Job | None] = contextvars.ContextVar("sidecar_anycall_job", default=None)


def _line_of(place: object) -> _Line:
    with _lock:
        return _lines.setdefault(place, _Line())


class Job:
    """A sync function on its way through a thread. It keeps what came of it: no future has to carry it.

    ``wanted`` names the threads it asks for: an executor, ``None`` for the bridge's pool, or a Trio run. A job
    that was asked for by code of another job that holds one of those threads, and so may wait for this one,
    gets a thread outside of them (``lend``). Else a full pool of such waiters would never move, and their
    time-outs would strike though no function was slow.
    """

    def __init__(self, call: Call, name: str, timeout: float | None, wanted: object) -> None:
        self._call = call
        self._name = self.__name__ = name  # Trio names threads by it
        self.timeout = timeout
        self._wanted = wanted
        self._outer = _current.get()
        self._line: _Line | None = None
        self._asked = time.monotonic()
        self._begun: float | None = None
        self._over = self._bare = self._left_alone = False
        self._lent: Any = None
        self._lent_pid = 0
        self._result: Any = None
        self._error: BaseException | None = None

    def __call__(self) -> None:
        """On the thread, in a context of its own."""
        _current.set(self)
        self._begun = time.monotonic()
        if self._line is not None:
            self._line.moved = self._begun
        try:
            self._result = self._call()
        except BaseException as error:
            cut(error)
            if self._left_alone:
                logger.error("%s failed after its caller had left it", self._name, exc_info=error)
            else:
                self._error = error
        finally:
            with _lock:
                self._over = True
                self._lent = None  # a pool that is dropped ends its threads after its jobs

    def take(self) -> Any:
        """What the function returned or raised."""
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error  # its traceback has this frame

    def keep(self, value: Any) -> None:
        """What came back by the executor's own means: the result, if it ran the bare call."""
        if self._bare:
            self._result = value

    # -- where -------------------------------------------------------------------

    def lender(self, make: Callable[[], Any]) -> Any:
        """Threads lent by the job that may wait for this one; ``None`` where there is none such."""
        outer = self._outer
        while outer is not None:
            if outer._wanted is self._wanted:
                lent = outer._lend(make)
                if lent is not None:
                    return lent
            outer = outer._outer
        return None

    def _lend(self, make: Callable[[], Any]) -> Any:
        with _lock:
            if self._over:
                return None
            if self._lent is None or self._lent_pid != os.getpid():
                self._lent, self._lent_pid = make(), os.getpid()
            return self._lent

    def submit(self, executor: concurrent.futures.Executor) -> concurrent.futures.Future[Any]:
        self._line = _line_of(executor)
        if runs_threads(executor):
            return executor.submit(contextvars.copy_context().run, self)
        self._bare = True
        self._begun = self._asked  # its start shows nowhere
        request = _core.current()
        if request is None:
            return executor.submit(self._call)
        return executor.submit(far.run, with_time_left(pack(request), request), self._call, (), {})

    async def through_executor(self, executor: concurrent.futures.Executor) -> Any:
        """Its ``submit()`` may wait, which the loop must not: that is done on the bridge's pool."""
        sending = _Sending(self, executor)
        try:
            sent = await _core.get_bridge()._on_pool(None, sending)
            return await asyncio.wrap_future(sent)
        finally:
            sending.give_up()

    def through_bridge(self) -> Awaitable[Any]:
        bridge = _core.get_bridge()
        self._line = _line_of(bridge)
        on_pool: Awaitable[Any] = bridge._on_pool(None, self)
        return on_pool

    # -- its time-out ------------------------------------------------------------

    def left(self) -> float:
        """Seconds until it is late, as things stand: while it waits for a thread, any start puts that off."""
        if self.timeout is None:
            return math.inf
        since = self._begun
        if since is None:
            since = self._asked if self._line is None else max(self._asked, self._line.moved)
        return since + self.timeout - time.monotonic()

    def late(self) -> CallAnyTimeout:
        assert self.timeout is not None
        return _timeout_error(self._name, self.timeout)

    def leave_alone(self) -> None:
        """Nobody takes its outcome any more."""
        self._left_alone = True


class _Sending:
    """A job on its way to an executor whose ``submit()`` may wait. Given up, its future is cancelled when it comes."""

    def __init__(self, job: Job, executor: concurrent.futures.Executor) -> None:
        self._job = job
        self._executor = executor
        self._future: concurrent.futures.Future[Any] | None = None
        self._given_up = False

    def __call__(self) -> concurrent.futures.Future[Any]:
        self._future = future = self._job.submit(self._executor)
        if self._given_up:
            future.cancel()
        return future

    def give_up(self) -> None:
        self._given_up = True
        if self._future is not None:
            self._future.cancel()


def _may_wait(executor: concurrent.futures.Executor) -> bool:
    """Whether its ``submit()`` may take long: not in the standard library's, nor in ours."""
    known = (concurrent.futures.ThreadPoolExecutor, _core.Pool)
    return not isinstance(executor, known)


def _nested_pool() -> WorkerPool:
    return WorkerPool(_NESTED_WORKERS, "Sidecar-nest")


# -- sync functions in asyncio --------------------------------------------------


async def asyncio_offload(job: Job, executor: concurrent.futures.Executor | None) -> None:
    """Until the job is through; ``CallAnyTimeout`` when it is late. ``job.take()`` has the outcome."""
    executor = job.lender(_nested_pool) or executor
    on_thread: Awaitable[Any]
    if executor is None:
        on_thread = job.through_bridge()
    elif _may_wait(executor):
        on_thread = job.through_executor(executor)
    else:
        on_thread = asyncio.wrap_future(job.submit(executor))
    try:
        job.keep(await (on_thread if job.timeout is None else _while_in_time(job, on_thread)))
    except BaseException:
        job.leave_alone()
        raise


async def _while_in_time(job: Job, on_thread: Awaitable[Any]) -> Any:
    waiter = asyncio.ensure_future(on_thread)
    try:
        while not waiter.done():
            left = job.left()
            if left <= 0:
                raise job.late()
            await asyncio.wait({waiter}, timeout=left)
        return waiter.result()
    finally:
        if not waiter.done():
            # Withdraws a job that no thread has begun; one that runs goes on by itself.
            waiter.cancel()
            await asyncio.sleep(0)


# -- sync functions in Trio -------------------------------------------------------


async def trio_offload(job: Job, executor: concurrent.futures.Executor | None) -> None:
    """The same in Trio: on Trio's own threads, or the executor's."""
    try:
        if executor is None:
            await _on_trio_threads(job)
        else:
            await _on_executor_in_trio(job, job.lender(_nested_pool) or executor)
    except BaseException:
        job.leave_alone()
        raise


async def _on_trio_threads(job: Job) -> None:
    trio: Any = sys.modules["trio"]
    places = job.lender(lambda: trio.CapacityLimiter(_NESTED_WORKERS))
    with trio.CancelScope() as scope:
        place = _TrioPlace(places or trio.to_thread.current_default_thread_limiter(), scope, job.timeout)
        try:
            await trio.to_thread.run_sync(job, abandon_on_cancel=True, limiter=place)
        finally:
            place.leave()
    if scope.cancelled_caught:
        raise job.late()


class _TrioPlace:
    """One job's place among Trio's threads, as ``trio.to_thread`` asks its limiters for one.

    Its clock starts when it has a place; and it leaves that when it is late, not when its thread ends, so that
    threads which nobody waits for any more do not hold up the others.
    """

    def __init__(self, limiter: Any, scope: Any, timeout: float | None) -> None:
        self._limiter = limiter
        self._scope = scope
        self._timeout = math.inf if timeout is None else timeout
        self._holder: object = None

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._limiter.acquire_on_behalf_of(borrower)
        self._holder = borrower
        self._scope.deadline = sys.modules["trio"].current_time() + self._timeout

    def release_on_behalf_of(self, borrower: object) -> None:
        self.leave()

    def leave(self) -> None:
        holder, self._holder = self._holder, None
        if holder is not None:
            self._limiter.release_on_behalf_of(holder)


async def _on_executor_in_trio(job: Job, executor: concurrent.futures.Executor) -> None:
    trio: Any = sys.modules["trio"]
    token, through = trio.lowlevel.current_trio_token(), trio.Event()

    def tell(_: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(through.set)

    if _may_wait(executor):
        sending = _Sending(job, executor)
        try:
            future = await trio.to_thread.run_sync(sending, abandon_on_cancel=True)
        except BaseException:
            sending.give_up()
            raise
    else:
        future = job.submit(executor)
    future.add_done_callback(tell)
    try:
        while not through.is_set():
            left = job.left()
            if left <= 0:
                raise job.late()
            with trio.move_on_after(left):
                await through.wait()
        job.keep(future.result())
    finally:
        future.cancel()
