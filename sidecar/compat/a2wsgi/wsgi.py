"""``a2wsgi.wsgi``: a WSGI application for a server of ASGI, on threads of a bridge's pool.

Unlike ``sidecar.adapters.WSGIApp`` it makes no request scope (one that is there holds), has threads of its own, and
raises what an application has given to ``start_response`` as ``exc_info``, after the response.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

from sidecar.adapters.environ import build_environ as _build_environ
from sidecar.adapters.exchange import AHEAD, RaisingExchange
from sidecar.adapters.request_body import RequestBody
from sidecar.adapters.wsgi import WSGIApp as _WSGIApp

if TYPE_CHECKING:
    from sidecar.compat.a2wsgi.asgi_typing import HTTPScope, Receive, Scope, Send
    from sidecar.compat.a2wsgi.wsgi_typing import Environ, WSGIApp

__all__ = ["Body", "WSGIMiddleware", "build_environ"]


class Body(RequestBody):
    """``wsgi.input``."""

    __slots__ = ("loop", "receive")

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Receive) -> None:
        super().__init__(loop, receive, _nothing)  # type: ignore[arg-type]
        self.loop = loop
        self.receive = receive

    @property
    def has_more(self) -> bool:
        return not (self._ended and not self._parts and self._place >= len(self._part))

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        """All lines; with a hint, so many of them."""
        if hint is None or hint < 0:
            return super().readlines()
        return [line for _, line in zip(range(hint), self)]


def _nothing() -> None:
    pass


def build_environ(scope: HTTPScope, body: object) -> Environ:
    """The environ of a request; ``SCRIPT_NAME`` of the process's environment comes before the scope's ``root_path``."""
    environ = _environ(scope, body)
    del environ["wsgi.input_terminated"]
    made: Environ = environ  # type: ignore[assignment]
    return made


def _environ(scope: Any, body: object) -> dict[str, Any]:
    environ = _build_environ(scope, body)
    script_name = os.environ.get("SCRIPT_NAME")
    if script_name:
        environ["SCRIPT_NAME"] = os.fsencode(script_name).decode("latin-1")
    environ["wsgi.errors"] = sys.stdout
    return environ


class WSGIMiddleware(_WSGIApp):
    """An ASGI application around one of WSGI.

    workers: the threads it has.
    send_queue_size: how many parts of a response may wait for the client; 0: any number. Never more than 64 KiB.
    """

    def __init__(self, app: WSGIApp, workers: int = 10, send_queue_size: int = 10) -> None:
        super().__init__(app, threads=workers)  # type: ignore[arg-type]
        self.send_queue_size = send_queue_size
        self._part_cost = AHEAD // send_queue_size if send_queue_size > 0 else 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # type: ignore[override]
        if scope["type"] == "http":
            exchange = RaisingExchange(self.app, scope, receive, send, self._part_cost)  # type: ignore[arg-type]
            await exchange.run(self._pool_of(), _environ(scope, exchange.body))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] == "lifespan":
            await self._live(receive, send)  # type: ignore[arg-type]
