"""A request's context, carried into threads; and which loop there is."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import importlib
import importlib.util
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

__all__ = [
    "get_preferred_loop",
    "get_request_ctx",
    "has_uvloop_policy",
    "is_uvloop",
    "request_context",
    "set_request_ctx",
    "spawn_thread_with_ctx",
]

logger = logging.getLogger(__name__)
_request_ctx: contextvars.ContextVar[Any] = contextvars.ContextVar("request_ctx")


def set_request_ctx(ctx: Any) -> None:
    """From here on, in this context."""
    _request_ctx.set(ctx)


def get_request_ctx(default: Any = None) -> Any:
    return _request_ctx.get(default)


@contextlib.contextmanager
def request_context(ctx: Any) -> Iterator[None]:
    """``set_request_ctx(ctx)`` for a block."""
    token = _request_ctx.set(ctx)
    try:
        yield
    finally:
        _request_ctx.reset(token)


def spawn_thread_with_ctx(target: Callable[..., Any], *args: Any, **kwargs: Any) -> threading.Thread:
    """A daemon thread, started, that calls ``target`` in a copy of the caller's context."""
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(target, *args), kwargs=kwargs, daemon=True)
    thread.start()
    return thread


def get_preferred_loop() -> asyncio.AbstractEventLoop:
    """The running loop; in sync code this thread's own, made and set where there is none. It is not the bridge's."""
    running = asyncio._get_running_loop()
    if running is not None:
        return running
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # what it says is what is done below
        try:
            loop = asyncio.get_event_loop()
        except RuntimeError:
            pass
        else:
            if not loop.is_closed():
                return loop
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def _policy() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return asyncio.get_event_loop_policy()


def has_uvloop_policy() -> bool:
    """Whether the event loop policy is uvloop's."""
    uvloop = sys.modules.get("uvloop")
    return uvloop is not None and isinstance(_policy(), uvloop.EventLoopPolicy)


def is_uvloop(loop: asyncio.AbstractEventLoop | None = None) -> bool:
    """Whether new loops are uvloop's, and ``loop`` is one; by default that of ``get_preferred_loop()``."""
    return has_uvloop_policy() and isinstance(loop or get_preferred_loop(), sys.modules["uvloop"].Loop)


def install_uvloop() -> None:
    """As synchronaut's import does: where uvloop is installed and the policy is asyncio's default, uvloop's it is.

    Bridges have a loop of their own; this is for the program's other loops.
    """
    if type(_policy()).__module__.partition(".")[0] != "asyncio" or importlib.util.find_spec("uvloop") is None:
        return
    uvloop = importlib.import_module("uvloop")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    logger.warning("asyncio's event loop policy is now uvloop's; set another one before this import to keep that")
