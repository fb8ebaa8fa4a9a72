"""A server of ASGI that is played, for WSGI's applications: a request, with a client that may be slow, or go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

SECONDS = 20.0
PLAIN = [("Content-Type", "text/plain")]


def hello(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", PLAIN)
    return [b"hello"]


def echo(environ: Any, start_response: Any) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", PLAIN)
    return [body]


class Client:
    """What the application was told, and what it has said.

    parts: of the request's body; where `open` they are not all of it.
    """

    def __init__(self, parts: Sequence[bytes] = (b"",), *, is_open: bool = False, **more: Any) -> None:
        headers = list(more.pop("headers", ()))
        if parts != (b"",):
            length = sum(map(len, parts))
            headers.append((b"transfer-encoding", b"chunked") if is_open else (b"content-length", b"%d" % length))
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("1.2.3.4", 5),
            "server": ("here", 80),
            **more,
        }
        self._parts = list(parts)
        self._is_open = is_open
        self.received = 0
        self.messages: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self.takes = asyncio.Event()
        self.takes.set()
        self.news = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if self._parts:
            self.received += 1
            part = self._parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": self._is_open or bool(self._parts)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        await self.takes.wait()
        self.messages.append(message)
        self.news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async def wait() -> None:
            while not condition():
                await asyncio.sleep(0.001)

        await asyncio.wait_for(wait(), SECONDS)

    @property
    def status(self) -> int:
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return [pair for pair in self.messages[0]["headers"] if pair[0] != b"x-request-id"]

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])

    @property
    def is_complete(self) -> bool:
        return len(self.messages) > 1 and not self.messages[-1]["more_body"]


def asked(app: Any, *parts: bytes, **more: Any) -> Client:
    """A whole request on a new asyncio loop."""

    async def ask() -> Client:
        client = Client(parts or (b"",), **more)
        await asyncio.wait_for(app(client.scope, client.receive, client.send), SECONDS)
        return client

    return asyncio.run(ask())
