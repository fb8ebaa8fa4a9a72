"""The worker's bridge from the lifespan's state, in an application and in each of its requests."""

from __future__ import annotations

import asyncio
from typing import Any

import sidecar


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    else:
        bridge = scope["state"]["sidecar"]  # servers copy the state into every request
        text = await bridge.to_async(scope["state"]["greet"])(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": text.encode()})


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    print(scope["state"]["sidecar"] is sidecar.get_bridge())  # -> True
    scope["state"]["greet"] = lambda path: f"hello {path}"
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await asyncio.to_thread(sidecar.shutdown)  # drains it; may wait, so not on the loop
    await send({"type": "lifespan.shutdown.complete"})


application = sidecar.ASGIMiddleware(app)


async def serve() -> None:
    """What a server does: a lifespan, with one request in it."""
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    outbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    state: dict[str, Any] = {}
    life = asyncio.ensure_future(application({"type": "lifespan", "state": state}, inbox.get, outbox.put))
    await inbox.put({"type": "lifespan.startup"})
    await outbox.get()
    scope = {"type": "http", "path": "/17", "headers": [], "state": dict(state)}
    await application(scope, inbox.get, outbox.put)
    await outbox.get()
    print((await outbox.get())["body"].decode())  # -> hello /17
    await inbox.put({"type": "lifespan.shutdown"})
    await life


if __name__ == "__main__":
    asyncio.run(serve())
