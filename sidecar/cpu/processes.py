"""The engine of worker processes: the standard library's pools of one process each, and a queue in front.

One that is killed fails its own call only, and another takes its place. They are started by ``spawn``, so no socket of
a server's gets there, on a thread that stays for as long as any of them does: the kernel ends them with it.
"""

from __future__ import annotations

import collections
import concurrent.futures
import concurrent.futures.process
import functools
import multiprocessing.connection
import multiprocessing.context
import multiprocessing.process
import multiprocessing.spawn
import os
import select
import signal
import threading
import time
import weakref
from typing import Any

from sidecar import _core
from sidecar._support import native_lock, start_thread
from sidecar.cpu import far, far_process
from sidecar.cpu.engine import Call, CpuFuture, Engine, closed, full
from sidecar.cpu.pickling import dumps_call, loads_outcome
from sidecar.cpu.python import find_python
from sidecar.errors import CpuEngineError, CpuWorkerDied

__all__ = ["IDLE_SECONDS", "ProcessEngine"]

# How long a process is kept without a call, at least; and at most twice as long.
IDLE_SECONDS = 60.0
# What the end of an idle process takes at most, before it is killed.
_END_SECONDS = 2.0


class _Context(multiprocessing.context.SpawnContext):
    """``spawn``, which remembers its process."""

    def __init__(self) -> None:
        super().__init__()
        self.process: Any = None

    def Process(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]  # noqa: N802
        self.process = multiprocessing.context.SpawnProcess(*args, **kwargs)
        return self.process


class _Slot:
    """One process, and the call that it runs."""

    def __init__(self, engine: ProcessEngine) -> None:
        self.engine = engine
        self.context = _Context()
        self.pool = concurrent.futures.ProcessPoolExecutor(
            1, self.context, initializer=far_process.begin, initargs=(os.getpid(),)
        )
        self.call: Call | None = None
        self.idle_since = 0.0
        self._end = select.poll()
        self._manager: threading.Thread | None = None

    @property
    def process(self) -> Any:
        return self.context.process

    def start(self) -> concurrent.futures.Future[int]:
        ready = self.pool.submit(far_process.ping)
        self._end.register(self.process.sentinel, select.POLLIN)
        return ready

    def run(self, call: Call, packed: bytes) -> None:
        """Raises ``BrokenExecutor`` where the process has died since its last call."""
        if self._end.poll(0):
            raise concurrent.futures.BrokenExecutor
        future = self.pool.submit(far.run_packed, packed, call.envelope(), call.name)
        future.add_done_callback(functools.partial(self.engine._ended, self, call))

    def exitcode(self) -> int | None:
        process = self.process
        if process is None or process.pid is None:
            return None
        process.join(_END_SECONDS)  # its end is seen a moment before its status is there
        code: int | None = process.exitcode
        return code

    def kill(self) -> None:
        process = self.process
        if process is not None and process.pid is not None and process.exitcode is None:
            process.kill()

    def tell_end(self) -> None:
        """It has no call: its process leaves by itself. For the keeper only, as ``wait_end()`` is."""
        self._manager = getattr(self.pool, "_executor_manager_thread", None)
        self.pool.shutdown(wait=False)

    def wait_end(self) -> None:
        """Until the process and the pool's threads have ended."""
        if not self._wait(_END_SECONDS):
            self.kill()
            self._wait(_END_SECONDS)
        if self._manager is not None:
            self._manager.join(_END_SECONDS)

    def _wait(self, seconds: float) -> bool:
        process = self.process
        if process is None or process.pid is None:
            return True
        return bool(multiprocessing.connection.wait([process.sentinel], seconds))


class ProcessEngine(Engine):
    """Processes that are started with the first calls, one after another, and end when they have none for a while."""

    kind = "processes"

    def __init__(self, workers: int, max_queue: int, name: str) -> None:
        super().__init__(workers, max_queue, name)
        # Raises where there is none: at the first call, not in some thread.
        self._python = find_python(os.fsdecode(multiprocessing.spawn.get_executable() or ""))
        self._lock = native_lock()
        self._queue: collections.deque[tuple[Call, bytes]] = collections.deque()
        self._idle: list[_Slot] = []  # the one used last comes last
        self._busy: set[_Slot] = set()
        self._starting: set[_Slot] = set()
        self._lost: list[_Slot] = []  # whose processes have died
        self._alive: set[_Slot] = set()  # whose pools or processes may be there yet; the keeper stays for them
        self._wanted = 0  # slots that the keeper is to start
        self._keeper_on = False
        self._look = threading.Semaphore(0)
        self._closed = False
        self._quiet = threading.Event()  # closed, and nothing runs
        self._gone = threading.Event()  # and all processes have ended
        _engines.add(self)

    # -- calls ------------------------------------------------------------------------

    def submit(self, call: Call) -> CpuFuture:
        packed = dumps_call(call.fn, call.args, call.kwargs, call.name)
        slot = None
        with self._lock:
            if self._closed:
                raise closed(self.name)
            if self._idle and not self._queue:
                slot = self._idle.pop()
                self._busy.add(slot)
                slot.call = call
            else:
                self._enqueue(call, packed)
            call.future._drop = functools.partial(self._drop, call)
        if slot is not None:
            self._run_on(slot, call, packed)
        return call.future

    def _enqueue(self, call: Call, packed: bytes) -> None:
        """With the lock."""
        to_come = self.workers - len(self._idle) - len(self._busy)
        if len(self._queue) >= self.max_queue + to_come:
            raise full(len(self._queue), f"{self.workers} processes")
        self._queue.append((call, packed))
        on_their_way = len(self._starting) + self._wanted
        if on_their_way < min(to_come, len(self._queue)):
            self._want_slot()

    def _run_on(self, slot: _Slot, call: Call, packed: bytes) -> None:
        try:
            slot.run(call, packed)
        except concurrent.futures.BrokenExecutor:
            # It died while it had nothing to do; this call has not begun.
            self._lose(slot)
            with self._lock:
                self._queue.appendleft((call, packed))
                self._want_slot()
        except RuntimeError as error:
            # The interpreter is about to end: the standard library's pools take nothing any more.
            self._lose(slot)
            slot.kill()
            call.future.fail(error)

    def _drop(self, call: Call) -> None:
        """Nobody wants it any more."""
        with self._lock:
            for at, (queued, _) in enumerate(self._queue):
                if queued is call:
                    del self._queue[at]
                    break
            else:
                if any(slot.call is call for slot in self._busy):
                    self.orphans.add(call)
                return
        self.room.made()

    def _ended(self, slot: _Slot, call: Call, done: concurrent.futures.Future[bytes]) -> None:
        """On the thread of the slot's pool."""
        error = done.exception() if not done.cancelled() else None
        broken = error is not None or done.cancelled()
        with self._lock:
            self.orphans.discard(call)
        if not broken:
            self._next(slot)
        try:
            if isinstance(error, concurrent.futures.BrokenExecutor):
                raise self._died(slot, call)
            if broken:
                raise error or concurrent.futures.CancelledError
            result = loads_outcome(done.result(), call.name)
        except BaseException as failure:
            _core.prune(failure)
            call.future.fail(failure)
            del failure
        else:
            call.future.settle(result)
        if broken:
            self._lose(slot)
            with self._lock:
                self._want_slot()

    def _died(self, slot: _Slot, call: Call) -> CpuWorkerDied:
        pid, code = slot.process.pid, slot.exitcode()
        how = "ended" if code is None else f"ended with exit status {code}"
        if code is not None and code < 0:
            try:
                how = f"was killed by {signal.Signals(-code).name}"
            except ValueError:
                how = f"was killed by signal {-code}"
        return CpuWorkerDied(
            f"run_cpu: the worker process {pid} {how} in the middle of {call.name} [{CpuWorkerDied.code}]",
            pid=pid,
            exitcode=code,
        )

    def _next(self, slot: _Slot) -> None:
        """It has come to the end of a call, or of its start."""
        while True:
            with self._lock:
                self._starting.discard(slot)
                slot.call = None
                if not self._queue:
                    self._busy.discard(slot)
                    self._tell_quiet()
                    queued = None
                    slot.idle_since = time.monotonic()
                    self._idle.append(slot)
                    # The keeper, which is not woken for this, looks again after IDLE_SECONDS at most.
                    if self._closed:
                        self._look.release()
                else:
                    queued = self._queue.popleft()
                    self._busy.add(slot)
                    slot.call = queued[0]
            self.room.made()
            if queued is None:
                return
            call, packed = queued
            if not call.future.cancelled():
                self._run_on(slot, call, packed)
                return

    def _lose(self, slot: _Slot) -> None:
        """Its process is gone.

        This may be a callback inside of its pool, which ends by itself; but CPython's deadlocks if it is also dropped
        there, so the keeper has it until then.
        """
        with self._lock:
            slot.call = None
            self._starting.discard(slot)
            self._busy.discard(slot)
            self._lost.append(slot)
            self._look.release()
            self._tell_quiet()
        self.room.made()

    def _tell_quiet(self) -> None:
        """With the lock."""
        if self._closed and not self._busy and not self._starting:
            self._quiet.set()

    # -- the keeper: starts processes, and ends those that are idle -----------------------

    def _want_slot(self) -> None:
        """With the lock."""
        if self._closed or not self._queue:
            return
        self._wanted += 1
        if not self._keeper_on:
            self._keeper_on = True
            start_thread(self._keep, f"{self.name[:8]}-cpu")
        self._look.release()

    def _keep(self) -> None:
        # Ctrl-C is for the parent, also while a process starts.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        while True:
            self._look.acquire(timeout=self._patience())
            self._bury()
            with self._lock:
                start = self._wanted > 0 and not self._closed and len(self._alive) < self.workers
                if start:
                    self._wanted -= 1
                elif not self._alive and (self._closed or not self._queue):
                    self._wanted = 0
                    self._keeper_on = False
                    if self._closed:
                        self._gone.set()
                    return
            if start:
                self._start_slot()

    def _patience(self) -> float:
        with self._lock:
            if not self._idle:
                return IDLE_SECONDS
            return max(self._idle[0].idle_since + IDLE_SECONDS - time.monotonic(), 0.0) + 0.001

    def _bury(self) -> None:
        """Those that died, and those that were idle for long enough."""
        now = time.monotonic()
        with self._lock:
            ended = [slot for slot in self._idle if self._closed or slot.idle_since + IDLE_SECONDS <= now]
            self._idle = [slot for slot in self._idle if slot not in ended]
            ended += self._lost
            self._lost = []
        for slot in ended:
            slot.tell_end()
        for slot in ended:
            slot.wait_end()
        with self._lock:
            self._alive.difference_update(ended)

    def _start_slot(self) -> None:
        slot = None
        try:
            with _executable_lock:
                # The first semaphore starts a helper of multiprocessing's by it, too.
                before = multiprocessing.spawn.get_executable()
                multiprocessing.spawn.set_executable(self._python)
                try:
                    slot = _Slot(self)
                    with self._lock:
                        self._starting.add(slot)
                        self._alive.add(slot)
                    ready = slot.start()
                finally:
                    multiprocessing.spawn.set_executable(before)
        except BaseException as error:
            self._did_not_start(slot, error)
            return
        ready.add_done_callback(lambda done: self._started(slot, done))

    def _started(self, slot: _Slot, done: concurrent.futures.Future[int]) -> None:
        if done.cancelled() or done.exception() is not None:
            self._did_not_start(slot, None if done.cancelled() else done.exception())
        else:
            self._next(slot)

    def _did_not_start(self, slot: _Slot | None, error: BaseException | None) -> None:
        """One call fails with it; the others have another try."""
        code = slot.exitcode() if slot is not None else None
        why = f"{type(error).__name__}: {error}" if code is None else f"it ended with exit status {code}"
        if slot is not None:
            slot.kill()
            self._lose(slot)
        with self._lock:
            call = self._queue.popleft()[0] if self._queue and not self._closed else None
            self._want_slot()
        if call is not None:
            self.room.made()
            failure = CpuEngineError(
                f"run_cpu: no worker process for {call.name}: {self._python} was started, and {why}. What it says of "
                "that is in this process's standard error; a script that begins its work outside of "
                f"`if __name__ == \"__main__\":` is one cause [{CpuEngineError.code}]"
            )
            failure.__cause__ = error
            call.future.fail(failure)

    # -- life -------------------------------------------------------------------------

    def shutdown(self, timeout: float) -> list[str]:
        with self._lock:
            self._closed = True
            queued = [call for call, _ in self._queue]
            self._queue.clear()
            starting = list(self._starting)
            self._tell_quiet()
            self._look.release()
        for call in queued:
            call.future.cancel()
        for slot in starting:
            slot.kill()
        self._quiet.wait(timeout)
        with self._lock:
            stuck = [(slot, slot.call.name) for slot in self._busy if slot.call is not None]
        for slot, _ in stuck:
            slot.kill()
        with self._lock:
            self._look.release()
            if not self._keeper_on:
                self._gone.set()
        self._gone.wait(3 * _END_SECONDS)
        _engines.discard(self)
        return [name for _, name in stuck]

    def stats(self) -> dict[str, int]:
        with self._lock:
            return {
                "running": len(self._busy),
                "queued": len(self._queue),
                "orphans": len(self.orphans),
                "workers": len(self._busy) + len(self._idle),
            }


# -- exit and fork --------------------------------------------------------------------

_engines: weakref.WeakSet[ProcessEngine] = weakref.WeakSet()
# ``multiprocessing`` has one executable for all; it is ours for the moment of a start.
_executable_lock = threading.Lock()


def _end_at_exit() -> None:
    """Before the standard library waits for its pools: a call that never ends would hold up the exit for good."""
    for engine in list(_engines):
        engine.at_exit()


def _forget_in_child() -> None:
    """They are the parent's, who collects them. At its exit a child must not touch them."""
    children = getattr(multiprocessing.process, "_children", None)
    wakeups = getattr(concurrent.futures.process, "_threads_wakeups", None)
    for engine in list(_engines):
        _of_parents.append(engine)
        for slot in engine._alive:
            if isinstance(children, set):
                children.discard(slot.process)
            if wakeups is not None:
                wakeups.pop(getattr(slot.pool, "_executor_manager_thread", None), None)
    _engines.clear()


# Their locks may be held for good, and their ends would take those.
_of_parents: list[ProcessEngine] = []
# Called in the reverse order, and the standard library has registered its own just before.
getattr(threading, "_register_atexit", lambda function: None)(_end_at_exit)
os.register_at_fork(after_in_child=_forget_in_child)
