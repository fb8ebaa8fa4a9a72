"""Errors on their way out: sidecar's bridge raises them as they were raised, with none of its frames."""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Literal, TypeVar

from sidecar import _core

__all__ = [
    "NestedEventLoops",
    "UserCodeException",
    "suppress_synchronicity_tb_frames",
    "unwrap_coro_exception",
    "wrap_coro_exception",
]

_T = TypeVar("_T")


class UserCodeException(Exception):
    """Carries an error, ``exc``, through code that is not to take it for its own. A bridge never raises it."""

    def __init__(self, exc: BaseException) -> None:
        self.exc = exc
        super().__init__(exc)


class NestedEventLoops(Exception):
    """A loop was to run inside another one's coroutine."""


class suppress_synchronicity_tb_frames(AbstractContextManager[None]):
    """Takes the bridge's frames out of the traceback of what is raised inside."""

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> Literal[False]:
        if exc is not None:
            _core.prune(exc)
        return False


async def wrap_coro_exception(coro: Coroutine[Any, Any, _T]) -> _T:
    """Await it. Its errors need no wrapping to cross a bridge."""
    return await coro


async def unwrap_coro_exception(coro: Coroutine[Any, Any, _T]) -> _T:
    """Await it, and raise what a ``UserCodeException`` carries."""
    try:
        return await coro
    except UserCodeException as error:
        carried = error.exc
    carried.__suppress_context__ = True
    raise carried
