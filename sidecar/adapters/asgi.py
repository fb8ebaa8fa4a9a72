"""An ASGI application for a server of WSGI."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sidecar import _core
from sidecar.serve_asgi import ASGIApplication

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from sidecar._core import Policy
    from sidecar._serve_asgi_cycle import _App

__all__ = ["ASGIApp"]


class ASGIApp:
    """A WSGI application around one of ASGI 3, which runs on the worker's bridge.

    app: called for each request. Its lifespan is run once in each worker, from the bridge's start to its shutdown.
    policy: of the request scope that each request gets, as of ``sidecar.WSGIMiddleware``.

    It is ``sidecar.serve_asgi.ASGIApplication`` with a request of its own where the server has made none.
    Raises ``TypeError`` for what is no ASGI 3 application.
    """

    def __init__(self, app: _App, *, policy: Policy | None = None) -> None:
        self.app = app
        served = ASGIApplication(app)
        self._wsgi = _core.WSGIMiddleware(served) if policy is None else _core.WSGIMiddleware(served, policy=policy)

    def __repr__(self) -> str:
        return f"<sidecar.adapters.ASGIApp around {self.app!r}>"

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self._wsgi(environ, start_response)
