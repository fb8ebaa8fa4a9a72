"""A request-wide mapping that goes wherever the request's code goes: coroutines, tasks, threads, the pool."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    _P = ParamSpec("_P")

__all__ = ["get_request_ctx", "request_context", "set_request_ctx", "spawn_thread_with_ctx"]

_request_ctx: contextvars.ContextVar[Any] = contextvars.ContextVar("sidecar_request_ctx")


def set_request_ctx(ctx: Mapping[str, Any] | None) -> None:
    """Make ``ctx`` the request's mapping, from here on in this context and in what it starts.

    The mapping itself is handed on, not a copy: whoever changes it changes it for all.
    """
    _request_ctx.set(ctx)


def get_request_ctx(default: Any = None) -> Any:
    """The request's mapping, or ``default`` where none was set."""
    return _request_ctx.get(default)


class request_context:  # noqa: N801 - it reads as the function that it stands for
    """The request's mapping for the time of a ``with`` or an ``async with``; what was before comes back after.

    Raises ``RuntimeError`` if it is entered a second time before it was left.
    """

    def __init__(self, ctx: Mapping[str, Any] | None) -> None:
        self._ctx = ctx
        self._token: contextvars.Token[Any] | None = None

    def __enter__(self) -> Mapping[str, Any] | None:
        if self._token is not None:
            raise RuntimeError("this request_context is entered already: make another one")
        self._token = _request_ctx.set(self._ctx)
        return self._ctx

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        token, self._token = self._token, None
        if token is None:
            raise RuntimeError("this request_context is not entered")
        _request_ctx.reset(token)

    async def __aenter__(self) -> Mapping[str, Any] | None:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)


def spawn_thread_with_ctx(
    target: Callable[_P, object], /, *args: _P.args, **kwargs: _P.kwargs
) -> threading.Thread:
    """Start a daemon thread that runs ``target`` in a copy of the caller's context, and return it.

    All context variables go with it, not the request's mapping alone. What ``target`` raises goes to
    ``threading.excepthook``, as from any thread.
    """
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(target, *args), kwargs=kwargs, daemon=True)
    thread.start()
    return thread
