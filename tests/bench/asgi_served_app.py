"""The application that ``tests/bench/asgi_served`` serves: FastAPI's hello."""

from __future__ import annotations

import os
import sys
from typing import Any

from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def hello() -> dict[str, str]:
    return {"hello": "world"}


async def bare(scope, receive, send):  # type: ignore[no-untyped-def]
    """The same answer without a framework: what a server costs by itself."""
    if scope["type"] == "lifespan":
        raise LookupError("no lifespan")
    headers = [(b"content-type", b"application/json"), (b"content-length", b"17")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"hello":"world"}'})


def stepped(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """What SIDECAR_ASGI names, for an application that never waits."""
    application = getattr(sys.modules[__name__], os.environ["SIDECAR_ASGI"].partition(":")[2])
    messages = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    try:
        application(scope, receive, send).send(None)
    except StopIteration:
        pass
    headers = [(name.decode(), value.decode()) for name, value in messages[0]["headers"]]
    start_response("200 OK", headers)
    return [messages[1]["body"]]
