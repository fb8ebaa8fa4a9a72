"""The thread that waits in ``async_to_sync`` as an executor: thread-sensitive code of what it waits for runs there."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from sidecar import _core
from sidecar.compat.asgiref._places import Crossing, running_loop, tell
from sidecar.errors import NoCallerError

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    from sidecar._bridge import Sidecar

    _P = ParamSpec("_P")

__all__ = ["CurrentThreadExecutor"]

_T = TypeVar("_T")

# Seconds: how soon a wait in the main thread sees any signal.
SLICE = 0.1


def _nobody() -> NoCallerError:
    return NoCallerError(f"the thread that waited for this call waits no more [{NoCallerError.code}]")


class CurrentThreadExecutor(Executor):
    """Runs what it is given on the thread that made it, while that thread is in ``run_until_future()``.

    old_executor: who has what comes after that.
    """

    def __init__(self, old_executor: CurrentThreadExecutor | None) -> None:
        self.outer = old_executor
        # Where the call was made: by it the outer one's thread is found.
        self.outer_lineage = _core._lineage.get(None)
        self._thread = threading.get_ident()
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._lock = threading.Lock()
        self._over = False

    @property
    def root(self) -> CurrentThreadExecutor:
        """The outermost."""
        found = self
        while found.outer is not None:
            found = found.outer
        return found

    def run_until_future(self, future: Future[Any]) -> None:
        """Run what comes until the future is done. Raises ``RuntimeError`` on another thread."""
        if threading.get_ident() != self._thread:
            raise RuntimeError("You cannot run CurrentThreadExecutor from a different thread")
        queue = self._queue
        future.add_done_callback(lambda _: queue.put(None))
        # A signal that comes right before the main thread waits would be seen only after it.
        slice_ = SLICE if threading.current_thread() is threading.main_thread() else None
        try:
            while True:
                try:
                    job = queue.get(timeout=slice_)
                except Empty:
                    continue
                if job is None:
                    return
                job[0]()
                del job
        finally:
            with self._lock:
                self._over = True
            while not queue.empty():
                left = queue.get()
                if left is not None:
                    left[1](_nobody())

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """As an executor's. Raises ``RuntimeError`` on that very thread, and once nobody waits any more."""
        if self._is_here():
            raise RuntimeError("You cannot submit onto CurrentThreadExecutor from its own thread")
        future: Future[_T] = Future()
        job = _Submitted(future, lambda: fn(*args, **kwargs))
        if self._send(job.run, job.fail):
            return future
        if self.outer is not None:
            return self.outer.submit(fn, *args, **kwargs)
        raise RuntimeError("CurrentThreadExecutor already quit or is broken")

    def _is_here(self) -> bool:
        return threading.get_ident() == self._thread

    def _send(self, run: Callable[[], None], fail: Callable[[BaseException], None]) -> bool:
        """``fail`` is called instead where nobody waits any more when its turn comes."""
        with self._lock:
            if not self._over:
                self._queue.put((run, fail))
                return True
        return False

    async def carry(self, crossing: Crossing, lineage: object) -> Any:
        """Run it there, awaited on its loop. Raises ``NoCallerError`` where that thread waits no more."""
        crossing.put = self._put
        return await crossing

    def _put(self, run: Callable[[], None], fail: Callable[[BaseException], None]) -> None:
        if not self._send(run, fail):
            fail(_nobody())


class _Submitted:
    """A function for a future of ``concurrent.futures``."""

    def __init__(self, future: Future[Any], fn: Callable[[], Any]) -> None:
        self._future = future
        self._fn = fn

    def run(self) -> None:
        if not self._future.set_running_or_notify_cancel():
            return
        try:
            result = self._fn()
        except BaseException as error:
            self._future.set_exception(error)
        else:
            self._future.set_result(result)

    def fail(self, error: BaseException) -> None:
        if self._future.set_running_or_notify_cancel():
            self._future.set_exception(error)


class BridgeCaller(CurrentThreadExecutor):
    """The thread that waits in a bridge's ``run_sync()``; it drives the loop meanwhile."""

    def __init__(self, bridge: Sidecar, old_executor: CurrentThreadExecutor | None) -> None:
        self.outer = old_executor
        self.outer_lineage = _core._lineage.get(None)
        self._bridge = bridge
        self._over = False
        self._thread = threading.get_ident()

    def end(self) -> None:
        self._over = True

    def run_until_future(self, future: Future[Any]) -> None:
        raise RuntimeError("You cannot run CurrentThreadExecutor from a different thread")

    async def carry(self, crossing: Crossing, lineage: object) -> Any:
        if self._over:
            raise _nobody()
        if crossing.loop is not self._bridge.get_loop():
            crossing.put = functools.partial(self._put_by, lineage)
            return await crossing
        if lineage is None:
            return await _core.to_caller(crossing.run)
        token = _core._lineage.set(lineage)
        try:
            return await _core.to_caller(crossing.run)
        finally:
            _core._lineage.reset(token)

    def _is_here(self) -> bool:
        """In blocking code; while that thread drives the loop, coroutines are not."""
        return running_loop() is None and super()._is_here()

    def _put_by(self, lineage: object, run: Callable[[], None], fail: Callable[[BaseException], None]) -> None:
        context = contextvars.copy_context()
        if lineage is not None:
            context.run(_core._lineage.set, lineage)
        if not context.run(self._send, run, fail):
            fail(_nobody())

    def _send(self, run: Callable[[], None], fail: Callable[[BaseException], None]) -> bool:
        """From elsewhere than its loop: a task there, in a copy of this context, hands it over."""
        if self._over:
            return False
        return tell(self._bridge.get_loop(), contextvars.copy_context().run, _begin, run, fail)


_handing: set[asyncio.Task[None]] = set()


def _begin(run: Callable[[], None], fail: Callable[[BaseException], None]) -> None:
    task = asyncio.get_running_loop().create_task(_handed_over(run, fail))
    _handing.add(task)
    task.add_done_callback(_handing.discard)


async def _handed_over(run: Callable[[], None], fail: Callable[[BaseException], None]) -> None:
    try:
        await _core.to_caller(run)
    except BaseException as error:
        fail(error)
        if not isinstance(error, Exception):
            raise
