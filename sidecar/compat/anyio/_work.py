"""What a portal runs on its loop: a function, its task, and the future of its outcome."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sidecar import _core
from sidecar._submit import SubmittedFuture, _context_of_nobody
from sidecar.compat.anyio import _cooperate

if TYPE_CHECKING:
    from sidecar.compat.anyio.from_thread import BlockingPortal

NOT_RUNNING = "This portal is not running"
NEVER_STARTED = "Task exited without calling task_status.started()"


class Future(SubmittedFuture):
    """The future of ``start_task_soon()``. Cancelled, it cancels the task. It logs nothing."""

    _work: Work | None = None

    def cancel(self) -> bool:
        cancelled = concurrent.futures.Future.cancel(self)
        work = self._work
        if cancelled and work is not None:
            work.cancel_soon()
        return cancelled

    def _log_lost(self) -> None:
        """As with any future of ``concurrent.futures``."""


class Running:
    """The tasks of one portal. Touched on its loop only."""

    def __init__(self) -> None:
        # To anyio's cancel scope, or None where there is no anyio; or to one of the two marks below.
        self._tasks: dict[asyncio.Task[Any], Any] = {}
        self._idle: asyncio.Future[None] | None = None
        self._cancelled = False

    def expect(self, task: asyncio.Task[Any]) -> None:
        """It was made, and its first step is to come, if it was no eager one."""
        if not task.done():
            self._tasks.setdefault(task, _NOT_BEGUN)

    async def run(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call it in this task, and await what it returns if it can be awaited."""
        task: Any = asyncio.current_task()
        cancelled = self._cancelled or self._tasks.get(task) is _CANCELLED_EARLY
        scope = self._tasks[task] = _cooperate.new_scope()
        if cancelled:
            # It begins all the same: what is cancelled is its first wait.
            asyncio.get_running_loop().call_soon(self.cancel, task)
        try:
            if scope is None:
                result = function(*args, **kwargs)
                return await result if hasattr(type(result), "__await__") else result
            with scope:
                result = function(*args, **kwargs)
                return await result if hasattr(type(result), "__await__") else result
            raise asyncio.CancelledError  # which the scope has caught, for it was the scope that was cancelled
        finally:
            self.forget(task)

    def cancel(self, task: asyncio.Task[Any]) -> None:
        """anyio's way: every wait of it ends so, except under a shield. Without anyio asyncio's, once."""
        scope = self._tasks.get(task, _CANCELLED_EARLY)
        if scope is _NOT_BEGUN:
            self._tasks[task] = _CANCELLED_EARLY
        elif scope is None:
            task.cancel()
        elif scope is not _CANCELLED_EARLY:
            scope.cancel()

    def cancel_all(self) -> None:
        """All, and what may still come. The task that asks for it is cancelled where it next waits, if at all."""
        self._cancelled = True
        this = asyncio.current_task()
        for task in list(self._tasks):
            if task is this:
                asyncio.get_running_loop().call_soon(self.cancel, task)
            else:
                self.cancel(task)

    def forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not self._tasks and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def until_idle(self) -> None:
        """Until none is left. Cancelled meanwhile, it cancels them all, goes on waiting, and raises then."""
        interrupted: asyncio.CancelledError | None = None
        while self._tasks:
            self._idle = asyncio.get_running_loop().create_future()
            try:
                await (self._idle if interrupted is None else shielded(self._idle))
            except asyncio.CancelledError as error:
                interrupted = error
                self.cancel_all()
        if interrupted is not None:
            raise interrupted


_NOT_BEGUN, _CANCELLED_EARLY = object(), object()


async def shielded(future: asyncio.Future[Any]) -> None:
    """Wait for it. A cancelled scope of anyio's, which would end each wait again, does not end this one."""
    scope = _cooperate.new_scope(shield=True)
    if scope is None:
        await future
        return
    with scope:
        await future


class Work:
    """One call on its way to its loop, and there. One that its portal's end finds on the way is refused.

    Not when the loop drops it: without a GIL that may wait for the thread that has made it, which waits here.
    """

    def __init__(
        self,
        portal: BlockingPortal,
        future: concurrent.futures.Future[Any],
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: object,
    ) -> None:
        assert portal._loop is not None
        self._portal = portal
        self._loop = portal._loop
        self._running = portal._running
        self._future: concurrent.futures.Future[Any] | None = future
        self._call = function, args, kwargs
        self._name = name
        self._task: asyncio.Task[Any] | None = None
        # Read by the future's own cancel(); another kind of future, put in the place of ours, has none.
        future._work = self  # type: ignore[attr-defined]

    def send(self) -> None:
        """Raises ``RuntimeError`` where the portal does not take it any more."""
        context = _context_of_nobody()
        _cooperate.tell_sniffio(context)
        portal = self._portal
        portal._sent.add(self)
        try:
            self._loop.call_soon_threadsafe(self.begin, context=context)
        except RuntimeError:  # it is closed
            portal._sent.discard(self)
            self._refuse()
            raise RuntimeError(NOT_RUNNING) from None
        if not portal._is_open:
            self.refuse_unless_begun()

    def begin(self) -> None:
        """On the loop, in the context it runs in."""
        if not self._take():
            return
        name = name_of(self._call[0]) if self._name is None else str(self._name)
        task = self._loop.create_task(self._run(), name=name)
        self._running.expect(task)
        task.add_done_callback(self._over)
        self._task = task

    async def _run(self) -> None:
        if self._name is not None:
            # An eager task's first step comes before it is named.
            this: Any = asyncio.current_task()
            this.set_name(str(self._name))
        try:
            result = await self._running.run(*self._call)
        except BaseException as error:  # whatever it is, it is its caller's and not the loop's
            self._end(None, error)
        else:
            self._end(result, None)

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._task = None
        if self._future is not None:  # cancelled by somebody else before its first step
            self._running.forget(task)
            self._end(None, asyncio.CancelledError())

    def _end(self, result: Any, error: BaseException | None) -> None:
        future, self._future = self._future, None
        self._call = _nothing, (), {}
        if future is None:
            return
        if isinstance(error, (asyncio.CancelledError, concurrent.futures.CancelledError)):
            concurrent.futures.Future.cancel(future)
        # After this nobody can cancel it any more.
        if not future.set_running_or_notify_cancel():
            return
        if error is None:
            future.set_result(result)
        else:
            _core.prune(error)
            future.set_exception(error)

    def _take(self) -> bool:
        """Who takes it begins it or refuses it; the others come too late."""
        try:
            self._portal._sent.remove(self)
        except KeyError:
            return False
        return True

    def refuse_unless_begun(self) -> None:
        """Its portal is closed. Who asks for this comes after the closing, so that nothing is missed."""
        if self._take():
            self._refuse()

    def _refuse(self) -> None:
        self._end(None, RuntimeError(NOT_RUNNING))

    def cancel_soon(self) -> None:
        """From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:
            pass  # its loop is closed, and with it all that ran there

    def _cancel(self) -> None:
        if self._task is not None:
            self._running.cancel(self._task)


def _nothing() -> None:
    """In the place of a function that is not needed any more, and may hold much."""


class TaskStatus:
    """What ``start_task()`` hands to the task, to be told that it is ready."""

    def __init__(self, ready: concurrent.futures.Future[Any]) -> None:
        self._ready = ready

    def started(self, value: object = None) -> None:
        self._ready.set_result(value)


def settle(ready: concurrent.futures.Future[Any], future: concurrent.futures.Future[Any]) -> None:
    """The task is over; it may never have said that it was ready."""
    if ready.done():
        return
    if future.cancelled():
        ready.cancel()
        ready.set_running_or_notify_cancel()
    else:
        ready.set_exception(future.exception() or RuntimeError(NEVER_STARTED))


def name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    module = getattr(function, "__module__", None)
    return f"{module}.{name}" if module else str(name)


def context_for_call() -> contextvars.Context | None:
    """The context for ``run_sync`` where a copy of this one would not do: it comes from a task of Trio's."""
    if not _cooperate.is_in_use("sniffio"):
        return None
    context = contextvars.copy_context()
    return context if _cooperate.tell_sniffio(context) else None
