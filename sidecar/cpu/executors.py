"""The engine of any ``concurrent.futures.Executor``: somebody else's workers, on this machine or on others."""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import importlib
import os
import pickle
import threading
import time
from typing import Any

from sidecar import _core
from sidecar._support import logger, native_lock, start_thread
from sidecar.cpu import far
from sidecar.cpu.engine import Call, CpuFuture, Engine, closed, full
from sidecar.cpu.pick import count_cpus
from sidecar.cpu.pickling import dumps_call, loads_outcome
from sidecar.errors import CpuEngineError, CpuWorkerDied

__all__ = ["DaskEngine", "ExecutorEngine", "refuse_after_fork", "runs_threads"]

# How long the thread that submits stays without anything to do.
_IDLE_SECONDS = 10.0


def runs_threads(executor: concurrent.futures.Executor) -> bool:
    """Whether its calls run in this very interpreter, and need not be pickled."""
    if not isinstance(executor, (concurrent.futures.ThreadPoolExecutor, _core.Pool)):
        return False
    # Since 3.14 there are thread pools whose threads are other interpreters: nothing but bare calls gets there.
    foreign = getattr(concurrent.futures, "InterpreterPoolExecutor", None)
    return foreign is None or not isinstance(executor, foreign)


def refuse_after_fork(executor: concurrent.futures.Executor, pid: int) -> None:
    """Raises ``CpuEngineError`` for one whose threads, processes or connections stayed with the parent ``pid``."""
    if pid == os.getpid() or isinstance(executor, _core.Pool) or _is_unused(executor):
        return
    raise CpuEngineError(
        f"{executor!r} was made in process {pid}, before this one was forked from it: its threads and connections "
        f"stayed there. Make the executor, and the bridge that has it, in each worker [{CpuEngineError.code}]"
    )


def _is_unused(executor: concurrent.futures.Executor) -> bool:
    """Of the standard library's: nothing was started yet, so they are as good in a child."""
    started = getattr(executor, "_threads", None), getattr(executor, "_processes", None)
    known = isinstance(executor, (concurrent.futures.ThreadPoolExecutor, concurrent.futures.ProcessPoolExecutor))
    return known and not any(started)


class ExecutorEngine(Engine):
    """Hands calls on to an executor, so many at a time. It is its owner's to shut down.

    Its ``submit()`` may block, so it is called on a thread of its own.
    """

    kind = "executor"

    def __init__(
        self, executor: concurrent.futures.Executor | None, workers: int | None, max_queue: int, name: str, pid: int
    ) -> None:
        if executor is not None:
            refuse_after_fork(executor, pid)
        super().__init__(workers or _guess_workers(executor), max_queue, name)
        self._executor = executor
        self._lock = native_lock()
        self._queue: collections.deque[tuple[Call, bytes | None]] = collections.deque()
        self._there: dict[Call, concurrent.futures.Future[Any] | None] = {}
        self._look = threading.Semaphore(0)
        self._sender_on = False
        self._closed = False
        self._quiet = threading.Event()

    @property
    def in_flight(self) -> int:
        """Two for each worker: one that runs, and one that it finds when it is through with that.

        Not with the standard library's, which are near enough, and cannot take back what they have taken over.
        """
        near = concurrent.futures.ThreadPoolExecutor, concurrent.futures.ProcessPoolExecutor
        return self.workers if isinstance(self._executor, near) else 2 * self.workers

    def submit(self, call: Call) -> CpuFuture:
        executor = self._executor
        packed = None
        if executor is None or not runs_threads(executor):
            local = isinstance(executor, concurrent.futures.ProcessPoolExecutor)
            packed = dumps_call(call.fn, call.args, call.kwargs, call.name, main_by_value=not local)
        with self._lock:
            if self._closed:
                raise closed(self.name)
            if len(self._queue) >= self.max_queue + max(self.in_flight - len(self._there), 0):
                raise full(len(self._queue), "the executor")
            self._queue.append((call, packed))
            call.future._drop = functools.partial(self._drop, call)
            if not self._sender_on:
                self._sender_on = True
                start_thread(self._send_all, f"{self.name[:8]}-cpu")
            self._look.release()
        return call.future

    # -- the thread that submits --------------------------------------------------------

    def _send_all(self) -> None:
        while True:
            told = self._look.acquire(timeout=_IDLE_SECONDS)
            with self._lock:
                if not self._queue or self._closed:
                    if self._closed or not told:
                        self._sender_on = False
                        return
                    continue
                if len(self._there) >= self.in_flight:
                    continue  # whatever comes back looks again
                call, packed = self._queue.popleft()
                self._there[call] = None
            self.room.made()
            if call.future.cancelled():
                self._forget(call)
            else:
                self._send(call, packed)
            del call, packed

    def _send(self, call: Call, packed: bytes | None) -> None:
        try:
            executor = self._connect()
            if packed is None:
                sent = executor.submit(call.context.run, functools.partial(call.fn, *call.args, **call.kwargs))
            else:
                # A worker that cannot load what it is to call may say so to nobody (Dask's drops its connection): the
                # call is made by loading the argument. What comes after a pickle is ignored: no two are equal, for to
                # Dask equal calls are one, unless it is told that they are not.
                parcel = pickle.dumps(_Parcel(packed, call.envelope(), call.name)) + os.urandom(16)
                sent = executor.submit(pickle.loads, parcel)
        except BaseException as error:
            self._forget(call)
            call.future.fail(error)
            self._fail_queued(error)
            return
        with self._lock:
            self._there[call] = sent
        # The executor's future keeps its callbacks, and without a GIL it is freed no sooner than this thread wakes.
        sent.add_done_callback(functools.partial(self._came_back, [call], packed is not None))
        if call.future.cancelled():
            self._drop(call)  # meanwhile

    def _connect(self) -> concurrent.futures.Executor:
        assert self._executor is not None
        return self._executor

    def _fail_queued(self, error: BaseException) -> None:
        """Nothing could be sent: not by this executor, as far as it knows."""

    def _came_back(self, held: list[Call], packed: bool, done: concurrent.futures.Future[Any]) -> None:
        call = held.pop()
        self._forget(call)
        if done.cancelled():
            self._dropped(call)
            return
        try:
            error = done.exception()
            if error is not None:
                raise self._judge(call, error) if packed else error
            result = loads_outcome(done.result(), call.name) if packed else done.result()
        except BaseException as failure:
            _core.prune(failure)
            call.future.fail(failure)
            del failure
        else:
            call.future.settle(result)

    def _dropped(self, call: Call) -> None:
        """Cancelled over there: for us, or by somebody else."""
        call.future.cancel()

    def _judge(self, call: Call, error: BaseException) -> BaseException:
        """The function's own errors come back packed: this is the executor's."""
        judged: BaseException = error
        if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "sidecar":
            judged = CpuEngineError(
                f"run_cpu: Sidecar is not installed where {call.name} was to run: {error} [{CpuEngineError.code}]"
            )
        elif isinstance(error, concurrent.futures.BrokenExecutor):
            judged = CpuWorkerDied(f"run_cpu: the executor broke in the middle of {call.name} [{CpuWorkerDied.code}]")
        elif type(error).__name__ == "KilledWorker":  # Dask's
            judged = CpuWorkerDied(f"run_cpu: {call.name} killed its workers: {error} [{CpuWorkerDied.code}]")
        if judged is not error:
            judged.__cause__ = error
        return judged

    def _forget(self, call: Call) -> None:
        with self._lock:
            self._there.pop(call, None)
            self.orphans.discard(call)
            self._look.release()
            if self._closed and not self._there:
                self._quiet.set()
        self.room.made()

    def _drop(self, call: Call) -> None:
        """Nobody wants it any more."""
        sent = None
        with self._lock:
            for at, (queued, _) in enumerate(self._queue):
                if queued is call:
                    del self._queue[at]
                    break
            else:
                sent = self._there.get(call)
                if sent is None:
                    return  # it has ended, or is just being sent
        if sent is None:
            self.room.made()
        elif not sent.cancel():
            with self._lock:
                if call in self._there:
                    self.orphans.add(call)

    # -- life -------------------------------------------------------------------------

    def shutdown(self, timeout: float) -> list[str]:
        deadline = time.monotonic() + timeout
        with self._lock:
            self._closed = True
            queued = [call for call, _ in self._queue]
            self._queue.clear()
            if not self._there:
                self._quiet.set()
            self._look.release()
        for call in queued:
            call.future.cancel()
        self._quiet.wait(timeout)
        with self._lock:
            stuck = [call.name for call in self._there]
        self._disconnect(max(deadline - time.monotonic(), 0.0))
        return stuck

    def _disconnect(self, timeout: float) -> None:
        """It is not ours."""

    def stats(self) -> dict[str, int]:
        with self._lock:
            return {
                "running": len(self._there),
                "queued": len(self._queue),
                "orphans": len(self.orphans),
                "workers": self.workers,
            }


class _Parcel:
    """``pickle.loads()`` of it is the call."""

    def __init__(self, *call: Any) -> None:
        self._call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return far.run_packed, self._call


def _guess_workers(executor: concurrent.futures.Executor | None) -> int:
    told = getattr(executor, "_max_workers", None)
    return told if isinstance(told, int) and told >= 1 else count_cpus()


class DaskEngine(ExecutorEngine):
    """A cluster of Dask's: it connects with its first call, and leaves when it is shut down."""

    kind = "dask"

    def __init__(self, address: str, workers: int | None, max_queue: int, name: str) -> None:
        super().__init__(None, workers, max_queue, name, os.getpid())
        self._distributed = _import_distributed()
        self._address = address
        self._given = workers
        self._client: Any = None

    def _connect(self) -> concurrent.futures.Executor:
        if self._executor is not None and self._client.status != "running":
            if self._client.status != "closed":
                # What is sent meanwhile may never come back.
                raise CpuEngineError(
                    f"run_cpu: the connection to Dask's scheduler at {self._address} is lost; it is being tried again "
                    f"[{CpuEngineError.code}]"
                )
            self._executor = None  # Dask has given it up
        if self._executor is None:
            try:
                # No more than this engine uses it: `dask.compute()` elsewhere is not sent there.
                self._client = self._distributed.Client(f"tcp://{self._address}", set_as_default=False)
            except (OSError, TimeoutError) as error:
                raise CpuEngineError(
                    f"run_cpu: no scheduler of Dask's answers at {self._address}: {error} [{CpuEngineError.code}]"
                ) from error
            if self._given is None:
                self.workers = max(sum(self._client.nthreads().values()), 1)
            # Each call by itself: the same function with the same arguments is called twice.
            self._executor = self._client.get_executor(pure=False)
        if self._closed:  # meanwhile
            self._disconnect(1.0)
            raise closed(self.name)
        return self._executor

    def _fail_queued(self, error: BaseException) -> None:
        """Each would wait as long for the connection, one after the other."""
        if self._executor is not None or not isinstance(error, CpuEngineError):
            return
        with self._lock:
            queued = [call for call, _ in self._queue]
            self._queue.clear()
        for call in queued:
            call.future.fail(CpuEngineError(*error.args))
            self.room.made()

    def _dropped(self, call: Call) -> None:
        """Where the scheduler goes, Dask cancels what it had."""
        if self._closed or call.future.done():
            super()._dropped(call)
        else:
            call.future.fail(
                CpuWorkerDied(
                    f"run_cpu: the scheduler of Dask's went in the middle of {call.name} [{CpuWorkerDied.code}]"
                )
            )

    def _disconnect(self, timeout: float) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        try:
            client.close(timeout=max(timeout, 1.0))
        except (OSError, TimeoutError) as error:  # it is given up either way
            logger.warning("the connection to Dask's scheduler at %s did not end in time: %s", self._address, error)


def _import_distributed() -> Any:
    try:
        return importlib.import_module("distributed")  # by name: it may be absent where types are checked
    except ImportError as error:
        raise CpuEngineError(
            f"cpu='dask://...' needs Dask here: pip install distributed ({error}) [{CpuEngineError.code}]"
        ) from error
