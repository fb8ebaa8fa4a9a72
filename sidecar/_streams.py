"""What ``stream()`` takes."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Awaitable, Iterable
from typing import Any

__all__ = ["source_of"]


def source_of(source: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    """The async iterable, or the awaitable of one, that ``stream(source, *args, **kwargs)`` names.

    Raises ``TypeError`` where it is neither, nor a function that returns one.
    """
    if not (args or kwargs) and _is_source(source):
        return source
    if not callable(source):
        if inspect.iscoroutine(source):
            source.close()  # not left "never awaited"
        raise TypeError(_refusal(source, "takes no arguments" if args or kwargs else ""))
    made = source(*args, **kwargs)
    if not _is_source(made):
        raise TypeError(_refusal(made, f"returned by {source!r}"))
    return made


def _is_source(value: object) -> bool:
    return isinstance(value, (AsyncIterable, Awaitable)) or inspect.isawaitable(value)


def _refusal(value: object, how: str) -> str:
    hint = "; a plain iterable needs no bridge: iterate it as it is" if isinstance(value, Iterable) else ""
    return (
        "stream() takes an async iterable, an awaitable of one, or a function that returns either, "
        f"not {value!r}{f' ({how})' if how else ''}{hint}"
    )
