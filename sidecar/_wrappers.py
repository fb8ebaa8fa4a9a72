"""``to_async`` and ``to_sync``: the other side's face of a function, a generator, a context manager, a class."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from sidecar._wrap_async import (
    AsyncContext,
    AsyncContextIterable,
    async_context_function,
    async_function,
    async_generator_function,
)
from sidecar._wrap_class_async import async_class
from sidecar._wrap_class_sync import sync_class
from sidecar._wrap_common import (
    check_bridge,
    has,
    is_async,
    is_async_context,
    is_async_context_function,
    is_async_generator_function,
    is_context,
    is_context_function,
    is_coroutine_function,
    is_generator_function,
    refuse_coroutine,
    shown,
)
from sidecar._wrap_context import enter_context, wrap_context
from sidecar._wrap_sync import (
    stream_function,
    sync_callable,
    sync_context_function,
    sync_function,
    sync_object,
)

if TYPE_CHECKING:
    from sidecar._bridge import Sidecar
    from sidecar._wrap_types import _ToAsync, _ToSync

__all__ = ["enter_context", "to_async", "to_sync", "wrap_context"]

_NOTHING: Any = object()


def _to_async(obj: Any = _NOTHING, /, *, bridge: Sidecar | None = None) -> Any:
    """The async face of something blocking; its work runs on the bridge's worker pool. Also a decorator.

    obj: a function or method -> an async function; a generator function or an iterator -> an async generator
        function or an async generator, all steps in one context; a function made by ``@contextmanager`` or a
        context manager -> the async one; a class -> a class whose instances hold a real object and have async
        methods. What is async already is returned as it is.
    bridge: ``None`` for this process's own, looked up at each call.
    Raises ``TypeError`` for anything else.
    """
    if obj is _NOTHING:
        return functools.partial(_to_async, bridge=bridge)
    check_bridge(bridge, "to_async")
    refuse_coroutine(obj, "to_async")
    if isinstance(obj, type):
        return async_class(obj, bridge)
    if isinstance(obj, (staticmethod, classmethod)):
        return type(obj)(_to_async(obj.__func__, bridge=bridge))
    if is_async(obj):
        return obj
    if is_generator_function(obj):
        return async_generator_function(obj, obj, bridge)
    if is_context_function(obj):
        return async_context_function(obj, obj, bridge)
    if not inspect.isroutine(obj):
        face = _async_object(obj, bridge)
        if face is not None:
            return face
    if callable(obj):
        return async_function(obj, obj, bridge)
    raise TypeError(
        f"to_async() takes a function, a generator, a context manager or a class, not {shown(obj)}"
        + _hint(obj, "it is awaitable as it is")
    )


def _async_object(obj: Any, bridge: Sidecar | None) -> Any:
    if is_async_context(obj) or has(obj, "__aiter__"):
        return obj
    if is_context(obj):
        return (AsyncContextIterable if has(obj, "__next__") else AsyncContext)(obj, bridge)
    if has(obj, "__next__"):
        return async_generator_function(lambda: obj, obj, bridge)()
    return None


def _to_sync(obj: Any = _NOTHING, /, *, timeout: float | None = None, bridge: Sidecar | None = None) -> Any:
    """The sync face of something async; it runs on the bridge's loop. Also a decorator.

    obj: an async function or method -> a function; an async generator function or an async iterable -> a
        function that returns a sync iterator, or that iterator (``stream``'s); a function made by
        ``@asynccontextmanager`` or an async context manager -> the sync one, entered and left in one task; a
        class -> a class whose instances hold a real object and have sync methods.
    timeout: seconds for each call of an async function or method, as ``run_sync``'s.
    bridge: ``None`` for this process's own, looked up at each call.
    Raises ``TypeError`` for anything else, and the face of a plain function if what that returns is not async.
    """
    if obj is _NOTHING:
        return functools.partial(_to_sync, timeout=timeout, bridge=bridge)
    check_bridge(bridge, "to_sync")
    refuse_coroutine(obj, "to_sync")
    if isinstance(obj, type):
        return sync_class(obj, bridge, timeout)
    if isinstance(obj, (staticmethod, classmethod)):
        return type(obj)(_to_sync(obj.__func__, timeout=timeout, bridge=bridge))
    if is_coroutine_function(obj):
        return sync_function(obj, obj, bridge, timeout)
    if is_async_generator_function(obj):
        _refuse_timeout(timeout, obj)
        return stream_function(obj, obj, bridge)
    if is_async_context_function(obj):
        _refuse_timeout(timeout, obj)
        return sync_context_function(obj, obj, bridge)
    if not inspect.isroutine(obj) and (is_async_context(obj) or has(obj, "__aiter__")):
        _refuse_timeout(timeout, obj)
        return sync_object(obj, bridge)
    if is_generator_function(obj) or is_context_function(obj):
        raise TypeError(f"to_sync() is for async code; {shown(obj)} is sync already")
    if callable(obj):
        return sync_callable(obj, obj, bridge, timeout)
    raise TypeError(
        "to_sync() takes an async function, async generator, async context manager or class, "
        f"not {shown(obj)}" + _hint(obj, "for an awaitable by itself there is sidecar.run_sync()")
    )


def _refuse_timeout(timeout: float | None, obj: Any) -> None:
    if timeout is not None:
        raise TypeError(
            f"to_sync({shown(obj)}, timeout={timeout!r}): a time-out is for calls of async functions"
        )


def _hint(obj: object, of_awaitable: str) -> str:
    if inspect.isawaitable(obj):
        return f" ({of_awaitable})"
    return " (put it below @property)" if isinstance(obj, property) else ""


for _function, _name in ((_to_async, "to_async"), (_to_sync, "to_sync")):
    _function.__name__ = _function.__qualname__ = _name

to_async: _ToAsync = _to_async
to_sync: _ToSync = _to_sync


def to_async_of(bridge: Sidecar) -> _ToAsync:
    """``to_async`` with that bridge."""
    wrap: Any = functools.partial(_to_async, bridge=bridge)
    bound: _ToAsync = wrap
    return bound


def to_sync_of(bridge: Sidecar) -> _ToSync:
    """``to_sync`` with that bridge."""
    wrap: Any = functools.partial(_to_sync, bridge=bridge)
    bound: _ToSync = wrap
    return bound
