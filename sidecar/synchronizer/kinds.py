"""What a function gives, by its kind and its annotations."""

from __future__ import annotations

import collections.abc
import contextlib
import inspect
import re
import sys
import typing
from collections.abc import Callable
from typing import Any

# A face of ours hides what it wraps: outside it is what its annotations cannot say.
FACE = "__sidecar_face__"

_ITERABLES = frozenset(
    (collections.abc.AsyncIterator, collections.abc.AsyncIterable, collections.abc.AsyncGenerator)
)
_AWAITABLES = frozenset((collections.abc.Awaitable, collections.abc.Coroutine))
_CONTEXTS = frozenset((contextlib.AbstractAsyncContextManager,))
_ASYNC = _ITERABLES | _AWAITABLES | _CONTEXTS
_BY_NAME: dict[str, Any] = {kind.__name__: kind for kind in _ASYNC}
_BY_NAME["AsyncContextManager"] = contextlib.AbstractAsyncContextManager


def unwrapped(function: Any) -> Any:
    """What decorators have wrapped, as far as it is not one of our own faces."""
    seen: set[int] = set()
    while hasattr(function, "__wrapped__") and not hasattr(function, FACE) and id(function) not in seen:
        seen.add(id(function))
        function = function.__wrapped__
    return function


def is_coroutine_function(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(unwrapped(function))


def has_async_face(function: Any) -> bool:
    """A coroutine function, an async generator, or one whose annotations name something async, however deep."""
    inner = unwrapped(function)
    if any(inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn) for fn in (function, inner)):
        return True
    return any(_origins(annotation, function) for annotation in annotations_of(function).values())


class Returns:
    """What a function says that it returns: it counts where the value itself does not tell."""

    def __init__(self, function: Any) -> None:
        annotation = annotations_of(function).get("return")
        # Only the outermost: a list of awaitables is a list.
        outer = _resolved(annotation, function)
        origin = getattr(outer, "__origin__", outer)
        self.awaitable = _is_in(origin, _AWAITABLES)
        self.iterable = _is_in(origin, _ITERABLES)
        self.context = _is_in(origin, _CONTEXTS)


def annotations_of(function: Any) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        import annotationlib

        try:
            return annotationlib.get_annotations(function, format=annotationlib.Format.FORWARDREF)
        except Exception:  # an annotation that fails is no reason not to wrap
            return {}
    found = getattr(function, "__annotations__", None)
    return found if isinstance(found, dict) else {}


def _is_in(origin: Any, kinds: frozenset[Any]) -> bool:
    return isinstance(origin, collections.abc.Hashable) and origin in kinds


def _resolved(annotation: Any, function: Callable[..., Any]) -> Any:
    """A string is evaluated where the function is; where that fails, its outermost name is looked at."""
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if not isinstance(annotation, str):
        return annotation
    namespace = getattr(unwrapped(function), "__globals__", None) or vars(sys.modules[function.__module__])
    try:
        return eval(annotation, dict(namespace))
    except Exception:
        match = re.match(r"\s*(?:\w+\s*\.\s*)*(\w+)", annotation)
        return _BY_NAME.get(match.group(1)) if match else None


def _origins(annotation: Any, function: Callable[..., Any]) -> bool:
    annotation = _resolved(annotation, function)
    if _is_in(getattr(annotation, "__origin__", annotation), _ASYNC):
        return True
    arguments = getattr(annotation, "__args__", ())
    if not isinstance(arguments, tuple):
        return False
    return any(_origins(argument, function) for argument in arguments)
