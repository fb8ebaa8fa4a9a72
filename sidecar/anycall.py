"""One way to call any function from anywhere: sync or async, from sync code, asyncio or Trio.

In sync code the result comes back; inside a running loop an awaitable of it does. Async functions called from
sync code run on this process's own bridge; sync functions called from async code run on threads.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from sidecar import _anycall_jobs as jobs
from sidecar import _core
from sidecar._anycall_jobs import CallAnyTimeout
from sidecar._wrap_common import cut

if TYPE_CHECKING:
    from typing_extensions import ParamSpec
elif sys.version_info >= (3, 10):
    from typing import ParamSpec
else:
    ParamSpec = TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

__all__ = ["Bridged", "CallAnyTimeout", "bridged", "call_any", "call_map", "parallel_map"]

CallAnyTimeout.__module__ = __name__


def call_any(
    func: Callable[..., Any],
    /,
    *args: Any,
    timeout: float | None = None,
    executor: Executor | None = None,
    force_offload: bool = False,
    **kwargs: Any,
) -> Any:
    """Call ``func(*args, **kwargs)``: its result in sync code, an awaitable of it inside asyncio or Trio.

    timeout: seconds; ``None``: no limit. Raises ``CallAnyTimeout``. An async function is cancelled, and its
        cleanup waited for. A sync function cannot be stopped: it goes on, unwatched, on its thread. Its clock
        starts when it does; while it waits for a thread, the call gives up once no thread has come free for
        ``timeout`` seconds.
    executor: where sync functions run that leave the caller's thread; by default the bridge's pool, and in Trio
        Trio's own threads. An executor that is no thread pool gets the bare call; in a request, together with the
        request's id, trace and deadline, and it must have Sidecar where it runs.
    force_offload: run a sync function on another thread in sync code too, though it has no ``timeout``.

    Raises what ``func`` raises; ``ValueError`` for a ``timeout`` below 0.
    """
    return _call(func, args, kwargs, _Options(timeout, executor, force_offload))


def call_map(
    funcs: Iterable[Callable[..., Any]],
    /,
    *args: Any,
    timeout: float | None = None,
    executor: Executor | None = None,
    **kwargs: Any,
) -> Any:
    """Call each of ``funcs`` with the same arguments: a list of their results, in that order.

    In sync code one after another; inside asyncio or Trio all at once, as an awaitable of the list. ``timeout``
    is for each call by itself.
    """
    options = _Options(timeout, executor)
    calls = [(func, args, kwargs, options) for func in funcs]
    if _library() is None:
        return [_call(*call) for call in calls]
    return _all_at_once(calls, False)


def parallel_map(
    calls: Iterable[tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any], float | None]],
    *,
    executor: Executor | None = None,
    return_exceptions: bool = False,
) -> Any:
    """Make all ``calls``, each ``(func, args, kwargs, timeout)``, at once: a list of the results, in their order.

    In sync code too: async functions on the bridge's loop, sync ones on its pool or ``executor``. Inside asyncio
    or Trio it is an awaitable of the list.

    return_exceptions: put a call's exception into its place in the list. Else the first one is raised, and the
        other calls are cancelled; a sync function that runs already goes on, unwatched.
    """
    ready = [(func, args, kwargs, _Options(timeout, executor)) for func, args, kwargs, timeout in calls]
    if _library() is None:
        return _core.run_sync(_all_in_asyncio(ready, return_exceptions))
    return _all_at_once(ready, return_exceptions)


# By name, for a decorator would hide from type checkers how the arguments are called.
for _function in (call_any, call_map, parallel_map):
    globals()[_function.__name__] = _core.frameless(_function)


# -- the decorator ------------------------------------------------------------


class Bridged(Generic[_P, _T]):
    """A function that is called by ``call_any``, whoever calls it. Made by ``bridged``.

    ``sync(...)`` always blocks and returns the result: a sync function simply runs, with no time-out; an async
    one runs on the bridge. ``async_(...)`` always is a coroutine: a sync function runs on a thread.
    """

    sync: Callable[_P, _T]
    async_: Callable[_P, Coroutine[Any, Any, _T]]

    def __init__(self, func: Callable[..., Any], options: _Options) -> None:
        if not callable(func):
            raise TypeError(f"bridged() takes a function, not {func!r}")
        functools.update_wrapper(self, func)
        try:
            self.__signature__ = inspect.signature(func)
        except ValueError:  # some of C's tell none
            pass
        self._func = func
        self._options = options
        self.async_ = _async_face(func, options)
        self.sync = _sync_face(func, options.timeout) if _is_async(func) else func

    @_core.frameless
    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> Any:
        return _call(self._func, args, kwargs, self._options)

    def __get__(self, instance: object, owner: type | None = None) -> Bridged[..., _T]:
        if instance is None:
            return self
        bind = getattr(type(self._func), "__get__", None)
        return Bridged(bind(self._func, instance, owner), self._options) if bind else self

    def __repr__(self) -> str:
        return f"<bridged {self._func!r}>"

    def __reduce__(self) -> str:
        return self._func.__qualname__  # by its name, as functions are pickled


def _like(func: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``functools.wraps(func)``. That fails on 3.12 for a class whose type parameters are a descriptor: ``type``."""
    assignments: tuple[str, ...] = functools.WRAPPER_ASSIGNMENTS
    names: list[Any] = [name for name in assignments if name != "__type_params__"]
    if isinstance(getattr(func, "__type_params__", None), tuple):
        names.append("__type_params__")
    return functools.wraps(func, names)


def _async_face(func: Callable[..., Any], options: _Options) -> Callable[..., Coroutine[Any, Any, Any]]:
    @_like(func)
    async def async_(*args: Any, **kwargs: Any) -> Any:
        try:
            return await _call(func, args, kwargs, options)
        except BaseException as error:
            cut(error)
            raise

    return async_


def _sync_face(func: Callable[..., Any], timeout: float | None) -> Callable[..., Any]:
    @_core.frameless
    @_like(func)
    def sync(*args: Any, **kwargs: Any) -> Any:
        return jobs.run_blocking(func(*args, **kwargs), jobs.name_of(func), timeout)

    return sync


class _Decorator(Protocol):
    @overload
    def __call__(self, func: Callable[_P, Coroutine[Any, Any, _T]], /) -> Bridged[_P, _T]: ...
    @overload
    def __call__(self, func: Callable[_P, _T], /) -> Bridged[_P, _T]: ...


@overload
def bridged(func: Callable[_P, Coroutine[Any, Any, _T]], /) -> Bridged[_P, _T]: ...
@overload
def bridged(func: Callable[_P, _T], /) -> Bridged[_P, _T]: ...
@overload
def bridged(
    func: None = None,
    /,
    *,
    timeout: float | None = None,
    executor: Executor | None = None,
    force_offload: bool = False,
) -> _Decorator: ...
def bridged(
    func: Callable[..., Any] | None = None,
    /,
    *,
    timeout: float | None = None,
    executor: Executor | None = None,
    force_offload: bool = False,
) -> Any:
    """Decorator, with or without options: calls of the function go through ``call_any`` with these options.

    Its name, docstring and signature stay. ``.sync`` and ``.async_`` are its two faces: see ``Bridged``. Of a
    function in a class it makes a method.
    """
    options = _Options(timeout, executor, force_offload)
    if func is not None:
        return Bridged(func, options)
    return lambda func: Bridged(func, options)


# -- one call -----------------------------------------------------------------


class _Options:
    __slots__ = ("executor", "force_offload", "timeout")

    def __init__(self, timeout: float | None, executor: Executor | None, force_offload: bool = False) -> None:
        if timeout is not None and not 0 <= timeout < float("inf"):
            raise ValueError(f"timeout must be a number of seconds from 0 on, or None, not {timeout!r}")
        self.timeout = timeout
        self.executor = executor
        self.force_offload = force_offload

    def over(self, other: _Options) -> _Options:
        """These, and the other's where these say nothing."""
        return _Options(
            other.timeout if self.timeout is None else self.timeout,
            self.executor or other.executor,
            self.force_offload or other.force_offload,
        )


def _call(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: _Options) -> Any:
    if isinstance(func, Bridged):
        options = options.over(func._options)
        func = func._func
    library = _library()
    if _is_async(func):
        if options.timeout is None:
            awaitable = func(*args, **kwargs)
            return awaitable if library else _core.run_sync(awaitable)
        if library is None:
            return jobs.run_blocking(func(*args, **kwargs), jobs.name_of(func), options.timeout)
        limited = jobs.trio_limited if library == "trio" else jobs.asyncio_limited
        call = functools.partial(func, *args, **kwargs)
        return _named(jobs.name_of(func), limited, call, jobs.name_of(func), options.timeout)
    if library is not None:
        return _named(jobs.name_of(func), _offload, func, args, kwargs, options, library)
    if options.timeout is None and not options.force_offload:
        return func(*args, **kwargs)
    job = jobs.Job(
        functools.partial(func, *args, **kwargs), jobs.name_of(func), options.timeout, options.executor
    )
    _core.run_sync(jobs.asyncio_offload(job, options.executor))
    return job.take()


def _named(name: str, work: Callable[..., Awaitable[Any]], *args: Any) -> Awaitable[Any]:
    """A coroutine of ours that others get: warnings, messages and tasks call it as they do."""
    coro = _unseen(work, *args)
    for attribute in ("__name__", "__qualname__"):
        setattr(coro, attribute, name)
    return coro


async def _unseen(work: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """What comes out of here has no frame of ours in its traceback; before CPython 3.11 this one only."""
    try:
        return await work(*args)
    except BaseException as error:
        cut(error)
        if sys.version_info < (3, 11):
            raise error  # a bare one would bring back what was cut
        raise


async def _offload(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: _Options, library: str
) -> Any:
    wanted: object = options.executor
    if wanted is None and library == "trio":
        wanted = sys.modules["trio"].lowlevel.current_root_task()  # this run's threads
    job = jobs.Job(functools.partial(func, *args, **kwargs), jobs.name_of(func), options.timeout, wanted)
    await (jobs.trio_offload if library == "trio" else jobs.asyncio_offload)(job, options.executor)
    return job.take()


def _is_async(func: Any) -> bool:
    while isinstance(func, functools.partial):
        func = func.func
    if sys.version_info < (3, 14):
        is_async = asyncio.iscoroutinefunction  # knows the marks of before 3.12 too
    else:
        is_async = inspect.iscoroutinefunction
    return is_async(func) or (not inspect.isroutine(func) and is_async(getattr(type(func), "__call__", None)))


# -- many calls ---------------------------------------------------------------


def _all_at_once(calls: list[Any], return_exceptions: bool) -> Awaitable[list[Any]]:
    work = _all_in_trio if _library() == "trio" else _all_in_asyncio
    return _named("parallel_map", work, calls, return_exceptions)


class _Failed(Exception):
    """Brings any exception through a task: one that is no ``Exception`` would end the loop's run there."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


async def _all_in_asyncio(calls: list[Any], return_exceptions: bool) -> list[Any]:
    async def one(call: Any) -> Any:
        try:
            return await _call(*call)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if return_exceptions and isinstance(error, Exception):
                cut(error)
                return error
            raise _Failed(error) from None

    tasks = [asyncio.ensure_future(one(call)) for call in calls]
    try:
        results = await asyncio.gather(*tasks, return_exceptions=return_exceptions)
    except _Failed as failed:
        failure: BaseException | None = failed.error
    else:
        failure = next((result.error for result in results if isinstance(result, _Failed)), None)
    finally:
        rest = [task for task in tasks if not task.done()]
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest)
    if failure is None:
        return results
    try:
        raise failure
    finally:
        del failure, tasks, rest  # the traceback has this frame


async def _all_in_trio(calls: list[Any], return_exceptions: bool) -> list[Any]:
    trio: Any = sys.modules["trio"]
    results: list[Any] = [None] * len(calls)
    failures: list[Exception] = []

    async def one(number: int, call: Any) -> None:
        try:
            results[number] = await _call(*call)
        except Exception as error:
            if return_exceptions:
                cut(error)
                results[number] = error
            else:
                failures.append(error)
                nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for number, call in enumerate(calls):
            nursery.start_soon(one, number, call)
    if failures:
        try:
            raise failures[0]
        finally:
            failures.clear()
    return results


# -- who calls ----------------------------------------------------------------


def _library() -> str | None:
    """What runs the code that calls: ``"asyncio"``, ``"trio"``, or nothing."""
    trio_task = _trio_task()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return None if trio_task is None else "trio"
    if trio_task is None:
        return "asyncio"
    task = asyncio.current_task()
    if task is None:
        return "trio"  # as a guest of asyncio's loop
    # One inside the other, and both on this thread: it is the inner one.
    return _inner(task.get_coro(), trio_task.coro)


def _trio_task() -> Any:
    lowlevel: Any = sys.modules.get("trio.lowlevel")
    if lowlevel is None:
        return None
    try:
        return lowlevel.current_task()
    except (AttributeError, RuntimeError):  # it is just being imported; none runs here
        return None


def _inner(asyncio_coro: Any, trio_coro: Any) -> str:
    outermost = {
        getattr(asyncio_coro, "cr_frame", None): "asyncio",
        getattr(trio_coro, "cr_frame", None): "trio",
    }
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame in outermost:
            return outermost[frame]
        frame = frame.f_back
    return "asyncio"
