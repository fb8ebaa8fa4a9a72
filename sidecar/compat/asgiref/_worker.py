"""One thread that runs what it is given, in turn: thread-sensitive code's."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from sidecar.compat.asgiref._places import Crossing, process

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    _P = ParamSpec("_P")

_T = TypeVar("_T")
_Job = Callable[[], None]

# At the interpreter's exit, as long as a bridge's shutdown has.
EXIT_SECONDS = 5.0


class _Thread:
    """A thread and its queue: it knows nothing of the executor, so that one that is dropped ends it."""

    def __init__(self, name: str) -> None:
        self.queue: SimpleQueue[_Job | None] = SimpleQueue()
        self.generation = process.generation
        self.thread = threading.Thread(target=_work, args=(self.queue,), name=name, daemon=True)
        self.thread.start()


def _work(queue: SimpleQueue[_Job | None]) -> None:
    generation = process.generation
    while True:
        job = queue.get()
        if job is None:
            return
        job()
        del job
        if process.generation != generation:
            return  # the job has forked: this is the child's main thread, and the queue its parent's


_all: weakref.WeakSet[SingleThread] = weakref.WeakSet()


class SingleThread(Executor):
    """An executor of one thread, which starts with the first job and is another one in the child of a fork."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._present: _Thread | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._lock_generation = process.generation
        _all.add(self)

    def _put(self, job: _Job, fail: Any = None) -> None:
        if self._lock_generation != process.generation:
            # A thread of the parent's may have held it when the process forked.
            self._lock, self._lock_generation = threading.Lock(), process.generation
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            present = self._present
            if present is None or present.generation != process.generation:
                present = self._present = _Thread(self._name)
            present.queue.put(job)

    def carry(self, crossing: Crossing) -> Crossing:
        """To be awaited, on its loop."""
        crossing.put = self._put
        return crossing

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        future: Future[_T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._put(job)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._end()
        present = self._present
        if wait and present is not None and present.thread is not threading.current_thread():
            present.thread.join()

    def _end(self) -> None:
        """What it was given before is still run."""
        self._closed = True
        present = self._present
        if present is not None and present.generation == process.generation:
            present.queue.put(None)

    def __del__(self) -> None:
        self._end()


def _finish() -> None:
    until = time.monotonic() + EXIT_SECONDS
    ending = list(_all)
    for each in ending:
        each._end()
    for each in ending:
        present = each._present
        if present is not None and present.generation == process.generation:
            present.thread.join(max(until - time.monotonic(), 0.0))


atexit.register(_finish)
