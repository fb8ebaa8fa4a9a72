"""Celery: a task runs inside the request that has sent it, with its id and its trace.

One line, in the module that makes the Celery application, before anything is sent::

    import sidecar.celery

    sidecar.celery.install()

A message that is sent in a request has the request's envelope as a header. In the worker, ``sidecar.current()`` shows
the request for as long as the task runs; it has no deadline, for a task outlives the request. What the task begins ends
with it. A retry, and whatever a task sends, has the same id.

The process that sends and the worker both need the line. The header is believed: who can write to the broker can say
any id.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from sidecar import _core, context
from sidecar._bridge import shutdown
from sidecar._envelope import pack, unpack

__all__ = ["HEADER", "install"]

HEADER = "sidecar"
"""Of a task's message."""

# Of a task's own ``request``: what is to be done at its end, the last first.
_UNDO = "_sidecar_undo"


def install() -> None:
    """Connect to Celery's signals, which are those of all Celery applications of the process. Twice is once.

    In a worker of processes (prefork) each has a bridge of its own, started before its first task and drained at its
    end.
    """
    signals: Any = importlib.import_module("celery.signals")
    for name, receiver in _RECEIVERS.items():
        getattr(signals, name).connect(receiver, weak=False, dispatch_uid=f"sidecar.{name}")


def _carry(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """What is sent outside of any request keeps the header that it has, as a message that is sent again does."""
    request = _core.current()
    if request is not None and headers is not None:
        headers[HEADER] = pack(request).decode()


def _enter(task: Any, **_: Any) -> None:
    """A task without the header stays where it is: in no request, or, run in place, in the caller's."""
    told = (task.request.headers or {}).get(HEADER)
    request = unpack(told.encode()) if isinstance(told, str) else None
    undo: list[Callable[[], object]] = []
    if not task.request.is_eager:
        undo.append(functools.partial(_put_back, context.get_request_ctx()))
    if request is not None:
        undo += [request._end, functools.partial(_core._request_var.reset, _core._request_var.set(request))]
    setattr(task.request, _UNDO, undo)


def _leave(task: Any, **_: Any) -> None:
    undo = task.request.__dict__.pop(_UNDO, [])
    while undo:
        undo.pop()()


def _put_back(mapping: Any) -> None:
    """All tasks of a process share one context: what one has set, the next would see."""
    if context.get_request_ctx() is not mapping:
        context.set_request_ctx(mapping)


def _start(**_: Any) -> None:
    _core.get_bridge().start()


def _drain(**_: Any) -> None:
    """Such a process ends without the interpreter's own end."""
    shutdown()


_RECEIVERS = {
    "before_task_publish": _carry,
    "task_prerun": _enter,
    "task_postrun": _leave,
    "worker_process_init": _start,
    "worker_process_shutdown": _drain,
}
