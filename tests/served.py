"""An ASGI application for a WSGI server that is played: for the tests of ``sidecar.serve_asgi``."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
import requested

import sidecar
from sidecar.serve_asgi import ASGIApplication

PLAIN = [(b"content-type", b"text/plain")]


def environ(**more: Any) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "SERVER_NAME": "here",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        **more,
    }


def serve(app: Any, **more: Any) -> requested.Answer:
    return requested.serve(ASGIApplication(app), environ(**more))


def of_http(function: Any) -> Any:
    """An application without a lifespan."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise LookupError("no lifespan")
        await function(scope, receive, send)

    return app


async def start(send: Any, status: int = 200, headers: Any = PLAIN) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def say(send: Any, body: bytes = b"", more: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


@pytest.fixture(autouse=True)
def fresh_bridge() -> Iterator[None]:
    """Each application's lifespan ends with its test, and no other test starts it again."""
    from sidecar import _lifespan

    hooks = _lifespan._default_hooks
    before = list(hooks.start), list(hooks.stop)
    sidecar.shutdown()
    yield
    sidecar.shutdown()
    hooks.start[:], hooks.stop[:] = before
