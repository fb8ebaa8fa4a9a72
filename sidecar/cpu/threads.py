"""The engine of free-threaded builds: threads of our own pool, apart from those for blocking functions."""

from __future__ import annotations

import collections
import functools
import sys

from sidecar import _core
from sidecar._pool import WorkerPool
from sidecar._support import native_lock
from sidecar.cpu.engine import Call, CpuFuture, Engine, closed, full

__all__ = ["ThreadEngine"]


class ThreadEngine(Engine):
    """Runs calls on threads, each in a copy of its caller's context."""

    kind = "threads"

    def __init__(self, workers: int, max_queue: int, name: str) -> None:
        super().__init__(workers, max_queue, name)
        # Its jobs are no calls, but turns: what was dropped here is gone at once.
        self._pool = WorkerPool(workers, f"{name[:8]}-cpu", sys.maxsize)
        self._lock = native_lock()
        self._queue: collections.deque[Call] = collections.deque()
        self._running: set[Call] = set()
        self._closed = False

    def submit(self, call: Call) -> CpuFuture:
        with self._lock:
            if self._closed:
                raise closed(self.name)
            if len(self._queue) >= self.max_queue + max(self.workers - len(self._running), 0):
                raise full(len(self._queue), f"{self.workers} threads")
            self._queue.append(call)
            call.future._drop = functools.partial(self._drop, call)
        self._pool.submit(self._turn)
        return call.future

    def _drop(self, call: Call) -> None:
        with self._lock:
            if call in self._running:
                self.orphans.add(call)
                return
            try:
                self._queue.remove(call)
            except ValueError:
                return
        self.room.made()

    def _turn(self) -> None:
        with self._lock:
            if not self._queue:
                return
            call = self._queue.popleft()
            self._running.add(call)
        self.room.made()
        try:
            if call.future.cancelled():
                self._over(call)
            else:
                self._run(call)
        finally:
            del call  # the function's frame, which its error holds, holds this one

    def _run(self, call: Call) -> None:
        try:
            result = call.context.run(call.fn, *call.args, **call.kwargs)
        except BaseException as error:
            _core.prune(error)
            self._over(call)
            call.future.fail(error)
        else:
            self._over(call)
            call.future.settle(result)
        finally:
            del call

    def _over(self, call: Call) -> None:
        with self._lock:
            self._running.discard(call)
            self.orphans.discard(call)
        self.room.made()

    def shutdown(self, timeout: float) -> list[str]:
        with self._lock:
            self._closed = True
            queued = list(self._queue)
            self._queue.clear()
        for call in queued:
            call.future.cancel()
        self._pool.stop(timeout)
        with self._lock:
            return [call.name for call in self._running]

    def stats(self) -> dict[str, int]:
        with self._lock:
            return {
                "running": len(self._running),
                "queued": len(self._queue),
                "orphans": len(self.orphans),
                "workers": self._pool.threads,
            }
