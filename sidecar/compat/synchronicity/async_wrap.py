"""What to build wrappers with: decorators that keep names and annotations true."""

from __future__ import annotations

import contextlib
import functools
import inspect
import typing
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from sidecar.compat.synchronicity.interface import Interface
from sidecar.synchronizer.kinds import annotations_of, unwrapped

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from typing_extensions import ParamSpec

    _P = ParamSpec("_P")

__all__ = [
    "asynccontextmanager",
    "is_async_gen_function_follow_wrapped",
    "is_coroutine_function_follow_wrapped",
    "wraps_by_interface",
]

YIELD_TYPE = TypeVar("YIELD_TYPE")
SEND_TYPE = TypeVar("SEND_TYPE")


def is_coroutine_function_follow_wrapped(func: Callable[..., Any]) -> bool:
    """Whether it is a coroutine function, or wraps one by ``functools.wraps``."""
    return _follow(inspect.iscoroutinefunction, func)


def is_async_gen_function_follow_wrapped(func: Callable[..., Any]) -> bool:
    """Whether it is an async generator function, or wraps one by ``functools.wraps``."""
    return _follow(inspect.isasyncgenfunction, func)


def _follow(is_kind: Callable[[Any], bool], func: Any) -> bool:
    return is_kind(func) or is_kind(unwrapped(func))


def wraps_by_interface(
    interface: Interface, func: Callable[..., Any]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``functools.wraps(func)``; where ``func`` is a coroutine function, the async interface's wrapper is one, too."""

    def decorator(wrapper: Callable[..., Any]) -> Callable[..., Any]:
        is_async = interface is Interface._ASYNC_WITH_BLOCKING_TYPES and is_coroutine_function_follow_wrapped(func)
        if not is_async or inspect.iscoroutinefunction(wrapper):
            return functools.wraps(func)(wrapper)

        @functools.wraps(func)
        async def awaiting(*args: Any, **kwargs: Any) -> Any:
            return await wrapper(*args, **kwargs)

        return awaiting

    return decorator


def asynccontextmanager(
    f: Callable[_P, AsyncGenerator[YIELD_TYPE, SEND_TYPE]],
) -> Callable[_P, AbstractAsyncContextManager[YIELD_TYPE]]:
    """``contextlib.asynccontextmanager``, annotated with what it returns.

    Raises ``ValueError`` where the function does not say what it yields.
    """
    made = contextlib.asynccontextmanager(f)
    annotations = dict(annotations_of(f))
    if "return" not in annotations:
        raise ValueError(
            "To use the fixed @asynccontextmanager, make sure to properly annotate your wrapped function as an "
            "AsyncGenerator"
        )
    said = annotations["return"]
    if isinstance(said, str):
        said = eval(said, getattr(f, "__globals__", {}))
    annotations["return"] = typing.AsyncContextManager[typing.get_args(said)[0]]  # type: ignore[misc]
    made.__annotations__ = annotations
    return made
