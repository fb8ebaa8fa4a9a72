"""Async context managers on a bridge: as sync ones, and entered for as long as the bridge lives."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from sidecar._core import frameless
from sidecar._resource import Resource
from sidecar._wrap_common import (
    bridge_of,
    check_bridge,
    is_async_context,
    refuse_coroutine,
    refuse_inside,
    shown,
)
from sidecar._wrap_sync import SyncContext, made

_T = TypeVar("_T")

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from typing import Union

    from sidecar._bridge import Sidecar

    _Manager = AbstractAsyncContextManager[_T]
    _Source = Union[_Manager[_T], Callable[[], Union[_Manager[_T], Awaitable[_Manager[_T]]]]]


def wrap_context(source: _Source[_T], /, *, bridge: Sidecar | None = None) -> AbstractContextManager[_T]:
    """A sync context manager that enters and exits an async one on the bridge's loop, in one task.

    source: an async context manager; or a function or class without arguments that makes one, which is called
        on the loop (for clients that want a running loop when they are made), and awaited if need be.
    bridge: ``None`` for this process's own.
    Raises ``TypeError`` for anything else. What the entering and leaving raise, and an exception that the exit
    suppresses, are as with ``async with``.
    """
    _check(source, "wrap_context", bridge)
    return SyncContext(source, bridge)


def enter_context(source: _Source[_T], /, *, bridge: Sidecar | None = None) -> _T:
    """Enter an async context manager now, and leave it when the bridge shuts down. Returns its value.

    ``source`` and ``bridge`` are ``wrap_context``'s. Each call enters anew, in one task with one context, empty at
    first. It is left as a resource is closed: the last made first, within the limit of the shutdown; what fails
    or takes longer is named in the log. ``DeadlockError`` inside a coroutine of the bridge: ``async with`` it there.
    """
    _check(source, "enter_context", bridge)
    chosen = bridge_of(bridge)
    refuse_inside(chosen, "enter_context", source)

    async def entered() -> AsyncIterator[_T]:
        async with await made(source) as value:
            yield value

    entered.__qualname__ = shown(source)
    kept: Resource[_T] = Resource(entered, chosen)
    return chosen.run_sync(_value_of(kept))


async def _value_of(kept: Resource[_T]) -> _T:
    try:
        return await kept
    except asyncio.CancelledError:
        # The caller's time-out, a signal: nobody else would ever have the value.
        loop: Any = asyncio.get_running_loop()
        await loop._lifespan.drop(kept)
        raise


_value_of.__qualname__ = "enter_context"  # the name that messages have


# By name, for a decorator would hide from type checkers how the argument is called.
for _function in (wrap_context, enter_context):
    globals()[_function.__name__] = frameless(_function)


def _check(source: Any, what: str, bridge: Any) -> None:
    check_bridge(bridge, what)
    refuse_coroutine(source, what)
    if not is_async_context(source) and not callable(source):
        raise TypeError(
            f"{what}() takes an async context manager, or a function that makes one, not {shown(source)}"
            + (": a sync one is used as it is" if hasattr(source, "__enter__") else "")
        )
