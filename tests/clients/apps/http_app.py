"""An HTTP server that counts its connections: python http_app.py PORT_FILE."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from announce import announce, listen
from uvicorn.protocols.http.h11_impl import H11Protocol

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

# "control": connections that only asked for these counts.
counts = {"accepted": 0, "open": 0, "control": 0, "left": 0}
PAGE = """<!doctype html><title>{name}</title>
<p id=name>{name}</p><button onclick='this.dataset.hits=1'>hit</button>"""


class CountedProtocol(H11Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        counts["accepted"] += 1
        counts["open"] += 1
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        counts["open"] -= 1
        super().connection_lost(exc)


class Meeting:
    """Requests that are all answered once so many of them are here at the same time."""

    def __init__(self) -> None:
        self.here = 0
        self.full = asyncio.Event()

    async def join(self, parties: int) -> None:
        self.here += 1
        if self.here == parties:
            self.full.set()
        await self.full.wait()


meetings: dict[str, Meeting] = {}


async def read_body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def wait_for_the_client_to_leave(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    counts["left"] += 1


async def answer(scope: dict[str, Any], receive: Receive) -> AsyncIterator[bytes]:
    path = scope["path"]
    query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
    headers = {name.decode(): text.decode() for name, text in scope["headers"]}
    if path == "/echo":
        body = await read_body(receive)
        said = {"number": int(query["number"]), "id": headers.get("x-request-id"), "size": len(body)}
        yield json.dumps(said).encode()
    elif path == "/stream":
        for number in range(int(query["pieces"])):
            yield f"{number}\n".encode()
            await asyncio.sleep(0)
    elif path == "/slow":
        await wait_for_the_client_to_leave(receive)
    elif path == "/meet":
        await meetings.setdefault(query["name"], Meeting()).join(int(query["parties"]))
        yield b"met"
    elif path == "/page":
        yield PAGE.format(name=query["name"]).encode()
    elif path == "/stats":
        counts["control"] += 1
        accepted = counts["accepted"] - counts["control"]
        yield json.dumps({"accepted": accepted, "open": counts["open"] - 1, "left": counts["left"]}).encode()


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    kind = b"text/html" if scope["path"] == "/page" else b"application/json"
    started = False
    async for piece in answer(scope, receive):
        if not started:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
            started = True
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    if not started:
        await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def main() -> None:
    listener = listen()
    config = uvicorn.Config(
        app,
        http=CountedProtocol,
        loop="asyncio",
        lifespan="off",
        log_level="warning",
        timeout_keep_alive=600,
        timeout_graceful_shutdown=1,
    )
    announce(listener.getsockname()[1], sys.argv[1])
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
