"""One call, or many, of any function from anywhere."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from inspect import CO_COROUTINE
from types import FunctionType
from typing import Any

from sidecar import _core, anycall
from sidecar._anycall_jobs import name_of, run_blocking
from sidecar.anycall import CallAnyTimeout, parallel_map

__all__ = ["CallAnyTimeout", "call_any", "call_map", "parallel_map"]


def reword(error: CallAnyTimeout, func: Callable[..., Any], timeout: float | None) -> None:
    """Where sync code waits for it, an async function is a "Coroutine" in synchronaut's message."""
    if isinstance(func, anycall.Bridged):
        timeout = func._options.timeout if timeout is None else timeout
        func = func._func
    rest = f"{name_of(func)} timed out after {timeout}s"
    if error.args == (f"Function {rest}",) and anycall._is_async(func):
        error.args = (f"Coroutine {rest}",)


def _may_be_trio() -> bool:
    lowlevel: Any = sys.modules.get("trio.lowlevel")
    return lowlevel is not None and (not hasattr(lowlevel, "in_trio_run") or lowlevel.in_trio_run())


def _block(func: FunctionType, args: Any, kwargs: Any, timeout: float | None) -> Any:
    if timeout is None:
        return _core.run_sync(func(*args, **kwargs))
    try:
        return run_blocking(func(*args, **kwargs), func.__name__, timeout)
    except CallAnyTimeout as error:
        reword(error, func, timeout)
        raise


@_core.frameless
def call_any(
    func: Callable[..., Any],
    *args: Any,
    timeout: float | None = None,
    executor: Executor | None = None,
    force_offload: bool = False,
    **kwargs: Any,
) -> Any:
    """``sidecar.anycall.call_any``."""
    if type(func) is FunctionType and executor is None and not force_offload:
        # The plainest calls, without what the others need.
        running = asyncio._get_running_loop()
        if func.__code__.co_flags & CO_COROUTINE:
            if running is None and not _may_be_trio():
                return _block(func, args, kwargs, timeout)
            if running is not None and timeout is None:
                return func(*args, **kwargs)
        elif running is not None and timeout is None and not func.__dict__ and not _may_be_trio():
            # An empty __dict__: nor is it marked as a coroutine function.
            return _core.get_bridge()._on_pool(None, func, *args, **kwargs)
    try:
        return anycall.call_any(func, *args, timeout=timeout, executor=executor, force_offload=force_offload, **kwargs)
    except CallAnyTimeout as error:
        reword(error, func, timeout)
        raise


@_core.frameless
def call_map(
    funcs: Iterable[Callable[..., Any]],
    *args: Any,
    timeout: float | None = None,
    executor: Executor | None = None,
    **kwargs: Any,
) -> Any:
    """``sidecar.anycall.call_map``."""
    return anycall.call_map(funcs, *args, timeout=timeout, executor=executor, **kwargs)
