"""Bridges: a loop, its pump and its worker pool, and how they start, drain and end."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import sys
import threading
import time
import warnings
import weakref
from asyncio.base_events import _run_until_complete_cb  # type: ignore[attr-defined]
from types import TracebackType
from typing import Any

from sidecar import _core
from sidecar._loop import BridgeLoop
from sidecar._support import logger, name_of
from sidecar.errors import BridgeClosedError, CallTimeoutError, DeadlockError

__all__ = ["Sidecar", "WorkerPool", "is_running", "shutdown"]

_OPEN, _CLOSING, _CLOSED = range(3)

_bridges: weakref.WeakSet[Sidecar] = weakref.WeakSet()


class WorkerPool(_core.Pool, concurrent.futures.Executor):
    """The bridge's threads for blocking functions: a ``concurrent.futures.Executor`` in C."""


class Sidecar(_core.Bridge):
    """An isolated bridge: an event loop of its own, a pump and a worker pool.

    workers: most threads of the pool, at least 1; ``None``: as ``ThreadPoolExecutor`` has.
    name: shown in thread names, messages and ``repr``.
    daemon: what exit does with background tasks: ``True`` cancels them, ``False`` waits for them first, at
        most ``shutdown_timeout``.
    timeout: seconds for calls that name none; ``None``: no limit.
    cleanup_timeout: seconds that a call cancelled by its time-out gets to clean up.
    shutdown_timeout: seconds that exit gives the bridge.

    It starts with its first call or by ``start()``; in the child of a fork it is as new. Also a context
    manager, which shuts it down.
    """

    def __init__(
        self,
        workers: int | None = None,
        name: str = "Sidecar",
        daemon: bool = True,
        *,
        timeout: float | None = None,
        cleanup_timeout: float = 5.0,
        shutdown_timeout: float = 5.0,
    ) -> None:
        if workers is None:
            workers = min(32, (os.cpu_count() or 1) + 4)
        if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
            raise ValueError(f"workers must be a whole number from 1 on, or None, not {workers!r}")
        if not isinstance(name, str) or not name:
            raise ValueError(f"name must be a string that is not empty, not {name!r}")
        self._workers = workers
        self._name = name
        self._daemon = bool(daemon)
        self._timeout = -1.0 if timeout is None else _seconds("timeout", timeout)
        self._cleanup_timeout = _seconds("cleanup_timeout", cleanup_timeout)
        self._shutdown_timeout = _seconds("shutdown_timeout", shutdown_timeout)
        _bridges.add(self)

    @property
    def name(self) -> str:
        return self._name

    def __repr__(self) -> str:
        state = ("running" if self.is_running() else "not started", "closing", "closed")[self._state]
        return f"<sidecar.Sidecar {self._name!r} {state}>"

    def _make_loop(self) -> BridgeLoop:
        """A new loop for C to publish; the pool's threads start with its first job."""
        self._pool = WorkerPool(self._workers, f"{self._name[:8]}-work")
        return BridgeLoop(self._pool)

    def start(self) -> Sidecar:
        """Start it now rather than with its first call. Raises ``BridgeClosedError`` after ``shutdown()``."""
        self.get_loop()
        return self

    def shutdown(self, timeout: float | None = None) -> bool:
        """End it: refuse new calls, cancel what runs, wait for the cleanup, stop the threads.

        timeout: seconds all of that may take; by default ``shutdown_timeout``. What does not end by then is
        named in the log and left behind. Returns ``True`` if nothing was. A second call does nothing.
        Raises ``DeadlockError`` inside a coroutine of this bridge.
        """
        limit = self._shutdown_timeout if timeout is None else _seconds("timeout", timeout)
        try:
            mine = self.is_running() and self.get_loop()._is_mine()
        except BridgeClosedError:  # another thread has just begun to shut it down
            mine = False
        if mine:
            raise DeadlockError(
                f"shutdown() of {self!r} inside a coroutine that runs on it: it would wait for itself "
                f"[{DeadlockError.code}]"
            )
        if not self._close_begin():
            return True
        deadline = time.monotonic() + limit
        clean = self._drain(limit, deadline) & self._stop_pool(deadline)
        loop, free = self._close_end(max(deadline - time.monotonic(), 0.1))
        if free:
            loop._finish()
        elif not sys.is_finalizing():
            clean = False
            logger.warning("shutdown of %r: a thread is stuck in its loop, which is left behind", self)
        return clean

    close = shutdown

    def _drain(self, limit: float, deadline: float) -> bool:
        try:
            # Its own time-out only guards against a loop that no longer turns.
            stuck = self._run_closing(_wind_up(limit, self._daemon), timeout=limit + 0.5)
        except (CallTimeoutError, DeadlockError):
            logger.warning("shutdown of %r: its loop does not turn any more", self)
            return False
        for text in stuck:
            logger.warning("shutdown of %r: %s did not end in time", self, text)
        return not stuck

    def _stop_pool(self, deadline: float) -> bool:
        if sys.is_finalizing():
            # A sub-interpreter that nobody ended: its threads can attach no more.
            return True
        try:
            stuck = self._pool.stop(max(deadline - time.monotonic(), 0.0))
        except RuntimeError:
            # This is a job of the pool itself.
            self._pool.shutdown(wait=False, cancel_futures=True)
            return True
        if stuck:
            jobs = "a job" if stuck == 1 else f"{stuck} jobs"
            logger.warning("shutdown of %r: %s in its worker pool did not end in time", self, jobs)
        return not stuck

    def __enter__(self) -> Sidecar:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def __del__(self) -> None:
        if not self.is_running():
            return
        warnings.warn(f"{self!r} was dropped without shutdown()", ResourceWarning, stacklevel=2, source=self)
        # Not here: this may be the garbage collector, on any thread, inside anything.
        threading.Thread(target=self.shutdown, name=f"{self._name[:8]}-close", daemon=True).start()


def _seconds(what: str, value: float) -> float:
    seconds = float(value)
    if not 0.0 <= seconds < float("inf"):
        raise ValueError(f"{what} must be a number of seconds from 0 on, not {value!r}")
    return seconds


async def _wind_up(limit: float, daemon: bool) -> list[str]:
    """On the loop: end everything on it. What would not end, in words."""
    loop: Any = asyncio.get_running_loop()
    deadline = loop.time() + limit
    me = asyncio.current_task()

    def left(share: float = 1.0) -> float:
        seconds: float = (deadline - loop.time()) * share
        return max(seconds, 0.01)

    def others() -> set[asyncio.Task[Any]]:
        return asyncio.all_tasks(loop) - {me, loop._root}

    if not daemon and others():
        await asyncio.wait(others(), timeout=left(0.8))
    loop._refuse_calls()
    patience = loop.time() + left(0.9)
    # A call that was taken before may not have become a task yet.
    while (others() or loop._calls > 1) and loop.time() < patience:
        for task in others():
            task.cancel()
        await asyncio.wait(others() or {asyncio.ensure_future(asyncio.sleep(0.001))}, timeout=patience - loop.time())
    stuck = [name_of(task.get_coro()) for task in others()]
    loop._root.remove_done_callback(_run_until_complete_cb)
    loop._root.cancel()
    await asyncio.wait({loop._root})
    try:
        await asyncio.wait_for(loop.shutdown_asyncgens(), left())
        await asyncio.wait_for(_end_executor(loop), left())
    except asyncio.TimeoutError:
        stuck.append("an async generator or a job in the worker pool")
    return stuck


async def _end_executor(loop: asyncio.AbstractEventLoop) -> None:
    executor = loop._default_executor  # type: ignore[attr-defined]
    if isinstance(executor, WorkerPool):
        executor.shutdown(wait=False, cancel_futures=True)
    else:
        await loop.shutdown_default_executor()


# -- this process's own bridge --------------------------------------------------


def is_running() -> bool:
    """True while this process's own bridge runs."""
    return _core._has_default_bridge() and _core.get_bridge().is_running()


def shutdown(timeout: float | None = None) -> bool:
    """End this process's own bridge, as ``Sidecar.shutdown`` does. A later call starts a fresh one."""
    if timeout is not None:
        _seconds("timeout", timeout)  # before the bridge is taken away
    bridge = _core._take_default_bridge()
    return bridge is None or bridge.shutdown(timeout)


def _shutdown_all() -> None:
    _core._set_exiting()
    bridges = list(_bridges)
    _core._take_default_bridge()
    for bridge in bridges:
        try:
            bridge.shutdown()
        except Exception:
            logger.exception("shutdown of %r at exit", bridge)


atexit.register(_shutdown_all)
