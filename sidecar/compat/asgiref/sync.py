"""``asgiref.sync``: async functions for blocking callers, blocking functions for async ones.

``async_to_sync`` is a ``run_sync`` on this process's bridge: the calling thread drives the loop that all calls
share, and runs the thread-sensitive code of what it waits for. Inside ``sync_to_async`` it goes back to the loop
that called.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import sys
import warnings
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from types import FunctionType, MethodType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from sidecar._core import _lineage, frameless, get_bridge, prune, to_caller
from sidecar._pool import WorkerPool
from sidecar.compat.asgiref import _drive
from sidecar.compat.asgiref._places import (
    Crossing,
    crossing_here,
    is_bridge,
    process,
    running_loop,
    thread,
    waiter,
    write_back,
)
from sidecar.compat.asgiref._worker import SingleThread
from sidecar.compat.asgiref.current_thread_executor import CurrentThreadExecutor
from sidecar.errors import NoCallerError

if TYPE_CHECKING:
    from typing_extensions import ParamSpec, Self

    _P = ParamSpec("_P")
else:
    # Only annotations name it; Generic needs one at run time.
    _P = TypeVar("_P")

__all__ = [
    "AsyncSingleThreadContext",
    "AsyncToSync",
    "SyncToAsync",
    "ThreadSensitiveContext",
    "async_to_sync",
    "iscoroutinefunction",
    "markcoroutinefunction",
    "sync_to_async",
]

_F = TypeVar("_F", bound=Callable[..., Any])
_R = TypeVar("_R")

if sys.version_info >= (3, 12):
    iscoroutinefunction = inspect.iscoroutinefunction
    markcoroutinefunction = inspect.markcoroutinefunction
else:
    iscoroutinefunction = asyncio.iscoroutinefunction

    def markcoroutinefunction(func: _F) -> _F:
        """Have ``iscoroutinefunction`` say yes to it, though it is a plain function that returns a coroutine."""
        func._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
        return func


def _is_async(func: Any) -> bool:
    """Also a partial of an async function, and an object whose ``__call__`` is one."""
    while isinstance(func, functools.partial):
        func = func.func
    return iscoroutinefunction(func) or iscoroutinefunction(getattr(func, "__call__", None))  # noqa: B004


def _is_plainly_async(func: Any) -> bool:
    """Calling it does nothing but make a coroutine: it may be called on any thread."""
    if isinstance(func, MethodType):
        func = func.__func__
    return isinstance(func, FunctionType) and bool(func.__code__.co_flags & inspect.CO_COROUTINE)


# -- async_to_sync -----------------------------------------------------------------------


class AsyncSingleThreadContext:
    """``with`` it, all ``async_to_sync`` calls run their coroutines on one thread, with one event loop.

    A call that has a loop already, inside ``sync_to_async``, goes on to use that one; an inner block is part of the
    outer one. The loop ends with the block. Without it they share the process's bridge, for good.
    """

    def __init__(self) -> None:
        self._runs = _drive.LoopThread()
        self._token: contextvars.Token[AsyncSingleThreadContext] | None = None

    def __enter__(self) -> Self:
        if AsyncToSync.async_single_thread_context.get(None) is None:
            self._token = AsyncToSync.async_single_thread_context.set(self)
        return self

    def __exit__(self, exc: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._token is not None:
            AsyncToSync.async_single_thread_context.reset(self._token)
            self._token = None
            self._runs.end()

    def _loop(self) -> asyncio.AbstractEventLoop | None:
        return self._runs.loop()


class _Executors:
    """Who runs thread-sensitive code of this context: ``current``, a ``CurrentThreadExecutor`` or None."""

    @property
    def current(self) -> CurrentThreadExecutor | None:
        found: CurrentThreadExecutor | None = waiter.get(None)
        return found

    @current.setter
    def current(self, executor: CurrentThreadExecutor | None) -> None:
        waiter.set(executor)


class AsyncToSync(Generic[_P, _R]):
    """``async_to_sync`` of one function."""

    executors = _Executors()
    async_single_thread_context: contextvars.ContextVar[AsyncSingleThreadContext] = contextvars.ContextVar(
        "async_single_thread_context"
    )

    def __init__(self, awaitable: Callable[_P, Awaitable[_R]], force_new_loop: bool = False) -> None:
        if not callable(awaitable) or not _is_async(awaitable):
            warnings.warn("async_to_sync was passed a non-async-marked callable", stacklevel=2)
        self.awaitable = awaitable
        self.force_new_loop = force_new_loop
        self._plain = _is_plainly_async(awaitable)
        if hasattr(awaitable, "__self__"):
            self.__self__ = awaitable.__self__
        loop = running_loop()
        # Made where a loop runs, it belongs to that loop as long as it runs.
        self._made_on = None if loop is None else (weakref.ref(loop), process.generation)

    def __call__(self, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        if running_loop() is not None:
            raise RuntimeError(
                "You cannot use AsyncToSync in the same thread as an async event loop - just await the async "
                "function directly."
            )
        if (
            self._plain
            and self._made_on is None
            and not self.force_new_loop
            and crossing_here() is None
            and AsyncToSync.async_single_thread_context.get(None) is None
            and sys.exc_info()[1] is None
        ):
            return _drive.on_bridge(get_bridge(), self.awaitable(*args, **kwargs))  # type: ignore[no-any-return]
        return self._call_elsewhere(functools.partial(self.awaitable, *args, **kwargs))

    def _call_elsewhere(self, work: _drive.Work) -> _R:
        error = sys.exc_info()[1]
        if error is not None:
            work = functools.partial(_drive.amid, error, work)
            error = None
        crossing = crossing_here()
        if crossing is not None:
            work = functools.partial(_drive.noted, crossing, work)
        if self.force_new_loop:
            return _drive.on_new_loop(work)  # type: ignore[no-any-return]
        loop = self._loop(crossing)
        if loop is not None and not is_bridge(loop):
            try:
                return _drive.on_loop(loop, work)  # type: ignore[no-any-return]
            except _drive.LoopGone:
                pass
        bridge = _drive.bridge_of(loop) if loop is not None and is_bridge(loop) else None
        return _drive.on_bridge(bridge or get_bridge(), _drive.called(work))  # type: ignore[no-any-return]

    def _loop(self, crossing: Crossing | None) -> asyncio.AbstractEventLoop | None:
        """The one that it belongs to; None: the bridge's."""
        if self._made_on is not None:
            made_on, generation = self._made_on
            loop = made_on()
            if loop is not None and generation == process.generation and (is_bridge(loop) or loop.is_running()):
                return loop
        if crossing is not None and (is_bridge(crossing.loop) or crossing.loop.is_running()):
            return crossing.loop
        block = AsyncToSync.async_single_thread_context.get(None)
        return block._loop() if block is not None else None

    def __get__(self, parent: Any, objtype: Any) -> Callable[..., _R]:
        bound = functools.partial(self.__call__, parent)
        return functools.update_wrapper(bound, self.awaitable)


# By name, for a decorator would hide from type checkers what it takes.
setattr(AsyncToSync, "__call__", frameless(AsyncToSync.__call__))  # noqa: B010


@overload
def async_to_sync(
    awaitable: None = None, *, force_new_loop: bool = False
) -> Callable[[Callable[_P, Awaitable[_R]]], Callable[_P, _R]]: ...
@overload
def async_to_sync(awaitable: Callable[_P, Awaitable[_R]], *, force_new_loop: bool = False) -> Callable[_P, _R]: ...
def async_to_sync(awaitable: Any = None, *, force_new_loop: bool = False) -> Any:
    """An async function for blocking callers. Also a decorator.

    force_new_loop: run each call on an event loop of its own, which ends with it.

    What the function sets in context variables is set in the caller's context afterwards.
    Raises ``RuntimeError`` on a thread that runs an event loop.
    """
    if awaitable is None:
        return lambda awaitable: AsyncToSync(awaitable, force_new_loop=force_new_loop)
    return AsyncToSync(awaitable, force_new_loop=force_new_loop)


# -- sync_to_async -----------------------------------------------------------------------


class ThreadSensitiveContext:
    """``async with`` it, thread-sensitive code of this context has a thread of its own, instead of the process's.

    executor: one that runs one call at a time on one thread; it is left as it is at the end. Without, an inner
        block is part of the outer one; with it, it stands for itself, for once.

    Raises ``RuntimeError`` where one with an executor is entered a second time.
    """

    def __init__(self, *, executor: Executor | None = None) -> None:
        self._executor = executor
        self._state = "new"
        self._tokens: list[contextvars.Token[Any]] = []

    async def __aenter__(self) -> Self:
        if self._executor is not None:
            if self._state != "new":
                raise RuntimeError(
                    "This ThreadSensitiveContext is already entered."
                    if self._state == "entered"
                    else "This ThreadSensitiveContext has exited and cannot be entered again."
                )
            SyncToAsync.context_to_thread_executor[self] = self._executor
            self._tokens = [SyncToAsync.thread_sensitive_context.set(self), waiter.set(None)]
            self._state = "entered"
        elif SyncToAsync.thread_sensitive_context.get(None) is None:
            self._tokens = [SyncToAsync.thread_sensitive_context.set(self)]
        return self

    async def __aexit__(
        self, exc: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        if not self._tokens:
            return
        tokens, self._tokens = self._tokens, []
        self._state = "exited"
        for token in tokens:
            token.var.reset(token)
        executor = SyncToAsync.context_to_thread_executor.pop(self, None)
        if self._executor is None and isinstance(executor, SingleThread):
            # What was cancelled may still run there; the loop goes on meanwhile.
            try:
                await asyncio.wrap_future(executor.submit(_nothing))
            finally:
                executor.shutdown(wait=False)

    def _thread(self) -> Executor:
        executor = SyncToAsync.context_to_thread_executor.get(self)
        if executor is None:
            if self._executor is not None:
                raise RuntimeError("This ThreadSensitiveContext has exited.")
            executor = SyncToAsync.context_to_thread_executor[self] = SingleThread("asgiref-context")
        return executor


def _nothing() -> None:
    pass


class SyncToAsync(Generic[_P, _R]):
    """``sync_to_async`` of one function. ``thread_handler`` may be overridden: it runs on the thread, around it."""

    threadlocal = thread
    single_thread_executor: Executor = SingleThread("asgiref-sync")
    thread_sensitive_context: contextvars.ContextVar[ThreadSensitiveContext] = contextvars.ContextVar(
        "thread_sensitive_context"
    )
    context_to_thread_executor: weakref.WeakKeyDictionary[ThreadSensitiveContext, Executor] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(
        self,
        func: Callable[_P, _R],
        thread_sensitive: bool = True,
        executor: Executor | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        if not callable(func) or _is_async(func):
            raise TypeError("sync_to_async can only be applied to sync functions.")
        if thread_sensitive and executor is not None:
            raise TypeError("executor must not be set when thread_sensitive is True")
        functools.update_wrapper(self, func)
        self.func = func
        self.context = context
        self._thread_sensitive = thread_sensitive
        self._executor = executor
        markcoroutinefunction(self)
        if hasattr(func, "__self__"):
            self.__self__ = func.__self__

    async def __call__(self, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        loop = asyncio.get_running_loop()
        own = self.context
        context = contextvars.copy_context() if own is None else own
        child = functools.partial(self.func, *args, **kwargs)
        exc_info = sys.exc_info()
        # Nothing to do for the handler where it is the one below, and no error is being handled.
        is_plain = exc_info[1] is None and type(self).thread_handler is _thread_handler
        crossing = Crossing(loop, None if is_plain else self.thread_handler, exc_info, context.run, child)
        del exc_info
        try:
            if self._thread_sensitive:
                result: _R = await self._somewhere(crossing)
            else:
                result = await self._anywhere(crossing, context)
        except asyncio.CancelledError:
            if crossing.over or crossing.cancelled or not crossing.inner:
                raise
            result = await crossing.outlast()
        except BaseException as error:
            prune(error)
            crossing.forget()
            raise
        finally:
            if own is None and crossing.over:
                write_back(context)
        return result

    def _anywhere(self, crossing: Crossing, context: contextvars.Context) -> Awaitable[Any]:
        loop, executor = crossing.loop, self._executor
        if executor is None and _has_plain_executor(loop):
            crossing.func = _call
            coro: Awaitable[Any] = _pool_of(loop).call(context, crossing.run)
            return coro
        return loop.run_in_executor(executor, crossing.run)

    def _somewhere(self, crossing: Crossing) -> Awaitable[Any]:
        found = waiter.get(_NOBODY)
        if found is _NOBODY and (not is_bridge(crossing.loop) or _lineage.get(_NOBODY) is None):
            block = SyncToAsync.thread_sensitive_context.get(None)
            return _in_turn(SyncToAsync.single_thread_executor if block is None else block._thread(), crossing)
        return _where_it_belongs(found, crossing)

    def thread_handler(
        self,
        loop: asyncio.AbstractEventLoop,
        exc_info: Any,
        task_context: Any,
        func: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Run ``func`` on this thread, as that loop's, while the error that the coroutine handles is handled here."""
        before = getattr(thread, "crossing", None)
        thread.crossing = task_context
        try:
            error = exc_info[1] if exc_info else None
            if error is None:
                return func(*args, **kwargs)
            traceback = error.__traceback__
            try:
                raise error
            except BaseException:
                error.__traceback__ = traceback
                return func(*args, **kwargs)
        finally:
            thread.crossing = before
            error = exc_info = None

    def __get__(self, parent: Any, objtype: Any) -> Callable[..., Coroutine[Any, Any, _R]]:
        return functools.partial(self.__call__, parent)


_thread_handler = SyncToAsync.thread_handler

_NOBODY: Any = object()


async def _where_it_belongs(found: Any, crossing: Crossing) -> Any:
    """The thread that waits for this; where it waits no more, the one that waited for that; and so on."""
    nobody = found is _NOBODY
    lineage = None
    while found is not None and not nobody:
        try:
            return await found.carry(crossing, lineage)
        except NoCallerError:
            if crossing.began:
                raise
        lineage, found = found.outer_lineage, found.outer
    block = SyncToAsync.thread_sensitive_context.get(None)
    if block is not None:
        return await _in_turn(block._thread(), crossing)
    if nobody:
        # Begun by run_sync() itself, or by submit().
        try:
            return await to_caller(crossing.run)
        except NoCallerError:
            if crossing.began:
                raise
    return await _in_turn(SyncToAsync.single_thread_executor, crossing)


def _in_turn(executor: Executor, crossing: Crossing) -> Awaitable[Any]:
    if isinstance(executor, SingleThread):
        return executor.carry(crossing)
    return crossing.loop.run_in_executor(executor, crossing.run)


def _has_plain_executor(loop: Any) -> bool:
    """It has none of its own, or the one that it comes with: nobody has chosen one."""
    executor = getattr(loop, "_default_executor", _NOBODY)
    return executor is None or type(executor) is WorkerPool or _is_asyncios(executor)


def _is_asyncios(executor: Any) -> bool:
    return getattr(executor, "_thread_name_prefix", None) == "asyncio"


def _pool_of(loop: asyncio.AbstractEventLoop) -> Any:
    """That of the bridge whose loop it is, else of the process's own one."""
    pool = getattr(loop, "_default_executor", None)
    if type(pool) is WorkerPool:
        return pool
    bridge = get_bridge()
    bridge.get_loop()
    return bridge._pool


def _call(child: Callable[[], Any]) -> Any:
    return child()


@overload
def sync_to_async(
    func: None = None,
    *,
    thread_sensitive: bool = True,
    executor: Executor | None = None,
    context: contextvars.Context | None = None,
) -> Callable[[Callable[_P, _R]], Callable[_P, Coroutine[Any, Any, _R]]]: ...
@overload
def sync_to_async(
    func: Callable[_P, _R],
    *,
    thread_sensitive: bool = True,
    executor: Executor | None = None,
    context: contextvars.Context | None = None,
) -> Callable[_P, Coroutine[Any, Any, _R]]: ...
def sync_to_async(
    func: Any = None,
    *,
    thread_sensitive: bool = True,
    executor: Executor | None = None,
    context: contextvars.Context | None = None,
) -> Any:
    """A blocking function for async callers. Also a decorator.

    thread_sensitive: run it on the thread that waits for the calling coroutine; where none does, on that of the
        ``ThreadSensitiveContext``, else on one that the whole process shares. False: on any.
    executor: where, if not thread-sensitive; by default the event loop's own.
    context: the context to run it in. By default a copy of the coroutine's; what it sets in context variables is
        set in the coroutine's afterwards.

    Raises ``TypeError`` for what is async, or no function; for an executor of what is thread-sensitive.
    """
    if func is None:
        return lambda func: SyncToAsync(func, thread_sensitive, executor, context)
    return SyncToAsync(func, thread_sensitive, executor, context)
