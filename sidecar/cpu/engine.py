"""What a CPU engine is: the one interface of threads, interpreters, processes and foreign executors."""

from __future__ import annotations

import abc
import collections
import concurrent.futures
import contextlib
import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sidecar import _submit
from sidecar._envelope import pack, with_time_left
from sidecar._support import logger, native_lock
from sidecar.errors import BridgeClosedError, QueueFull

if TYPE_CHECKING:
    from sidecar._core import Request

__all__ = [
    "Call",
    "CpuFuture",
    "Engine",
    "Orphans",
    "RefusedByInterpreter",
    "Room",
    "closed",
    "full",
    "name_of_call",
    "new_future",
]


class RefusedByInterpreter(ImportError):
    """A module that the function needs does not load in a sub-interpreter.

    began: the function had begun; in a process it begins anew.
    """

    began = False


class Call:
    """One call on its way through an engine.

    future: the caller's, for the engine to ``settle()`` or ``fail()``.
    request: the one that it is made in, or ``None``. Threads run in ``context``, a copy of the caller's; other engines
        send the envelope.
    """

    __slots__ = ("_packed", "args", "context", "fn", "future", "kwargs", "name", "request")

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        request: Request | None,
        context: contextvars.Context,
    ) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.request = request
        self.context = context
        self.name = name_of_call(fn)
        self.future: CpuFuture = new_future(self)
        self._packed = None if request is None else pack(request)

    def envelope(self) -> bytes | None:
        """The request's, with the time that is left of it now; ``None`` outside of one."""
        if self.request is None or self._packed is None:
            return None
        return with_time_left(self._packed, self.request)


class CpuFuture(_submit.Submitted):
    """The future of ``run_cpu.future()``.

    It counts as pending until its call has ended, so ``cancel()`` always ends it at once: a call that has not begun is
    dropped, one that runs goes on as an orphan.
    """

    _name = ""
    _drop: Callable[[], object] | None = None  # the engine's: nobody wants this any more

    def _begin(self, call: Call) -> None:
        self._what = call.fn
        self._name = call.name
        # Who takes it tells the waiters how it ended; it is taken once.
        self._token = [None]
        self._wakes: list[Callable[[], object]] = []
        self._live: set[CpuFuture] | None = None  # where it is until it has ended
        if call.request is not None:
            self._request = call.request.id
            self._join(call.request)

    def _is_mine_to_end(self) -> bool:
        try:
            self._token.pop()
        except IndexError:
            return False
        return True

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if cancelled and self._is_mine_to_end():
            self.set_running_or_notify_cancel()
            drop = self._drop
            self._over()
            if drop is not None:
                drop()
        return cancelled

    def _over(self) -> None:
        self._drop = None
        if self._live is not None:
            self._live.discard(self)
        while self._wakes:
            try:
                wake = self._wakes.pop()
            except IndexError:
                return
            wake()

    def wake_by(self, wake: Callable[[], object]) -> bool:
        """Have it called at the end, on whichever thread; ``False``: that has been. It costs less than a callback."""
        self._wakes.append(wake)
        return not self.done()

    def settle(self, result: Any) -> None:
        if self._is_mine_to_end() and self.set_running_or_notify_cancel():
            self.set_result(result)
        self._over()

    def fail(self, error: BaseException) -> None:
        if not self._is_mine_to_end() or not self.set_running_or_notify_cancel():
            # An interpreter that has to end ends what runs there by SystemExit.
            if not isinstance(error, (concurrent.futures.CancelledError, SystemExit)):
                self._log(error, " after it was given up")
        else:
            self.set_exception(error)
        self._over()

    def _log(self, error: BaseException, how: str) -> None:
        request = f" of request {self._request}" if self._request else ""
        logger.error("run_cpu: %s%s failed%s", self._name, request, how, exc_info=error)


_types: dict[type, type[CpuFuture]] = {}


def new_future(call: Call) -> CpuFuture:
    """In C, or as greenlets wait for one."""
    base = _submit.future_type
    kind = _types.get(base)
    if kind is None:
        kind = _types[base] = type("CpuFuture", (CpuFuture, base), {"__doc__": CpuFuture.__doc__})
    future = kind()
    future._begin(call)
    return future


class Room:
    """Who waits until one more call may be made. An engine tells ``made()`` when a call begins, is dropped, or ends."""

    def __init__(self) -> None:
        self._lock = native_lock()
        self._waiters: collections.deque[Callable[[], object]] = collections.deque()

    def made(self) -> None:
        if self._waiters:
            with self._lock:
                wake = self._waiters.popleft() if self._waiters else None
            if wake is not None:
                wake()

    def join(self, wake: Callable[[], object], first: bool) -> None:
        with self._lock:
            if first:
                self._waiters.appendleft(wake)
            else:
                self._waiters.append(wake)

    def leave(self, wake: Callable[[], object]) -> None:
        with self._lock, contextlib.suppress(ValueError):  # it was woken already
            self._waiters.remove(wake)


class Engine(abc.ABC):
    """Runs calls: ``Kind(workers, max_queue, name)``.

    workers: how many calls may run at a time. max_queue: how many more may wait. name: of the bridge, for threads.
    It starts nothing before its first call. The child of a fork gets a new one, and keeps this without using it.
    """

    kind = ""  # "threads", "interpreters", ...

    def __init__(self, workers: int, max_queue: int, name: str) -> None:
        self.workers = workers
        self.max_queue = max_queue
        self.name = name
        self.orphans = Orphans(self.kind)
        self.room = Room()
        # Whoever has made it knows better.
        self.at_exit: Callable[[], object] = lambda: self.shutdown(0.0)
        self.refused: Callable[[Call, RefusedByInterpreter], object] = lambda call, error: call.future.fail(error)

    @abc.abstractmethod
    def submit(self, call: Call) -> CpuFuture:
        """Begin it, now or when a worker is free; never blocks. Returns ``call.future``.

        Raises ``QueueFull`` where too many wait, and tells ``room.made()`` whenever one of them begins, is dropped, or
        ends.
        The future's ``cancel()`` drops what has not begun. Of what runs it forgets the outcome, at once, and the call
        is one of the ``orphans`` until it ends.
        """

    @abc.abstractmethod
    def shutdown(self, timeout: float) -> list[str]:
        """End it: drop what waits, give what runs so many seconds; the names of calls that did not end in time."""

    @abc.abstractmethod
    def stats(self) -> dict[str, int]:
        """``running`` and ``queued`` calls, ``orphans``, and ``workers`` that are alive."""


def full(waiting: int, workers: str) -> QueueFull:
    """The error for one call more."""
    return QueueFull(
        f"run_cpu: {waiting} calls wait for {workers}, as many as may (max_queue) [{QueueFull.code}]", limit="max_queue"
    )


def closed(name: str) -> BridgeClosedError:
    return BridgeClosedError(f"the bridge {name!r} was shut down; make another one [{BridgeClosedError.code}]")


class Orphans:
    """Calls that run though nobody waits for them any more."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._lock = native_lock()
        self._calls: dict[int, Call] = {}

    def add(self, call: Call) -> None:
        """Logged, once for each."""
        with self._lock:
            if id(call) in self._calls:
                return
            self._calls[id(call)] = call
            count = len(self._calls)
        request = f" of request {call.request.id}" if call.request is not None else ""
        logger.warning("orphan: %s%s was given up and goes on (%s, %d now)", call.name, request, self._kind, count)

    def discard(self, call: Call) -> None:
        """It has ended."""
        with self._lock:
            found = self._calls.pop(id(call), None)
        if found is not None:
            logger.info("orphan: %s has ended", call.name)

    def __len__(self) -> int:
        return len(self._calls)

    def names(self) -> list[str]:
        with self._lock:
            return [call.name for call in self._calls.values()]


def name_of_call(fn: Any) -> str:
    """For messages: ``module.function``."""
    while hasattr(fn, "func") and not hasattr(fn, "__qualname__"):
        fn = fn.func  # functools.partial
    name = getattr(fn, "__qualname__", None)
    if name is None:
        fn, name = type(fn), type(fn).__qualname__
    module = getattr(fn, "__module__", None)
    return f"{module}.{name}" if module else str(name)
