"""``a2wsgi.asgi_typing``: ASGI's types, as its specification has them."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Any, Callable, Literal, TypedDict, Union

__all__ = [
    "ASGIApp",
    "ASGIVersions",
    "HTTPDisconnectEvent",
    "HTTPRequestEvent",
    "HTTPResponseBodyEvent",
    "HTTPResponseStartEvent",
    "HTTPScope",
    "LifespanScope",
    "LifespanShutdownCompleteEvent",
    "LifespanShutdownEvent",
    "LifespanShutdownFailedEvent",
    "LifespanStartupCompleteEvent",
    "LifespanStartupEvent",
    "LifespanStartupFailedEvent",
    "Receive",
    "ReceiveEvent",
    "Scope",
    "Send",
    "SendEvent",
    "WWWScope",
    "WebSocketAcceptEvent",
    "WebSocketCloseEvent",
    "WebSocketConnectEvent",
    "WebSocketDisconnectEvent",
    "WebSocketReceiveEvent",
    "WebSocketScope",
    "WebSocketSendEvent",
]


class ASGIVersions(TypedDict):
    spec_version: str
    version: Literal["3.0"]


class _HTTPScope(TypedDict, total=False):
    raw_path: bytes
    client: tuple[str, int]
    server: tuple[str, int | None]
    state: dict[str, Any]
    extensions: dict[str, dict[object, object]]


class HTTPScope(_HTTPScope):
    type: Literal["http"]
    asgi: ASGIVersions
    http_version: str
    method: str
    scheme: str
    path: str
    query_string: bytes
    root_path: str
    headers: Iterable[tuple[bytes, bytes]]


class _WebSocketScope(TypedDict, total=False):
    client: tuple[str, int]
    server: tuple[str, int | None]
    state: dict[str, Any]
    extensions: dict[str, dict[object, object]]


class WebSocketScope(_WebSocketScope):
    type: Literal["websocket"]
    asgi: ASGIVersions
    http_version: str
    scheme: str
    path: str
    raw_path: bytes
    query_string: bytes
    root_path: str
    headers: Iterable[tuple[bytes, bytes]]
    subprotocols: Iterable[str]


class _LifespanScope(TypedDict, total=False):
    state: dict[str, Any]


class LifespanScope(_LifespanScope):
    type: Literal["lifespan"]
    asgi: ASGIVersions


WWWScope = Union[HTTPScope, WebSocketScope]
Scope = Union[HTTPScope, WebSocketScope, LifespanScope]


class _HTTPRequestEvent(TypedDict, total=False):
    more_body: bool


class HTTPRequestEvent(_HTTPRequestEvent):
    type: Literal["http.request"]
    body: bytes


class _HTTPResponseStartEvent(TypedDict, total=False):
    headers: Iterable[tuple[bytes, bytes]]
    trailers: bool


class HTTPResponseStartEvent(_HTTPResponseStartEvent):
    type: Literal["http.response.start"]
    status: int


class _HTTPResponseBodyEvent(TypedDict, total=False):
    body: bytes
    more_body: bool


class HTTPResponseBodyEvent(_HTTPResponseBodyEvent):
    type: Literal["http.response.body"]


class HTTPDisconnectEvent(TypedDict):
    type: Literal["http.disconnect"]


class WebSocketConnectEvent(TypedDict):
    type: Literal["websocket.connect"]


class _WebSocketAcceptEvent(TypedDict, total=False):
    subprotocol: str
    headers: Iterable[tuple[bytes, bytes]]


class WebSocketAcceptEvent(_WebSocketAcceptEvent):
    type: Literal["websocket.accept"]


# One of their fields is called bytes.
class WebSocketReceiveEvent(TypedDict, total=False):
    type: str
    bytes: bytes
    text: str
class WebSocketSendEvent(TypedDict, total=False):
    type: str
    bytes: bytes
    text: str


class WebSocketDisconnectEvent(TypedDict):
    type: Literal["websocket.disconnect"]
    code: int


class _WebSocketCloseEvent(TypedDict, total=False):
    code: int
    reason: str


class WebSocketCloseEvent(_WebSocketCloseEvent):
    type: Literal["websocket.close"]


class LifespanStartupEvent(TypedDict):
    type: Literal["lifespan.startup"]


class LifespanShutdownEvent(TypedDict):
    type: Literal["lifespan.shutdown"]


class LifespanStartupCompleteEvent(TypedDict):
    type: Literal["lifespan.startup.complete"]


class LifespanStartupFailedEvent(TypedDict):
    type: Literal["lifespan.startup.failed"]
    message: str


class LifespanShutdownCompleteEvent(TypedDict):
    type: Literal["lifespan.shutdown.complete"]


class LifespanShutdownFailedEvent(TypedDict):
    type: Literal["lifespan.shutdown.failed"]
    message: str


ReceiveEvent = Union[
    HTTPRequestEvent,
    HTTPDisconnectEvent,
    WebSocketConnectEvent,
    WebSocketReceiveEvent,
    WebSocketDisconnectEvent,
    LifespanStartupEvent,
    LifespanShutdownEvent,
]

SendEvent = Union[
    HTTPResponseStartEvent,
    HTTPResponseBodyEvent,
    HTTPDisconnectEvent,
    WebSocketAcceptEvent,
    WebSocketSendEvent,
    WebSocketCloseEvent,
    LifespanStartupCompleteEvent,
    LifespanStartupFailedEvent,
    LifespanShutdownCompleteEvent,
    LifespanShutdownFailedEvent,
]

Receive = Callable[[], Awaitable[ReceiveEvent]]
Send = Callable[[SendEvent], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
