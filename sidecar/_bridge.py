"""Bridges: a loop, its pump and its worker pool, and how they start, drain and end."""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import contextvars
import os
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from sidecar import _core, _lifespan, _resource, _wrappers
from sidecar._gather import gather
from sidecar._lifespan import Hooks, Lifespan, default_bridge
from sidecar._loop import BridgeLoop, note_exit
from sidecar._pool import PatientPool, WorkerPool
from sidecar._streams import source_of
from sidecar._submit import Submitted, submit
from sidecar._support import is_patched_by_gevent, logger, start_thread
from sidecar._wind_up import wind_up
from sidecar.cpu.map import ordered
from sidecar.cpu.run import Cpu, RunCpu
from sidecar.errors import BridgeClosedError, CallTimeoutError, DeadlockError

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from contextlib import AbstractContextManager

    from typing_extensions import ParamSpec

    from sidecar._call_types import _OnWorker, _ResourceOf, _Stats, _StreamOf, _Submit
    from sidecar._wrap_context import _Source
    from sidecar._wrap_types import _ToAsync, _ToSync

    _P = ParamSpec("_P")

__all__ = ["Sidecar", "is_running", "shutdown"]

_T = TypeVar("_T")
_Item = TypeVar("_Item")

_OPEN, _CLOSING, _CLOSED = range(3)

# Not a WeakSet: another thread may make a bridge while this is gone through.
_bridges: dict[int, weakref.ref[Sidecar]] = {}


def _all_bridges() -> list[Sidecar]:
    return [bridge for bridge in (known() for known in list(_bridges.values())) if bridge is not None]



class Sidecar(_core.Bridge):
    """An isolated bridge: an event loop of its own, a pump and a worker pool.

    workers: most threads of the pool, at least 1; ``None``: as ``ThreadPoolExecutor`` has.
    name: shown in thread names, messages and ``repr``.
    daemon: what exit does with background tasks: ``True`` cancels them, ``False`` waits for them first, at
        most ``shutdown_timeout``.
    timeout: seconds for calls that name none; ``None``: no limit.
    cleanup_timeout: seconds that a call cancelled by its time-out gets to clean up.
    shutdown_timeout: seconds that exit gives the bridge.
    max_calls: how many ``run_sync`` calls and streams may be in flight at a time; ``None``: any number.
    max_queue: how many jobs may wait for a thread of the pool, and how many calls of ``run_cpu`` for a worker;
        ``None``: 65,536. What comes on top of any of these gets ``Overloaded`` at once, or, of a queue, its kind
        ``QueueFull``.
    queue_wait: seconds that a job waits for room in the pool's queue first, in turn; never beyond the request's
        deadline. In a coroutine its loop goes on meanwhile; nobody waits on a thread that runs an event loop,
        nor in ``loop.run_in_executor()``. 0: not at all.
    cpu: where ``run_cpu`` runs: ``"threads"``, ``"interpreters"`` (Python 3.12 or later), ``"processes"``,
        ``"dask://host:port"``, a ``concurrent.futures.Executor``; ``"auto"`` picks one of the first three.
    cpu_workers: how many calls of ``run_cpu`` may run at a time; ``None``: as many as this process may use
        processors.

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
        max_calls: int | None = None,
        max_queue: int | None = None,
        queue_wait: float = 0.0,
        cpu: str | concurrent.futures.Executor = "auto",
        cpu_workers: int | None = None,
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
        self._max_calls = -1 if max_calls is None else _count("max_calls", max_calls, 1)
        self._max_queue = 65536 if max_queue is None else _count("max_queue", max_queue, 0)
        self._queue_wait = _seconds("queue_wait", queue_wait)
        if self._queue_wait and not self._max_queue:
            raise ValueError("queue_wait: nobody can wait for room where max_queue is 0")
        cpu_workers = None if cpu_workers is None else _count("cpu_workers", cpu_workers, 1)
        self._cpu = Cpu(cpu, cpu_workers, self._max_queue, name, self._daemon, self._shutdown_timeout)
        # It holds the bridge, which must not hold it as well.
        self._run_cpu: Callable[[], RunCpu | None] = lambda: None
        self._hooks = Hooks()
        number = id(self)
        _bridges[number] = weakref.ref(self, lambda _: _bridges.pop(number, None))

    @property
    def name(self) -> str:
        return self._name

    def __repr__(self) -> str:
        state = ("running" if self.is_running() else "not started", "closing", "closed")[self._state]
        return f"<sidecar.Sidecar {self._name!r} {state}>"

    def _make_loop(self) -> BridgeLoop:
        """A new loop for C to publish; the pool's threads start with its first job."""
        name = f"{self._name[:8]}-work"
        if self._queue_wait:
            self._pool: WorkerPool = PatientPool(self._workers, name, self._max_queue, self._queue_wait)
        else:
            self._pool = WorkerPool(self._workers, name, self._max_queue)
        if is_patched_by_gevent():
            from sidecar import _gevent

            loop: BridgeLoop = _gevent.make_loop(self._pool)
        else:
            loop = BridgeLoop(self._pool)
        loop._lifespan = Lifespan(self)
        loop._bridge = weakref.ref(self)
        return loop

    def _started(self) -> None:
        """Called by C on the thread that has started it, before that thread's own call."""
        if self.is_running():
            self.get_loop()._lifespan.run_start_hooks(self)

    def start(self) -> Sidecar:
        """Start it now rather than with its first call. Raises ``BridgeClosedError`` after ``shutdown()``."""
        self.get_loop()
        return self

    if TYPE_CHECKING:
        stream: _StreamOf
        submit: _Submit
        resource: _ResourceOf
        on_worker_start: _OnWorker
        on_worker_stop: _OnWorker
    else:

        @_core.frameless
        def stream(
            self,
            source: Any,
            /,
            *args: Any,
            prefetch: int = 0,
            context: contextvars.Context | None = None,
            propagate: bool = False,
            **kwargs: Any,
        ) -> _core.Stream[Any]:
            """An async iterable as a sync iterator with ``send``, ``throw`` and ``close``; also a context manager.

            source: an async iterable, an awaitable of one, or a function that returns either, called with the
                arguments.
            prefetch: how many items it may read ahead; 0: the generator stands still between items.
            context: the context of all steps; by default a copy of the caller's.
            propagate: whether context variables that a step sets are set in the consumer's context, too.

            All steps run in one task. Left before its end, or dropped, the generator is closed on the loop.
            Raises ``TypeError`` for another source, ``ValueError`` for a negative ``prefetch``.
            """
            return _core.Stream(self, source_of(source, args, kwargs), prefetch, context, propagate)

        @_core.frameless
        def submit(self, work: Any, /, *args: Any, detach: bool = False, **kwargs: Any) -> Submitted:
            """Begin something and do not wait: a function on the pool, an awaitable on the loop.

            work: a function, called with the arguments on a thread of the pool; a coroutine function, or an
                awaitable, run on the loop. Each in a copy of the caller's context.
            detach: in a request, let it outlive the response: it keeps the request's id and trace. Without, it is
                cancelled when the request ends.

            Returns a ``concurrent.futures.Future``. Its ``cancel()`` cancels a coroutine, or a function that has not
            begun. An exception that nobody asks it for is logged when it goes.
            Raises ``BridgeClosedError`` after ``shutdown()``, ``TypeError`` for anything else.
            """
            return submit(self, work, args, kwargs, detach)

        @_core.frameless
        def resource(self, factory: Any = None, /, *, close: Any = None) -> Any:
            """``sidecar.resource`` that lives on this bridge."""
            return _resource.resource(factory, bridge=self, close=close)

        @_core.frameless
        def on_worker_start(self, fn: Any = None, /) -> Any:
            """``sidecar.on_worker_start`` of this bridge."""
            return _lifespan.on_worker_start(fn, bridge=self)

        @_core.frameless
        def on_worker_stop(self, fn: Any = None, /) -> Any:
            """``sidecar.on_worker_stop`` of this bridge."""
            return _lifespan.on_worker_stop(fn, bridge=self)

    @_core.frameless
    def gather(self, *aws: Any, return_exceptions: bool = False, timeout: float | None = None) -> Any:
        """Await many at once; their results in a list, in the order of the arguments.

        return_exceptions: whether exceptions are results, too; otherwise the first one is raised, after the
            others were cancelled and their cleanup waited for.
        timeout: seconds for all of them, as ``run_sync``'s.

        From sync code the list; inside a running event loop a coroutine, to be awaited.
        Raises ``TypeError`` for what is no awaitable.
        """
        return gather(self, aws, return_exceptions, timeout)

    if TYPE_CHECKING:

        @staticmethod
        def to_caller(fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Coroutine[Any, Any, _T]:
            """``sidecar.to_caller``, whose bridge is the one that runs the coroutine."""

    else:
        to_caller = staticmethod(_core.to_caller)

    @property
    def to_async(self) -> _ToAsync:
        """``sidecar.to_async`` on this bridge's pool."""
        return _wrappers.to_async_of(self)

    @property
    def to_sync(self) -> _ToSync:
        """``sidecar.to_sync`` on this bridge's loop."""
        return _wrappers.to_sync_of(self)

    @property
    def run_cpu(self) -> RunCpu:
        """``sidecar.run_cpu`` on this bridge's engine."""
        found = self._run_cpu()
        if found is None:
            found = RunCpu(self)
            self._run_cpu = weakref.ref(found)
        return found

    def map(
        self,
        fn: Callable[[_Item], _T],
        items: Iterable[_Item],
        /,
        *,
        progress: bool = False,
        in_flight: int | None = None,
    ) -> Generator[_T, None, None]:
        """``fn`` of each item by ``run_cpu``, many at a time; the results in the order of the items.

        progress: show a bar, where ``tqdm`` is installed.
        in_flight: how many items may be on their way ahead of the result that is waited for; ``None``: twice the
            number of workers. The items are taken as they are needed.

        It begins with the first result that is asked for. An error, or ``close()``, cancels the rest.
        """
        return ordered(self, fn, items, progress, in_flight)

    def wrap_context(self, source: _Source[_T], /) -> AbstractContextManager[_T]:
        """``sidecar.wrap_context`` on this bridge's loop."""
        return _wrappers.wrap_context(source, bridge=self)

    def enter_context(self, source: _Source[_T], /) -> _T:
        """``sidecar.enter_context``, until this bridge's shutdown."""
        return _wrappers.enter_context(source, bridge=self)

    def _on_pool(self, context: contextvars.Context | None, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A coroutine that runs ``fn`` on the pool: in ``context``, or in a copy of the one it is awaited in."""
        self.get_loop()
        return self._pool.call(context, fn, *args, **kwargs)

    def shutdown(self, timeout: float | None = None) -> bool:
        """End it: refuse new calls, cancel what runs, wait for the cleanup, stop the threads.

        timeout: seconds all of that may take; by default ``shutdown_timeout``. What does not end by then is
        named in the log and left behind. Returns ``True`` if nothing was. A second call does nothing.
        Raises ``DeadlockError`` inside a coroutine of this bridge.
        """
        return self._shutdown(timeout, lambda: None)

    def _shutdown(self, timeout: float | None, retire: Callable[[], object]) -> bool:
        """``retire()`` comes between the stop hooks, which may still call, and the end."""
        limit = self._shutdown_timeout if timeout is None else _seconds("timeout", timeout)
        deadline = time.monotonic() + limit
        try:
            loop = self.get_loop() if self.is_running() else None
        except BridgeClosedError:  # another thread has just begun to shut it down
            loop = None
        if loop is not None and loop._is_mine():
            raise DeadlockError(
                f"shutdown() of {self!r} inside a coroutine that runs on it: it would wait for itself "
                f"[{DeadlockError.code}]"
            )
        if loop is not None and not loop._lifespan.begin_stop():
            return True
        clean = True
        try:
            if loop is not None:
                clean = loop._lifespan.run_stop_hooks(self, limit / 2)
        finally:
            # Also where a signal handler raised in the middle of a hook: it could not be shut down any more.
            retire()
            clean = self._end(deadline) and clean
        return clean

    def _end(self, deadline: float) -> bool:
        if not self._close_begin():
            return self._cpu.stop(deadline)
        clean = self._drain(max(deadline - time.monotonic(), 0.0)) & self._stop_pool(deadline)
        clean = self._cpu.stop(deadline) and clean
        loop, free = self._close_end(max(deadline - time.monotonic(), 0.1))
        if free:
            loop._finish()
        elif not sys.is_finalizing():
            clean = False
            logger.warning("shutdown of %r: a thread is stuck in its loop, which is left behind", self)
            if isinstance(loop, BridgeLoop):
                loop._abandon()
        return clean

    close = shutdown

    def _drain(self, limit: float) -> bool:
        try:
            # Its own time-out only guards against a loop that no longer turns.
            stuck = self._run_closing(wind_up(limit, self._daemon), timeout=limit + 0.5)
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
        for text in stuck:
            logger.warning("shutdown of %r: a job in its worker pool did not end in time: %s", self, text)
        return not stuck

    def stats(self) -> _Stats:
        """What it is busy with just now. Never starts it.

        ``calls`` in progress, ``run_sync``'s and streams' steps; background ``tasks``; of the pool its ``threads``,
        how many of them are ``idle``, and how many jobs are ``queued``; and how many calls and jobs it has
        ``refused`` since its start, by ``max_calls`` and ``max_queue``.

        Of ``run_cpu``: ``cpu``, the engine, and ``cpu_reason``, why it is that one; how many calls are ``cpu_running``,
        ``cpu_queued``, or ``cpu_orphans``, which run though nobody waits for them; and ``cpu_workers`` that are alive.
        """
        cpu = self._cpu.stats()
        if not self.is_running():
            return {"calls": 0, "tasks": 0, "threads": 0, "idle": 0, "queued": 0, "refused": 0, **cpu}
        loop: Any = self.get_loop()
        pool = self._pool
        return {
            **cpu,
            "calls": loop._calls,
            "tasks": loop._tasks,
            "threads": pool.threads,
            "idle": pool.idle,
            "queued": pool.queued,
            "refused": self._refused + pool.refused,
        }

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
        start_thread(self.shutdown, f"{self._name[:8]}-close")


# By name, for a decorator would hide from type checkers how the argument is called.
for _name in ("wrap_context", "enter_context"):
    setattr(Sidecar, _name, _core.frameless(getattr(Sidecar, _name)))


def _seconds(what: str, value: float) -> float:
    seconds = float(value)
    if not 0.0 <= seconds < float("inf"):
        raise ValueError(f"{what} must be a number of seconds from 0 on, not {value!r}")
    return seconds


def _count(what: str, value: int, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= sys.maxsize:
        raise ValueError(f"{what} must be a whole number from {least} on, or None, not {value!r}")
    return value


# -- this process's own bridge --------------------------------------------------


def is_running() -> bool:
    """True while this process's own bridge runs."""
    return _core._has_default_bridge() and _core.get_bridge().is_running()


def shutdown(timeout: float | None = None) -> bool:
    """End this process's own bridge, as ``Sidecar.shutdown`` does. A later call starts a fresh one."""
    if timeout is not None:
        _seconds("timeout", timeout)  # before the bridge is taken away
    bridge = default_bridge()
    return bridge is None or bridge._shutdown(timeout, _core._take_default_bridge)


def _shutdown_all() -> None:
    _core._set_exiting()
    default = default_bridge()
    for bridge in sorted(_all_bridges(), key=lambda bridge: bridge is default):
        try:
            bridge._shutdown(None, _core._take_default_bridge if bridge is default else lambda: None)
        except Exception:
            logger.exception("shutdown of %r at exit", bridge)


atexit.register(_shutdown_all)


def _end_roots() -> None:
    """The interpreter waits for its threads before it asks ``atexit``: not for those that an idle loop keeps."""
    note_exit()
    if sys.is_finalizing():
        return  # a sub-interpreter that nobody ended: its threads can attach no more
    for bridge in _all_bridges():
        if bridge.is_running():
            try:
                loop = bridge.get_loop()
                loop.call_soon_threadsafe(loop._end_root)
            except RuntimeError:  # BridgeClosedError among them: another thread ends it
                pass


# As concurrent.futures does for its own threads.
with contextlib.suppress(RuntimeError):  # imported at exit
    threading._register_atexit(_end_roots)  # type: ignore[attr-defined]
