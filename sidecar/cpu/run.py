"""``run_cpu``: a call's way from sync code, from a coroutine, or to a future, the same for all engines."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from sidecar import _core
from sidecar._support import logger, native_lock
from sidecar.cpu import pick
from sidecar.cpu.engine import Call, CpuFuture, Engine, RefusedByInterpreter, Room, closed
from sidecar.errors import DeadlockError, QueueFull

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    from sidecar._bridge import Sidecar
    from sidecar._call_types import _CpuStats

    _P = ParamSpec("_P")

__all__ = ["Cpu", "RunCpu", "new_call", "submit_in_turn", "wait"]

_T = TypeVar("_T")

# What counts as a short call, in seconds, its way there and back included; and how many in a row make more of them
# likely.
_SHORT = 0.000_2
_SHORT_ENOUGH = 2
# Who looks out needs one, and who is to end the call another.
_HAS_PROCESSORS = len(os.sched_getaffinity(0)) > 1


class Cpu:
    """The engine of one bridge, in this process; made with the first call, and anew in the child of a fork."""

    def __init__(
        self, cpu: pick._Cpu, workers: int | None, max_queue: int, name: str, daemon: bool, shutdown_timeout: float
    ) -> None:
        pick.check(cpu)
        self._cpu = cpu
        self._daemon = daemon
        self._shutdown_timeout = shutdown_timeout
        self._workers = workers
        self._max_queue = max_queue
        self._name = name
        self._given_in = os.getpid()
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = native_lock()
        self._engine: Engine | None = None
        self._processes: Engine | None = None
        self._closed = False
        self._live: set[CpuFuture] = set()
        self._moved: set[str] = set()
        self.short = 0  # calls in a row

    def _here(self) -> None:
        if self._pid != os.getpid():
            # What the parent had may hold a lock for good, so it is kept, and never used.
            _left_by_parents.append((self._engine, self._processes, self._live))
            self._forget()

    def engine(self) -> Engine:
        """Raises ``BridgeClosedError`` after ``stop()``, ``CpuEngineError`` where it does not work here."""
        self._here()
        engine = self._engine
        if engine is None or self._closed:
            with self._lock:
                self._check_open()
                if self._engine is None:
                    self._engine = self._make(self._cpu, self._workers)
                engine = self._engine
        return engine

    def _make(self, cpu: pick._Cpu, workers: int | None) -> Engine:
        engine = pick.make_engine(cpu, workers, self._max_queue, self._name, self._given_in)
        engine.at_exit = self._exit
        engine.refused = self._refused
        return engine

    def _check_open(self) -> None:
        if self._closed:
            raise closed(self._name)

    def _process_engine(self) -> Engine:
        """Where that goes which interpreters refuse."""
        with self._lock:
            self._check_open()
            if self._processes is None:
                assert self._engine is not None
                self._processes = self._make("processes", self._engine.workers)
            return self._processes

    def submit(self, call: Call) -> CpuFuture:
        """Begin it. Raises ``QueueFull`` at once, ``CpuPickleError`` where it cannot be pickled."""
        engine = self.engine()
        future = call.future
        if call.name in self._moved:
            engine = self._process_engine()
        try:
            engine.submit(call)
        except RefusedByInterpreter as error:
            self._move(call, error)
        self._live.add(future)
        future._live = self._live
        if future.done():  # meanwhile
            self._live.discard(future)
        return future

    def room_for(self, call: Call) -> Room:
        engine = self._process_engine() if call.name in self._moved else self.engine()
        return engine.room

    def _refused(self, call: Call, error: RefusedByInterpreter) -> None:
        """Told by the engine, on whichever thread."""
        try:
            self._move(call, error)
        except BaseException as failure:
            call.future.fail(failure)

    def _move(self, call: Call, error: RefusedByInterpreter) -> None:
        """To processes, from now on, and said once."""
        if call.name not in self._moved:
            self._moved.add(call.name)
            logger.info("run_cpu: %s runs in a process from now on: %s", call.name, error)
        self._process_engine().submit(call)

    # -- life ---------------------------------------------------------------------

    def _exit(self) -> None:
        self.stop(time.monotonic() + self._shutdown_timeout)

    def stop(self, deadline: float) -> bool:
        """Give what runs until then, and, of a bridge that is no daemon, what waits; what does not end is logged."""
        self._here()
        with self._lock:
            self._closed = True
        engines = [engine for engine in (self._engine, self._processes) if engine is not None]
        if engines and not self._daemon:
            concurrent.futures.wait(list(self._live), timeout=max(deadline - time.monotonic(), 0.0))
        stuck: list[str] = []
        for engine in engines:
            stuck += engine.shutdown(max(deadline - time.monotonic(), 0.0))
        for future in list(self._live):
            future.cancel()
        for text in stuck:
            logger.warning("shutdown of the bridge %r: %s did not end in time", self._name, text)
        return not stuck

    def stats(self) -> _CpuStats:
        self._here()
        choice = pick.pick(self._cpu)
        counts = [engine.stats() for engine in (self._engine, self._processes) if engine is not None]
        return {
            "cpu": choice.kind,
            "cpu_reason": choice.reason,
            "cpu_running": sum(count["running"] for count in counts),
            "cpu_queued": sum(count["queued"] for count in counts),
            "cpu_orphans": sum(count["orphans"] for count in counts),
            "cpu_workers": sum(count["workers"] for count in counts),
        }


_left_by_parents: list[object] = []


# -- the three forms ------------------------------------------------------------------


class RunCpu:
    """Run a function where it does not hold up this process's other code: ``cpu`` of the bridge says where.

    As it is called: from sync code. It blocks until the result is there, and lets the request's deadline, the client
    that goes, Ctrl-C and the bridge's shutdown end the wait. ``aio`` is the form for coroutines.
    """

    __slots__ = ("__weakref__", "_bridge")

    def __init__(self, bridge: Sidecar | None) -> None:
        self._bridge = bridge  # None: this process's own, whichever that is

    def _get_bridge(self) -> Sidecar:
        return _core.get_bridge() if self._bridge is None else self._bridge

    def __repr__(self) -> str:
        return "<sidecar.run_cpu>" if self._bridge is None else f"<run_cpu of {self._bridge!r}>"

    def __call__(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """The result of ``fn(*args, **kwargs)``, or its exception.

        In processes and interpreters, function, arguments and result are pickled: the function by reference, a lambda
        or a closure where ``cloudpickle`` is installed. The function runs inside the caller's request.

        Where the queue is full, it waits for room. Raises ``DeadlockError`` inside a coroutine of the bridge,
        ``CpuPickleError``, ``CpuWorkerDied`` where its process was killed, and as ``run_sync`` does.
        """
        result: _T = run(self._get_bridge(), fn, args, kwargs)
        return result

    def aio(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Coroutine[Any, Any, _T]:
        """The same for coroutines, on any loop of asyncio's. Cancelled, it drops the call, or leaves it an orphan."""
        call = new_call(fn, args, kwargs)
        return _named(call, _outcome(self._get_bridge()._cpu, call))

    def future(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> concurrent.futures.Future[_T]:
        """Begin it, and do not wait. Raises ``QueueFull`` where as many calls wait as may.

        ``cancel()`` always ends the future: a call that has not begun is dropped; one that runs goes on, and is
        counted as an orphan. It is cancelled with the request that it is made in.
        """
        return self._get_bridge()._cpu.submit(new_call(fn, args, kwargs))


def new_call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    if not callable(fn):
        raise TypeError(f"run_cpu() takes a function and its arguments, not {fn!r}")
    return Call(fn, args, kwargs, _core.current(), contextvars.copy_context())


def run(bridge: Sidecar, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    call = new_call(fn, args, kwargs)
    if asyncio._get_running_loop() is not None and bridge.is_running() and bridge.get_loop()._is_mine():
        raise DeadlockError(
            f"run_cpu({call.name}) was called inside a coroutine, on the thread that is just driving the bridge's "
            f"loop: it would hold that up. Await run_cpu.aio({call.name}) there instead [{DeadlockError.code}]"
        )
    return _drive(bridge, call, _short_outcome(bridge._cpu, call))


def wait(bridge: Sidecar, call: Call) -> Any:
    """For a call that was submitted."""
    return _drive(bridge, call, _wait(call.future))


def submit_in_turn(bridge: Sidecar, call: Call) -> None:
    """Begin it, as soon as there is room for it."""
    try:
        bridge._cpu.submit(call)
    except QueueFull:
        _drive(bridge, call, _submit_in_turn(bridge._cpu, call))


def _drive(bridge: Sidecar, call: Call, waiting: Coroutine[Any, Any, Any]) -> Any:
    return bridge.run_sync(_named(call, waiting))


def _named(call: Call, waiting: Coroutine[Any, Any, _T]) -> Coroutine[Any, Any, _T]:
    """As the messages of what ends it are to name it."""
    waiting.__qualname__ = f"run_cpu({call.name})"  # type: ignore[attr-defined]
    return waiting


# By name, for a decorator would hide from type checkers how the function is called.
for _name in ("__call__", "aio", "future"):
    setattr(RunCpu, _name, _core.frameless(getattr(RunCpu, _name)))


async def _outcome(cpu: Cpu, call: Call) -> Any:
    try:
        cpu.submit(call)
    except QueueFull:
        await _submit_in_turn(cpu, call)
    return await _wait(call.future)


async def _short_outcome(cpu: Cpu, call: Call) -> Any:
    """The same, for a thread that does nothing else meanwhile.

    Where the last calls were short it looks out for the end of this one for a moment, before it sleeps: to sleep and to
    be woken costs more than such a call. It holds up the loop meanwhile, so only where no other call is on it.
    """
    begun = time.perf_counter()
    try:
        cpu.submit(call)
    except QueueFull:
        await _submit_in_turn(cpu, call)
    future = call.future
    if cpu.short >= _SHORT_ENOUGH and _HAS_PROCESSORS and asyncio.get_running_loop()._calls <= 1:  # type: ignore[attr-defined]
        look_out = getattr(future, "_look_out", None)  # a greenlet's has none
        if look_out is not None:
            look_out()
    try:
        return await _wait(future)
    finally:
        cpu.short = cpu.short + 1 if time.perf_counter() - begun < _SHORT else 0


async def _wait(future: CpuFuture) -> Any:
    if not isinstance(future, _core.Future):
        return await asyncio.wrap_future(future)  # a greenlet's, whose state is set in its own time
    if not future.done():
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        if future.wake_by(_Wake(loop, turn)):
            try:
                await turn
            except BaseException:
                future.cancel()
                raise
    if future.cancelled():
        raise asyncio.CancelledError
    error = future.exception()
    if error is None:
        return future.result()
    try:
        raise error
    finally:
        del error  # its traceback has this frame


async def _submit_in_turn(cpu: Cpu, call: Call) -> None:
    """Wait for room. Who came first has it first, but for calls that do not wait."""
    loop = asyncio.get_running_loop()
    first = False
    while True:
        room = cpu.room_for(call)
        turn = loop.create_future()
        wake = _Wake(loop, turn)
        room.join(wake, first)
        woken = False
        try:
            try:
                cpu.submit(call)  # there may be some by now
            except QueueFull:
                await turn
                woken = True
            else:
                return
        finally:
            # Whoever leaves has the next one look: there may be room for several.
            if not woken:
                room.leave(wake)
                room.made()
        first = True


class _Wake:
    """One turn of one who waits for room."""

    def __init__(self, loop: asyncio.AbstractEventLoop, turn: asyncio.Future[None]) -> None:
        self._loop = loop
        self._turn = turn

    def __call__(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._set)
        except RuntimeError:
            pass  # its loop was closed

    def _set(self) -> None:
        if not self._turn.done():
            self._turn.set_result(None)
