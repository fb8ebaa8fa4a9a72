"""The calls of ``sidecar.Sidecar`` on this process's own bridge, looked up at each call."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from sidecar._bridge import Sidecar
from sidecar._core import frameless, get_bridge
from sidecar.cpu.run import RunCpu

if TYPE_CHECKING:
    from sidecar._call_types import _StreamOf, _Submit

__all__ = ["gather", "run_cpu", "stream", "submit"]


def _stream(
    source: Any,
    /,
    *args: Any,
    prefetch: int = 0,
    context: contextvars.Context | None = None,
    propagate: bool = False,
    **kwargs: Any,
) -> Any:
    return get_bridge().stream(
        source, *args, prefetch=prefetch, context=context, propagate=propagate, **kwargs
    )


def _submit(work: Any, /, *args: Any, detach: bool = False, **kwargs: Any) -> Any:
    return get_bridge().submit(work, *args, detach=detach, **kwargs)


@frameless
def gather(*aws: Awaitable[Any], return_exceptions: bool = False, timeout: float | None = None) -> Any:
    return get_bridge().gather(*aws, return_exceptions=return_exceptions, timeout=timeout)


def _as_method(function: Any, name: str) -> Any:
    """It is shown as the method of ``Sidecar`` that it calls."""
    function.__name__ = function.__qualname__ = name
    function.__doc__ = getattr(Sidecar, name).__doc__
    return frameless(function)


gather.__doc__ = Sidecar.gather.__doc__
stream: _StreamOf = _as_method(_stream, "stream")
submit: _Submit = _as_method(_submit, "submit")
run_cpu = RunCpu(None)
