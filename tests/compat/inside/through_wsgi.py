"""A pytest plugin for Starlette's tests: each application is served as one of WSGI, and that as one of ASGI again.

So what the test client asks goes through both adapters. WebSockets and lifespans go to the application itself.
"""

from __future__ import annotations

from typing import Any

import starlette.testclient

from sidecar.adapters import ASGIApp, WSGIApp

_made = starlette.testclient.TestClient.__init__


class Through:
    """The application, by way of WSGI."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._served: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._served is None:
            self._served = WSGIApp(ASGIApp(self._serve))
        await self._served(scope, receive, send)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError("the test client runs it, where the test says so")
        await self._app(scope, receive, send)


def _make(self: Any, app: Any, *args: Any, **options: Any) -> None:
    _made(self, app, *args, **options)
    self._transport.app = Through(self._transport.app)


starlette.testclient.TestClient.__init__ = _make  # type: ignore[method-assign]
