"""An ASGI application that calls blocking code; the middleware gives each request an id."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import sidecar


@sidecar.to_async
def lookup(page: str) -> str:
    time.sleep(0.01)  # blocks a thread of the bridge's pool, not the server's loop
    request = sidecar.current()
    assert request is not None  # the request, in jobs and tasks too
    return f"page {page} for {request.id}"


async def app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    request = scope["sidecar.request"]
    text = await lookup(scope["path"])
    assert text.endswith(request.id)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text.encode()})


application = sidecar.ASGIMiddleware(app)


async def ask(path: str) -> dict[bytes, bytes]:
    """What a server does."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await application({"type": "http", "path": path, "headers": []}, receive, send)
    print(sent[1]["body"].decode()[:8])
    return dict(sent[0]["headers"])


if __name__ == "__main__":
    headers = asyncio.run(ask("/17"))  # -> page /17
    assert len(headers[b"x-request-id"]) == 36
