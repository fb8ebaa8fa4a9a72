"""An ASGI server's side, driven by hand: what an application was given, and what it sent."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Generator, Iterable
from typing import Any

import sidecar

Message = dict[str, Any]
App = Callable[..., Awaitable[Any]]

NAME = b"x-request-id"


@types.coroutine
def pause(value: object = "pause") -> Generator[object, object, object]:
    """A step of no event loop: the value goes out to the driver, what the driver sends is the result."""
    return (yield value)


def finish(coroutine: Any, sent: object = None) -> Any:
    """The result, once it ends; each pause is answered with ``sent``."""
    try:
        coroutine.send(None)
        while True:
            coroutine.send(sent)
    except StopIteration as stop:
        return stop.value


def scope_of(kind: str = "http", **more: Any) -> dict[str, Any]:
    headers = [(b"host", b"localhost")]
    return {"type": kind, "asgi": {"version": "3.0"}, "headers": headers, "state": {}, **more}


class Server:
    """``receive`` and ``send`` as a server has them."""

    def __init__(self, messages: Iterable[Message] = ({"type": "http.request"},)) -> None:
        self.messages = list(messages)
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        return self.messages.pop(0)

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def begin(self, app: App, scope: dict[str, Any] | None = None) -> Any:
        middleware = sidecar.ASGIMiddleware(app)
        return middleware(scope_of() if scope is None else scope, self.receive, self.send)

    def ids(self, position: int = 0) -> list[bytes]:
        return [value for name, value in self.sent[position]["headers"] if name.lower() == NAME]


def serve(app: App, scope: dict[str, Any] | None = None, server: Server | None = None) -> Server:
    server = server or Server()
    finish(server.begin(app, scope))
    return server


def current_id() -> bytes:
    request = sidecar.current()
    assert request is not None
    return request.id.encode()
