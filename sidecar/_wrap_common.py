"""What the wrappers of both directions share: what an object is, how its face looks, which frames are shown."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import reprlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from sidecar import _core
from sidecar.errors import DeadlockError

if TYPE_CHECKING:
    from sidecar._bridge import Sidecar

_F = TypeVar("_F", bound=Callable[..., Any])

# -- bridges --------------------------------------------------------------------


def check_bridge(bridge: object, what: str) -> None:
    if bridge is not None and not isinstance(bridge, _core.Bridge):
        raise TypeError(
            f"{what}(..., bridge={shown(bridge)}): a sidecar.Sidecar is wanted, or None for the default"
        )


def bridge_of(bridge: Sidecar | None) -> Sidecar:
    """The bridge for one call. The default one is asked for anew each time: a fork or a shutdown makes it another."""
    return _core.get_bridge() if bridge is None else bridge


def refuse_inside(bridge: Sidecar, what: str, manager: object) -> None:
    """Sync code is about to enter an async context manager and to wait for that: not on the thread that does it."""
    running = asyncio._get_running_loop()
    if running is not None and running is bridge.get_loop():
        raise DeadlockError(
            f"{what}({shown(manager)}) inside a coroutine of the loop it is entered on would wait for itself: "
            f"use `async with` there [{DeadlockError.code}]"
        )


# -- what an object is ------------------------------------------------------------


async def _nothing() -> AsyncIterator[None]:
    yield


# Functions that one decorator makes, contextlib's or ours, share a code object.
GENERATOR, CONTEXT, ASYNC_CONTEXT = "generator", "context", "async context"
_kinds: dict[Any, str] = {
    contextlib.contextmanager(lambda: iter(())).__code__: CONTEXT,
    contextlib.asynccontextmanager(_nothing).__code__: ASYNC_CONTEXT,
}


def acts_as(kind: str) -> Callable[[_F], _F]:
    """A face that returns an iterator or a context manager is known for it, and has a face of its own in turn."""

    def decorator(face: _F) -> _F:
        _kinds[face.__code__] = kind
        return face

    return decorator


_sides: dict[Any, str] = {}


def on_side(side: str) -> Callable[[_F], _F]:
    """A face is known for one, by its code, too: what it holds may be copied to what is none."""

    def decorator(face: _F) -> _F:
        _sides[face.__code__] = side
        return face

    return decorator


def side_of(obj: Any) -> str | None:
    """The side that a face made by ``to_async`` or ``to_sync`` is on: "async", "sync"; None for anything else."""
    return _sides.get(getattr(obj, "__code__", None))


def _kind(obj: Any) -> str | None:
    return _kinds.get(getattr(target_of(obj), "__code__", None))


def target_of(obj: Any) -> Any:
    """The function behind partials, methods and objects with ``__call__``; else ``obj`` itself."""
    while True:
        if isinstance(obj, functools.partial):
            obj = obj.func
        elif inspect.ismethod(obj):
            obj = obj.__func__
        elif inspect.isroutine(obj) or isinstance(obj, type):
            return obj
        elif inspect.isfunction(call := getattr(type(obj), "__call__", None)):
            return call
        else:
            return obj


def is_coroutine_function(obj: Any) -> bool:
    target = target_of(obj)
    # asyncio's mark is an older one than inspect's; some libraries set only that.
    marked = getattr(target, "_is_coroutine", None)
    return any(map(inspect.iscoroutinefunction, (obj, target))) or (
        marked is not None and marked is getattr(asyncio.coroutines, "_is_coroutine", None)
    )


def is_async_generator_function(obj: Any) -> bool:
    return inspect.isasyncgenfunction(target_of(obj))


def is_generator_function(obj: Any) -> bool:
    return inspect.isgeneratorfunction(target_of(obj)) or _kind(obj) == GENERATOR


def is_context_function(obj: Any) -> bool:
    """Made by ``@contextlib.contextmanager``."""
    return _kind(obj) == CONTEXT


def is_async_context_function(obj: Any) -> bool:
    """Made by ``@contextlib.asynccontextmanager``."""
    return _kind(obj) == ASYNC_CONTEXT


def is_async(obj: Any) -> bool:
    """An async function of any kind."""
    return is_coroutine_function(obj) or is_async_generator_function(obj) or is_async_context_function(obj)


def has(obj: object, *methods: str) -> bool:
    """As the interpreter looks for special methods: on the type."""
    return all(getattr(type(obj), method, None) is not None for method in methods)


def is_context(obj: object) -> bool:
    return has(obj, "__enter__", "__exit__")


def is_async_context(obj: object) -> bool:
    return has(obj, "__aenter__", "__aexit__")


_short = reprlib.Repr()
_short.maxother = 120


def shown(obj: object) -> str:
    """How a message names a value: short, and by its place in the code where it has one."""
    name = getattr(obj, "__qualname__", None)
    if isinstance(obj, type):
        return f"class {name}"
    if inspect.isroutine(obj) and isinstance(name, str):
        return f"{name}()"
    return _short.repr(obj)


def refuse_coroutine(obj: object, what: str) -> None:
    """A coroutine where its function is wanted: it is closed, so that nothing says it was never awaited."""
    # Some clients' requests are both: a coroutine, and a context manager, which is welcome.
    if isinstance(obj, Coroutine) and not is_async_context(obj):
        name = getattr(obj, "__qualname__", type(obj).__qualname__)
        obj.close()
        raise TypeError(
            f"{what}() takes the function, not the coroutine {name}(...) that it has made: write {what}({name}); "
            "a coroutine by itself is for sidecar.run_sync()"
        )


# -- how a face looks -------------------------------------------------------------

_MARKS = ("_is_coroutine", "_is_coroutine_marker")


def look_like(face: _F, original: Any) -> _F:
    """Give a face its original's name, text, signature; not its marks of being a coroutine function."""
    functools.update_wrapper(face, original)
    if isinstance(original, functools.partial):
        # Nameless, as objects with __call__ are: what it calls has a name.
        functools.update_wrapper(face, target_of(original))
        face.__wrapped__ = original  # type: ignore[attr-defined]
    for mark in _MARKS:
        face.__dict__.pop(mark, None)
    return face


# -- which frames are shown ---------------------------------------------------------

def cut(error: BaseException) -> None:
    """Take the frames of ours out of the error's traceback, before a bare ``raise`` (CPython 3.11 and later)."""
    _core.prune(error)


def set_cause_in_body(raised: BaseException, body: BaseException | None) -> None:
    """What a context's exit raised happened while the body's error was handled, though in another thread."""
    if body is None:
        return
    seen = {id(body)}
    while id(raised) not in seen:
        seen.add(id(raised))
        if raised.__context__ is None:
            raised.__context__ = body
            return
        raised = raised.__context__
