"""Ctrl-C in the main thread: what it calls is cancelled first, and cleans up, wherever it is just then.

The calling thread runs the coroutine on a bridge, so a handler that raises may raise inside it. synchronicity's runs
in a thread that no signal handler ever runs in; here what a handler raises is kept until the coroutine is through.
"""

from __future__ import annotations

import asyncio
import importlib
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["runs_in_main_thread", "uninterrupted"]

# Those of C: they are called twice a call, and signal's own take ten times as long.
_c: Any = importlib.import_module("_signal")
_set: Callable[[int, Any], Any] = _c.signal
_get: Callable[[int], Any] = _c.getsignal
_SIGINT = int(signal.SIGINT)
_main = threading.main_thread()


def runs_in_main_thread() -> bool:
    return threading.get_ident() == _main.ident


class _Deferred:
    """A handler that raises no error into the coroutine, but cancels it; a second signal does not wait."""

    __slots__ = ("error", "handler")

    def __init__(self, handler: Callable[[int, FrameType | None], object]) -> None:
        self.handler = handler
        self.error: BaseException | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        running = asyncio._get_running_loop()
        task = None if running is None else asyncio.current_task(running)
        if task is None or self.error is not None:
            self.handler(number, frame)
            return
        try:
            self.handler(number, frame)
        except BaseException as error:
            self.error = error
            task.cancel()


def uninterrupted(call: Callable[..., Any], *args: Any) -> Any:
    """``call(*args)``, which runs a coroutine on this thread, the main one."""
    handler = _get(_SIGINT)
    if not callable(handler):  # nothing of Python's that could raise
        return call(*args)
    deferred = _Deferred(handler)
    _set(_SIGINT, deferred)
    try:
        found = call(*args)
    except BaseException:
        if deferred.error is None:
            raise
    finally:
        if _get(_SIGINT) is deferred:  # else the coroutine has set another one
            _set(_SIGINT, handler)
    if deferred.error is not None:
        raise deferred.error
    return found
