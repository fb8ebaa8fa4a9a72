"""``starlette.middleware.wsgi``: a WSGI application in one of Starlette's, on threads of a bridge's pool."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, MutableMapping
from typing import Any

from sidecar.adapters.environ import build_environ as _build_environ
from sidecar.adapters.exchange import RaisingExchange
from sidecar.adapters.wsgi import WSGIApp

__all__ = ["WSGIMiddleware", "build_environ"]


def build_environ(scope: MutableMapping[str, Any], body: bytes) -> dict[str, Any]:
    """The environ of a request whose whole body is there; its ``SERVER_PORT`` is a number."""
    environ = _build_environ(scope, io.BytesIO(body))
    for key in ("wsgi.input_terminated", "asgi.scope", "REMOTE_PORT", "REQUEST_URI"):
        environ.pop(key, None)
    root, path = scope.get("root_path", ""), scope["path"]
    if root.endswith("/") and path.startswith(root):
        environ["SCRIPT_NAME"] = root.encode().decode("latin-1")
        environ["PATH_INFO"] = path[len(root) :].encode().decode("latin-1")
    environ["SERVER_PORT"] = int(environ["SERVER_PORT"])
    environ["wsgi.errors"] = sys.stdout
    return environ


class WSGIMiddleware(WSGIApp):
    """Unlike ``sidecar.adapters.WSGIApp`` it serves http only, and raises ``exc_info`` after the response.

    The request's body is streamed, and the response waits for a slow client.
    """

    def __init__(self, app: Callable[..., Any]) -> None:
        super().__init__(app)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        exchange = RaisingExchange(self.app, scope, receive, send)
        await exchange.run(self._pool_of(), _build_environ(scope, exchange.body))
