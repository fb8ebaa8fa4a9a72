"""Flask in one line: the request scope around an application, its async views on the worker's loop.

::

    from sidecar.flask import Sidecar

    Sidecar(app)                 # or, with a factory: sidecar = Sidecar(); sidecar.init_app(app)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from flask import Flask, Response

from sidecar import _core
from sidecar._options import OPTIONS
from sidecar._request import late_text, note_overload, overload_text, retry_after
from sidecar.errors import ClientDisconnected, DeadlineExceeded, Overloaded

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    _P = ParamSpec("_P")

__all__ = ["Sidecar"]

_T = TypeVar("_T")

# As they are called in app.config.
_OPTIONS = {name: f"SIDECAR_{name.upper()}" for name in OPTIONS}


class Sidecar:
    """The extension. ``Sidecar(app)`` does ``init_app(app)``; one ``Sidecar()`` may serve several applications."""

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Put the request scope around ``app``, and have its async functions run by ``sidecar.run_sync``.

        An application that has the scope already, from this object or another, is left as it is. So is
        ``async_to_sync`` where the application's class, or its owner, has set one.
        """
        if "sidecar" in app.extensions:
            return
        app.extensions["sidecar"] = self
        self._add_scope(app)
        if _has_flasks_own(app, "async_to_sync"):
            app.async_to_sync = async_to_sync  # type: ignore[method-assign]

    def _add_scope(self, app: Flask) -> None:
        """The one place where an application and the scope's options meet.

        Where the server opened a scope (the uWSGI plugin, gunicorn's hook), the middleware passes calls through.
        """
        options = {name: app.config[key] for name, key in _OPTIONS.items() if key in app.config}
        app.wsgi_app = _core.WSGIMiddleware(app.wsgi_app, **options)  # type: ignore[assignment,method-assign]
        app.register_error_handler(DeadlineExceeded, _answer_late)
        app.register_error_handler(ClientDisconnected, _answer_nobody)
        app.register_error_handler(Overloaded, _answer_overload)


def _answer_late(error: Exception) -> Response:
    """Where the application has no handler of its own for it."""
    request = _core.current()
    text = str(error) if request is None else late_text(request)
    return Response(text, status=504, content_type="text/plain; charset=utf-8")


def _answer_overload(error: Overloaded) -> Response:
    request = _core.current()
    if request is not None:
        note_overload(request, error)
    text = str(error) if request is None else overload_text(request)
    return Response(text, 503, {"Retry-After": retry_after(error)}, content_type="text/plain; charset=utf-8")


def _answer_nobody(error: Exception) -> Response:
    # The scope keeps it from the server.
    return Response(status=499)


def async_to_sync(func: Callable[_P, Coroutine[Any, Any, _T]]) -> Callable[_P, _T]:
    """What Flask calls an async view, hook, error handler or signal receiver by.

    What ``func`` sets in context variables is set for the functions that Flask calls after it, as it is with
    asgiref's.
    """

    # Not func's __dict__, too: it may hold the mark of a coroutine function, which this is not.
    @_core.frameless
    @functools.wraps(func, updated=())
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return _core.run_sync(func(*args, **kwargs), propagate=True)

    return call


def _has_flasks_own(app: Flask, name: str) -> bool:
    return getattr(type(app), name) is getattr(Flask, name) and name not in vars(app)
