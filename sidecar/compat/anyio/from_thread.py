"""``anyio.from_thread`` on a sidecar bridge: portals into asyncio's loops, for threads that run none.

``start_blocking_portal()`` has a bridge of its own, run by a thread of its own; a ``BlockingPortal`` that is entered
in a coroutine belongs to the loop that runs it, whichever it is. ``run``, ``run_sync`` and ``check_cancelled`` are
for the worker threads of anyio, and are anyio's.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from sidecar import _core
from sidecar.compat.anyio import _cooperate
from sidecar.compat.anyio._host import open_host
from sidecar.compat.anyio._work import (
    NOT_RUNNING,
    Future,
    Running,
    TaskStatus,
    Work,
    context_for_call,
    settle,
    shielded,
)
from sidecar.errors import BridgeClosedError

if TYPE_CHECKING:
    from sidecar._bridge import Sidecar

__all__ = (
    "BlockingPortal",
    "BlockingPortalProvider",
    "check_cancelled",
    "run",
    "run_sync",
    "start_blocking_portal",
)

_T = TypeVar("_T")

_ON_ITS_LOOP = "This method cannot be called from the event loop thread"


class BlockingPortal:
    """Calls from threads into the asyncio loop that it was entered on (``async with BlockingPortal() as portal:``).

    Left, it waits for what it has begun; left by an exception, it cancels that first.
    """

    _bridge: Sidecar | None = None  # its own one, where start_blocking_portal() has made it

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_open = False
        self._pid = 0
        self._running = Running()
        self._sent: set[Work] = set()  # and not begun
        self._stopped: asyncio.Future[None] | None = None

    async def __aenter__(self) -> BlockingPortal:
        if self._loop is not None:
            raise RuntimeError("this portal has been entered already")
        self._loop = _asyncio_loop()
        self._stopped = self._loop.create_future()
        self._pid = os.getpid()
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        await self.stop(cancel_remaining=kind is not None)
        await self._running.until_idle()
        return False

    async def sleep_until_stopped(self) -> None:
        """Wait for ``stop()``."""
        if self._stopped is not None and not self._stopped.done():
            await asyncio.shield(self._stopped)

    async def stop(self, cancel_remaining: bool = False) -> None:
        """Take no more calls; with ``cancel_remaining`` cancel what runs. Called on its loop."""
        self._is_open = False
        for work in list(self._sent):
            work.refuse_unless_begun()
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)
        if cancel_remaining:
            self._running.cancel_all()

    def call(self, func: Callable[..., Awaitable[_T] | _T], *args: Any) -> _T:
        """``func(*args)`` on the loop, awaited if it can be; wait for it, and return its result.

        Raises what it raises; ``concurrent.futures.CancelledError`` if it is cancelled; ``RuntimeError`` where the
        portal is not open, or on its own loop. Interrupted by a signal handler, it cancels the call.
        """
        self._check()
        bridge = self._bridge
        if bridge is None:
            future = Future()
            result: _T = _run_to_end(Work(self, future, func, args, {}, None), future, future)
            return result
        try:
            result = bridge.run_sync(self._called(func, args), context=context_for_call())
            return result
        except asyncio.CancelledError:
            raise concurrent.futures.CancelledError from None
        except BridgeClosedError:
            if self._is_open:
                raise
            raise RuntimeError(NOT_RUNNING) from None

    async def call_async(
        self, func: Callable[..., Awaitable[_T] | _T], *args: Any, abandon_on_cancel: bool = False
    ) -> _T:
        """``call()`` for a coroutine on another asyncio loop, which goes on meanwhile.

        Cancelled, it cancels the call and waits for its cleanup, whose exception it raises if there is one; with
        ``abandon_on_cancel`` it does not wait.
        """
        self._check()
        here = _asyncio_loop()
        future = Future()
        work = Work(self, future, func, args, {}, None)
        work.send()
        over = here.create_future()
        future.add_done_callback(lambda _: _wake(here, over))
        try:
            await over
        except asyncio.CancelledError:
            work.cancel_soon()
            if not abandon_on_cancel:
                await _after_cancellation(future, here)
            raise
        return future.result()  # type: ignore[no-any-return]

    def start_task_soon(
        self, func: Callable[..., Awaitable[_T] | _T], *args: Any, name: object = None
    ) -> concurrent.futures.Future[_T]:
        """Begin ``func(*args)`` as a task on the loop, and do not wait.

        name: the task's; by default the function's. Cancelling the future cancels the task.
        """
        self._check()
        future = Future()
        Work(self, future, func, args, {}, name).send()
        return future

    def start_task(
        self, func: Callable[..., Awaitable[_T]], *args: Any, name: object = None
    ) -> tuple[concurrent.futures.Future[_T], Any]:
        """Begin it, wait until it calls ``task_status.started(value)``, and return its future and the value.

        What it raises before that is raised here; ``RuntimeError`` if it ends without.
        """
        self._check()
        ready, future = Future(), Future()
        future.add_done_callback(lambda future: settle(ready, future))
        work = Work(self, future, func, args, {"task_status": TaskStatus(ready)}, name)
        return future, _run_to_end(work, ready, future)

    def wrap_async_context_manager(self, cm: AbstractAsyncContextManager[_T]) -> AbstractContextManager[_T]:
        """It as a sync context manager, entered and left on the loop, in one task."""
        return _Stay(self, cm)

    def _check(self) -> None:
        loop = self._loop
        if not self._is_open:
            raise RuntimeError(NOT_RUNNING)
        if self._pid != os.getpid():
            raise RuntimeError(f"{NOT_RUNNING} in this process, which was forked after it was opened")
        if asyncio._get_running_loop() is loop:
            raise RuntimeError(_ON_ITS_LOOP)

    async def _called(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if not self._is_open:
            raise RuntimeError(NOT_RUNNING)
        return await self._running.run(func, args, {})


class _Stay(AbstractContextManager[Any]):
    """One stay in an async context manager, in a task that waits while the ``with`` block runs."""

    def __init__(self, portal: BlockingPortal, cm: AbstractAsyncContextManager[Any]) -> None:
        self._portal = portal
        self._cm = cm
        self._future: concurrent.futures.Future[Any] | None = None
        self._leave: asyncio.Future[tuple[Any, Any, Any]] | None = None

    def __enter__(self) -> Any:
        self._future, value = self._portal.start_task(self._stay)
        return value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        future, self._future = self._future, None
        leave, self._leave = self._leave, None
        assert future is not None and leave is not None
        loop = leave.get_loop()
        if asyncio._get_running_loop() is loop:
            raise RuntimeError(_ON_ITS_LOOP)
        try:
            loop.call_soon_threadsafe(_set, leave, (kind, error, traceback))
        except RuntimeError:
            pass  # the loop is closed: the task has ended before
        return _outcome(future)  # type: ignore[no-any-return]

    async def _stay(self, *, task_status: TaskStatus) -> Any:
        manager = type(self._cm)
        value = await manager.__aenter__(self._cm)
        leave = self._leave = asyncio.get_running_loop().create_future()
        task_status.started(value)
        try:
            how = await leave
        except BaseException as error:  # the portal ends, and this with it
            await manager.__aexit__(self._cm, type(error), error, error.__traceback__)
            raise
        return await manager.__aexit__(self._cm, *how)


@contextmanager
def start_blocking_portal(
    backend: str = "asyncio", backend_options: dict[str, Any] | None = None, *, name: str | None = None
) -> Iterator[BlockingPortal]:
    """A portal to a bridge of its own, in a thread of its own, which is a daemon; both end with the ``with`` block.

    backend: ``"asyncio"``.
    backend_options: anyio's: ``debug``; a ``loop_factory``, or ``use_uvloop``, for another loop than sidecar's.
    name: the thread's.

    Left by an exception, it cancels what it has begun; else it waits for that.
    Raises ``LookupError`` for another backend.
    """
    portal = BlockingPortal()
    close = open_host(portal, backend, backend_options or {}, name)
    failed = True
    try:
        yield portal
        failed = False
    finally:
        close(failed)


@dataclass
class BlockingPortalProvider:
    """One portal for all that are in ``with provider as portal:`` at a time; the last one to leave ends it.

    backend, backend_options: as of ``start_blocking_portal()``. In the child of a fork it begins anew.
    """

    backend: str = "asyncio"
    backend_options: dict[str, Any] | None = None
    _lock: threading.Lock = field(init=False, repr=False, compare=False, default_factory=threading.Lock)
    _pid: int = field(init=False, repr=False, compare=False, default_factory=os.getpid)
    _leases: int = field(init=False, repr=False, compare=False, default=0)
    _portal: BlockingPortal | None = field(init=False, repr=False, compare=False, default=None)
    _manager: Any = field(init=False, repr=False, compare=False, default=None)

    def __enter__(self) -> BlockingPortal:
        self._see_fork()
        with self._lock:
            if self._portal is None:
                manager = start_blocking_portal(self.backend, self.backend_options)
                self._portal, self._manager = manager.__enter__(), manager
            self._leases += 1
            return self._portal

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._see_fork()
        with self._lock:
            self._leases -= 1
            if self._leases != 0:  # below: entered in the parent of this process
                return
            manager, self._portal, self._manager = self._manager, None, None
        manager.__exit__(kind, error, traceback)

    def _see_fork(self) -> None:
        if self._pid != os.getpid():
            self._lock, self._leases, self._portal, self._manager = threading.Lock(), 0, None, None
            self._pid = os.getpid()


def run(func: Callable[..., Awaitable[_T]], *args: Any, token: Any = None) -> _T:
    """anyio's: from one of its worker threads, await ``func(*args)`` on the loop the thread belongs to."""
    if token is None:
        return _cooperate.original(_cooperate.NO_WORKER).run(func, *args)  # type: ignore[no-any-return]
    return _cooperate.original(_cooperate.NO_WORKER).run(func, *args, token=token)  # type: ignore[no-any-return]


def run_sync(func: Callable[..., _T], *args: Any, token: Any = None) -> _T:
    """anyio's: from one of its worker threads, call ``func(*args)`` on the loop the thread belongs to."""
    if token is None:
        return _cooperate.original(_cooperate.NO_WORKER).run_sync(func, *args)  # type: ignore[no-any-return]
    return _cooperate.original(_cooperate.NO_WORKER).run_sync(func, *args, token=token)  # type: ignore[no-any-return]


def check_cancelled() -> None:
    """anyio's: in one of its worker threads, raise if the task that waits for it is cancelled."""
    _cooperate.original(_cooperate.NO_WORKER_TO_CHECK).check_cancelled()


def _run_to_end(
    work: Work, awaited: concurrent.futures.Future[Any], whole: concurrent.futures.Future[Any]
) -> Any:
    """Send it and wait. What a signal handler raises ends both, wherever between the two it comes."""
    try:
        work.send()
        return awaited.result()
    except BaseException:
        if not awaited.done():
            whole.cancel()
        raise


def _outcome(future: concurrent.futures.Future[Any]) -> Any:
    try:
        return future.result()
    except BaseException:
        if not future.done():
            future.cancel()
        raise


async def _after_cancellation(
    future: concurrent.futures.Future[Any], here: asyncio.AbstractEventLoop
) -> None:
    """Wait for what was cancelled, and raise what it raises, if that is something else."""
    over = here.create_future()
    future.add_done_callback(lambda _: _wake(here, over))
    await shielded(over)
    if not future.cancelled():
        error = future.exception()
        if error is not None:
            raise error


def _asyncio_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio._get_running_loop()
    if loop is None:
        raise RuntimeError(
            "no asyncio event loop is running here, which sidecar.compat.anyio is for; "
            "for Trio's use anyio.from_thread"
        )
    return loop


def _wake(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    try:
        loop.call_soon_threadsafe(_set, future, None)
    except RuntimeError:
        pass  # that loop was closed: nobody waits


def _set(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


# By name, for a decorator would hide from type checkers how the argument is called.
for _name in ("call", "start_task"):
    setattr(BlockingPortal, _name, _core.frameless(getattr(BlockingPortal, _name)))
