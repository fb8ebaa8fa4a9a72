"""A bridge's life: hooks at its start and stop, and what is kept on its loop between the two.

A ``Lifespan`` belongs to one loop, so the child of a fork, and the bridge that follows a ``shutdown()``,
begin with an empty one. Whatever concerns making and closing changes on the loop only, which has one owner at
a time: there are no locks. Other threads read ``values``.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import itertools
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sidecar import _core
from sidecar._pool import WorkerPool
from sidecar._stopping import Stopping
from sidecar._support import logger
from sidecar.errors import BridgeClosedError

if TYPE_CHECKING:
    from sidecar._bridge import Sidecar
    from sidecar._resource import Making, Resource

__all__ = ["Hooks", "Lifespan", "on_worker_start", "on_worker_stop"]

_Fn = TypeVar("_Fn", bound=Callable[[], Any])

# Set in the context of what is kept: the tasks that it starts are told by it.
maker: contextvars.ContextVar[Making] = contextvars.ContextVar("sidecar-resource")

# A hook is no call: the bridge's limit for those does not end it.
_NO_LIMIT = threading.TIMEOUT_MAX

# -- the functions registered -------------------------------------------------------


class Hook:
    """A function registered once; a second registration is another hook."""

    _numbers = itertools.count()

    def __init__(self, fn: Callable[[], Any]) -> None:
        self.fn = fn
        self.number = next(self._numbers)

    def __str__(self) -> str:
        fn = inspect.unwrap(self.fn)
        name = getattr(fn, "__qualname__", None) or repr(fn)
        code = getattr(fn, "__code__", None)
        return f"{name}() at {code.co_filename}:{code.co_firstlineno}" if code else name


class Hooks:
    """The hooks of one bridge, or of the process's own, whichever that is."""

    def __init__(self) -> None:
        self.start: list[Hook] = []
        self.stop: list[Hook] = []


_default_hooks = Hooks()


@overload
def on_worker_start(fn: _Fn, /, *, bridge: Sidecar | None = None) -> _Fn: ...
@overload
def on_worker_start(fn: None = None, /, *, bridge: Sidecar | None = None) -> Callable[[_Fn], _Fn]: ...
def on_worker_start(fn: Any = None, /, *, bridge: Sidecar | None = None) -> Any:
    """Have ``fn()`` called when the bridge starts, once for each worker; at once where it already runs.

    fn: a function or coroutine function without arguments. It runs on the thread that starts the bridge, a
        coroutine function on the bridge's loop; both in an empty context. That thread's own call comes after.
    bridge: by default this process's own one, also the one that follows a ``shutdown()`` or a fork.
    Returns ``fn``: also a decorator. What it raises is logged, and the bridge starts all the same.
    """
    if fn is None:
        return lambda fn: on_worker_start(fn, bridge=bridge)
    hook = Hook(_checked("on_worker_start", fn))
    (_default_hooks if bridge is None else bridge._hooks).start.append(hook)
    # Registered before the look: a bridge that starts meanwhile finds it, and one of the two has it first.
    present = default_bridge() if bridge is None else bridge
    life = present_lifespan(present)
    if present is not None and life is not None:
        life.run_start_hooks(present, [hook])
    return fn


@overload
def on_worker_stop(fn: _Fn, /, *, bridge: Sidecar | None = None) -> _Fn: ...
@overload
def on_worker_stop(fn: None = None, /, *, bridge: Sidecar | None = None) -> Callable[[_Fn], _Fn]: ...
def on_worker_stop(fn: Any = None, /, *, bridge: Sidecar | None = None) -> Any:
    """Have ``fn()`` called at the bridge's shutdown, before it refuses calls; the last one registered first.

    fn: a function or coroutine function without arguments. It runs on a thread of its own, a coroutine
        function on the bridge's loop; both in an empty context. All of them together have half of the
        ``shutdown_timeout``.
    bridge: by default this process's own one. A bridge that never started runs none.
    Returns ``fn``: also a decorator. What it raises is logged; what does not end in time is named in the log
    and left behind.
    """
    if fn is None:
        return lambda fn: on_worker_stop(fn, bridge=bridge)
    hook = Hook(_checked("on_worker_stop", fn))
    (_default_hooks if bridge is None else bridge._hooks).stop.append(hook)
    return fn


def _checked(what: str, fn: Any) -> Callable[[], Any]:
    if not callable(fn):
        raise TypeError(f"{what}() takes a function, not {fn!r}")
    checked: Callable[[], Any] = fn
    return checked


# -- which bridge --------------------------------------------------------------------


def default_bridge() -> Sidecar | None:
    """The process's own bridge, if there is one."""
    try:
        return _core.get_bridge() if _core._has_default_bridge() else None
    except BridgeClosedError:  # taken away meanwhile, and the interpreter exits
        return None


def present_lifespan(bridge: Sidecar | None) -> Lifespan | None:
    """Of its loop, where it runs; it is not started for this."""
    try:
        return bridge.get_loop()._lifespan if bridge is not None and bridge.is_running() else None
    except BridgeClosedError:
        return None


# -- one loop's life --------------------------------------------------------------


class Lifespan:
    """What lives on one bridge's loop, and which hooks it has run.

    is_default: the bridge is the process's own one, or was until its shutdown began.
    values: the resources that are there; changed on the loop, read by any thread.
    makings: those on their way. kept: those made, in the order in which they were ready.
    """

    def __init__(self, bridge: Sidecar) -> None:
        self._hooks = bridge._hooks
        self.is_default = default_bridge() is bridge
        self.values: dict[Resource[Any], Any] = {}
        self.makings: dict[Resource[Any], Making] = {}
        self.kept: list[Making] = []
        self.closing = False
        self.stopping = Stopping()
        self._begun: dict[Hook, object] = {}
        self._tasks: set[asyncio.Future[Any]] = set()
        self._stopping = False
        self._starting: list[int] = []  # the threads that run start hooks
        self._changed = threading.Condition()

    def serves(self, bridge: Sidecar | None) -> bool:
        """Is this the loop of ``bridge``, ``None`` being the process's own?"""
        return self.is_default if bridge is None else bridge._hooks is self._hooks

    # -- hooks --

    def run_start_hooks(self, bridge: Sidecar, hooks: Sequence[Hook] | None = None) -> None:
        """Those that it has not run yet, all or of ``hooks``; on the present thread."""
        for hook in self._all("start") if hooks is None else hooks:
            mark = object()
            if self._begun.setdefault(hook, mark) is mark:
                self._start_unless_stopping(bridge, hook)

    def _all(self, what: str) -> list[Hook]:
        found: list[Hook] = list(getattr(self._hooks, what))
        if self.is_default:
            found += getattr(_default_hooks, what)
        return sorted(found, key=lambda hook: hook.number)

    def _start_unless_stopping(self, bridge: Sidecar, hook: Hook) -> None:
        me = threading.get_ident()
        with self._changed:
            if self._stopping:
                return
            self._starting.append(me)
        try:
            self._start(bridge, hook)
        finally:
            with self._changed:
                self._starting.remove(me)
                self._changed.notify_all()

    def _start(self, bridge: Sidecar, hook: Hook) -> None:
        context = contextvars.Context()
        try:
            made = context.run(hook.fn)
            if not inspect.isawaitable(made):
                return
            if bridge.get_loop()._is_mine():  # registered by a coroutine, which could not wait for it
                context.run(self._go_on, hook, made)
            else:
                bridge._run_closing(made, timeout=_NO_LIMIT, context=context)
        except (Exception, asyncio.CancelledError) as error:
            logger.error("on_worker_start: %s failed", hook, exc_info=error)

    def _go_on(self, hook: Hook, made: Any) -> None:
        def ended(task: asyncio.Future[Any]) -> None:
            self._tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                logger.error("on_worker_start: %s failed", hook, exc_info=error)

        task = asyncio.ensure_future(made)
        self._tasks.add(task)
        task.add_done_callback(ended)

    def begin_stop(self) -> bool:
        """True for the one caller that is to run the stop hooks, once."""
        with self._changed:
            first = not self._stopping
            self._stopping = True
        if first:
            self.stopping.tell()
        return first

    def _wait_for_starts(self, seconds: float) -> None:
        """What a start hook does in another thread just now comes before what the stop hooks undo."""
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: all(ident == me for ident in self._starting), seconds)

    def run_stop_hooks(self, bridge: Sidecar, limit: float) -> bool:
        """The last first, within ``limit`` seconds; True where all ended in time.

        Off the present thread, which waits no longer than that whatever they do; but on it where the
        interpreter is so far gone that no other thread can run.
        """
        deadline = time.monotonic() + limit
        self._wait_for_starts(share(deadline, 1))
        hooks = self._all("stop")
        if sys.is_finalizing():
            return all([_stop(bridge, hook, share(deadline, at)) for at, hook in _countdown(hooks)])
        if not hooks:
            return True
        late = 0
        clean = False
        # As many as may hang before the rest goes without.
        pool = WorkerPool(min(len(hooks), 64), f"{bridge.name[:8]}-stop")
        try:
            for at, hook in _countdown(hooks):
                seconds = share(deadline, at)
                job = pool.submit(contextvars.Context().run, _stop, bridge, hook, seconds)
                try:
                    ended = job.result(seconds)
                except FutureTimeoutError:
                    ended = False
                if not ended:
                    late += 1
                    logger.warning("shutdown of %r: on_worker_stop: %s did not end in time", bridge, hook)
            clean = late == 0
        finally:
            pool.stop(1.0 if clean else 0.0)
        return clean

    # -- what is kept --

    def is_empty(self) -> bool:
        return not (self.makings or self.kept)

    def keeps(self, task: asyncio.Task[Any]) -> bool:
        """Is it a task by which something that is kept keeps going? It ends with that."""
        owner = _context_of(task).get(maker)
        return owner is not None and (owner in self.kept or owner in self.makings.values())

    async def close(self, limit: float) -> list[str]:
        """On the loop: end what is kept, the last made first; what did not end in time, in words."""
        self.closing = True
        deadline = time.monotonic() + limit
        late = await self._break_off(share(deadline, len(self.kept)))
        while self.kept:
            making = self.kept[-1]
            if not await making.end(share(deadline, len(self.kept) - 1)):
                late.append(f"closing {making.resource}")
        return late

    async def drop(self, resource: Resource[Any]) -> None:
        """On the loop: end it, made or not, and wait for that."""
        for making in (*self.makings.values(), *self.kept):
            if making.resource is resource:
                making.break_off()
                await asyncio.wait({making.task})

    async def _break_off(self, seconds: float) -> list[str]:
        """End what is being made; all at once, for each of them that went on could have another one made."""
        tasks = {making.task: f"making {making.resource}" for making in self.makings.values()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks.keys(), timeout=seconds)
        # One that has been made all the same is kept, and has its turn.
        held = {making.task for making in self.makings.values()}
        return [name for task, name in tasks.items() if task in held]


def share(deadline: float, more: int) -> float:
    """Seconds for the next of those that have until ``deadline``: half, so that one never takes it all."""
    left = deadline - time.monotonic()
    return max(left / 2 if more else left, 0.01)


def _context_of(task: asyncio.Task[Any]) -> contextvars.Context:
    if sys.version_info >= (3, 12):
        return task.get_context()
    # A task in C names its own context first, then those of its callbacks.
    held = (one for one in gc.get_referents(task) if isinstance(one, contextvars.Context))
    found: contextvars.Context | None = getattr(task, "_context", None) or next(held, None)
    return contextvars.Context() if found is None else found


def _countdown(items: Sequence[Any]) -> list[tuple[int, Any]]:
    """From the last to the first, each with the number of those that follow."""
    return list(reversed(list(enumerate(items))))


def _stop(bridge: Sidecar, hook: Hook, seconds: float) -> bool:
    """Run a stop hook; True where it ended in time, by an error too."""
    context = contextvars.Context()
    try:
        made = context.run(hook.fn)
        if inspect.isawaitable(made):
            return bridge._run_closing(_within(seconds, made), timeout=seconds + 0.5, context=context)
    except (Exception, asyncio.CancelledError) as error:
        logger.error("on_worker_stop: %s failed", hook, exc_info=error)
    return True


async def _within(seconds: float, made: Any) -> bool:
    task = asyncio.ensure_future(made)
    await asyncio.wait({task}, timeout=seconds * 0.9)
    if task.done():
        task.result()
        return True
    task.cancel()
    await asyncio.wait({task}, timeout=seconds * 0.1)
    return False
