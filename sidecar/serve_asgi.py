"""An ASGI application served by a WSGI server, on the worker's bridge.

By configuration: ``SIDECAR_ASGI=package.module:app`` in the environment, and as the server's application
``sidecar.serve_asgi:application``. In code::

    application = sidecar.serve_asgi.ASGIApplication(app)
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sidecar._core import run_sync
from sidecar._serve_asgi_cycle import END, ERROR, NO_BODY, READ, Cycle
from sidecar._serve_asgi_lifespan import Lifespan
from sidecar._serve_asgi_scope import status_line, wants_websocket
from sidecar._support import logger
from sidecar.errors import SidecarError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from sidecar._serve_asgi_cycle import _App

__all__ = ["ASGIApplication", "load"]

_NO_WEBSOCKETS = b"This server takes no WebSockets.\n"
_FAILED = b"Internal Server Error\n"


class ASGIApplication:
    """A WSGI application around one of ASGI 3.

    app: called for each request in a task on the worker's bridge. Its lifespan is run once in each worker, from
        the bridge's start to its shutdown.

    Raises ``TypeError`` for what is no ASGI 3 application.
    """

    def __init__(self, app: _App) -> None:
        _check(app)
        self.app = app
        self._lifespan = Lifespan(app)
        self._has_refused = False

    def __repr__(self) -> str:
        return f"<sidecar.serve_asgi.ASGIApplication around {self.app!r}>"

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        life = self._lifespan.life
        if life is None or life.failure is not None:
            life = self._lifespan.wait()
        if "HTTP_UPGRADE" in environ and wants_websocket(environ):
            return self._refuse(start_response)
        cycle = Cycle(self.app, environ, life)
        event = cycle.run()
        while event is READ:
            event = run_sync(cycle.feed(cycle.read()))
        if event is ERROR:
            return _answer_failed(cycle, environ, start_response)
        headers = cycle.headers
        if event is not END:
            start_response(status_line(cycle.status), headers)
            return _Body(cycle, event)
        body = cycle.last
        if not cycle.has_length and cycle.status not in NO_BODY:
            headers.append(("content-length", str(len(body))))
        start_response(status_line(cycle.status), headers)
        return [] if cycle.mute else [body]

    def _refuse(self, start_response: StartResponse) -> list[bytes]:
        if not self._has_refused:
            self._has_refused = True
            logger.warning("WebSockets are not served by sidecar.serve_asgi; they are answered with 501")
        start_response("501 Not Implemented", _text_headers(_NO_WEBSOCKETS))
        return [_NO_WEBSOCKETS]


class _Body:
    """The parts of a response, as they come."""

    def __init__(self, cycle: Cycle, first: bytes) -> None:
        self._cycle = cycle
        self._first: bytes | None = first
        self._over = False

    def __iter__(self) -> _Body:
        return self

    def __next__(self) -> bytes:
        first = self._first
        if first is not None:
            self._first = None
            return first
        if self._over:
            raise StopIteration
        cycle = self._cycle
        event = cycle.events.popleft() if cycle.events else run_sync(cycle.next())
        while event is READ:
            event = run_sync(cycle.feed(cycle.read()))
        if event is END:
            self._over = True
            raise StopIteration
        if event is ERROR:
            self._over = True
            raise _taken_error(cycle)
        part: bytes = event
        return part

    def close(self) -> None:
        """Before the end: the server cannot send any more, and the application is cancelled."""
        if self._over:
            return
        self._over = True
        try:
            run_sync(self._cycle.cut_off())
        except SidecarError:
            pass  # it has ended otherwise, by the request's deadline, say


def _taken_error(cycle: Cycle) -> BaseException:
    error, cycle.error = cycle.error, None
    assert error is not None
    return error


def _answer_failed(cycle: Cycle, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """The server answers, and logs, as it does for its own applications; but uWSGI closes the connection."""
    error = _taken_error(cycle)
    if "uwsgi.version" not in environ or not isinstance(error, Exception) or isinstance(error, SidecarError):
        raise error
    logger.error("%s: the ASGI application failed", cycle.name(), exc_info=error)
    start_response("500 Internal Server Error", _text_headers(_FAILED))
    return [] if cycle.mute else [_FAILED]


def _text_headers(body: bytes) -> list[tuple[str, str]]:
    return [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]


# -- which application -----------------------------------------------------------


def load(name: str) -> _App:
    """What ``package.module:app`` names; ``app`` may be an attribute of one (``api.app``).

    Raises ``ImportError``, with the reason, where there is no such thing.
    """
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        raise ImportError(f"cannot load the ASGI application {name!r}: it must be named as package.module:app")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # it is there, and imports what is not
        raise ImportError(
            f"cannot load the ASGI application {name!r}: there is no module {error.name!r}", name=module_name
        ) from None
    try:
        found: _App = functools.reduce(getattr, attribute.split("."), module)  # type: ignore[assignment]
    except AttributeError as error:
        raise ImportError(
            f"cannot load the ASGI application {name!r}: {error}", name=module_name, path=module.__file__
        ) from None
    return found


def _check(app: Any) -> None:
    if not callable(app):
        raise TypeError(f"an ASGI application is a callable with scope, receive and send, not {app!r}")
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):
        return  # C's, perhaps: its own to judge
    if _takes(signature, 3):
        return
    why = "it takes other arguments"
    if _takes(signature, 1):
        why = "it is one of ASGI 2, which is called twice; asgiref.compatibility.guarantee_single_callable makes it one"
    elif _takes(signature, 2):
        why = "it takes two arguments, as one of WSGI does, which needs no sidecar.serve_asgi"
    raise TypeError(f"{app!r} is no ASGI 3 application with scope, receive and send: {why}")


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*(None,) * count)
    except TypeError:
        return False
    return True


def __getattr__(name: str) -> Any:
    if name == "application":
        raise AttributeError(
            "sidecar.serve_asgi:application serves what SIDECAR_ASGI names: set it to package.module:app in the "
            "server's environment"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if os.environ.get("SIDECAR_ASGI"):
    # Where there is no name there is none; uWSGI looks into the module's dict, and asks no __getattr__.
    globals()["application"] = ASGIApplication(load(os.environ["SIDECAR_ASGI"]))
