"""uWSGI's spooler: what a request spools runs in the spooler as that request, with its id and its trace."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from sidecar import _core
from sidecar._envelope import pack, unpack

__all__ = ["carry", "receive"]

_KEY = b"sidecar"


def carry() -> None:
    """Before the application is loaded: ``uwsgi.spool`` puts the envelope of the request in progress to each job."""
    uwsgi: Any = importlib.import_module("uwsgi")
    for name in ("spool", "send_to_spooler"):
        original = getattr(uwsgi, name, None)
        if original is not None and not hasattr(original, "__wrapped__"):
            setattr(uwsgi, name, _carrying(original))


def _carrying(original: Callable[..., Any]) -> Callable[..., Any]:
    def spool(*args: Any, **kwargs: Any) -> Any:
        request = _core.current()
        # A job is a dict of bytes; uWSGI refuses whatever else.
        if request is None or len(args) != 1 or not isinstance(args[0], dict):
            return original(*args, **kwargs)
        return original({_KEY: pack(request), **args[0]}, **kwargs)

    functools.update_wrapper(spool, original, ("__name__", "__doc__"))
    return spool


def receive() -> None:
    """In a spooler: its function runs in the context of the request that has spooled the job."""
    uwsgi: Any = importlib.import_module("uwsgi")
    function = getattr(uwsgi, "spooler", None)
    if function is not None and not hasattr(function, "__wrapped__"):
        uwsgi.spooler = _receiving(function)


def _receiving(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(function)
    def spooler(job: dict[Any, Any]) -> Any:
        packed = job.pop(_KEY, None)
        request = unpack(packed) if isinstance(packed, bytes) else None
        if request is None:
            return function(job)
        try:
            return request._context().run(function, job)
        finally:
            request._end()

    return spooler
