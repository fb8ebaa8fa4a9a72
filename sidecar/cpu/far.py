"""The far side of a call, in whatever worker it is: run it inside its request, and tell what came of it."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from sidecar._envelope import unpack
from sidecar.cpu.pickling import Buffers, dumps_error, dumps_result, loads_call

__all__ = ["run", "run_packed"]


def run(envelope: bytes | None, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``fn(*args, **kwargs)`` inside the request of the envelope, in a context of its own."""
    request = unpack(envelope) if envelope is not None else None
    if request is None:
        return contextvars.Context().run(fn, *args, **kwargs)
    try:
        return request._context().run(fn, *args, **kwargs)
    finally:
        request._end()


def run_packed(
    packed: Any,
    envelope: bytes | None,
    name: str,
    buffers: Iterable[Any] | None = None,
    buffer_callback: Buffers | None = None,
) -> bytes:
    """A call of ``pickling.dumps_call``; its outcome for ``pickling.loads_outcome``. It raises nothing."""
    try:
        fn, args, kwargs = loads_call(packed, name, buffers)
        del packed, buffers
        result = run(envelope, fn, args, kwargs)
    except BaseException as error:
        # A worker ends when it is told to, not by what a function raises.
        return dumps_error(error, name, _inside(error.__traceback__))
    return dumps_result(result, name, buffer_callback)


def _inside(at: TracebackType | None) -> TracebackType | None:
    """From the function's own frame on, where the error came so far."""
    own = at
    while own is not None and own.tb_frame.f_code.co_filename in (__file__, loads_call.__code__.co_filename):
        own = own.tb_next
    return own or at
