"""``asgiref.wsgi``: a WSGI application as an ASGI one."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from tempfile import SpooledTemporaryFile
from typing import Any

from sidecar.compat.asgiref.sync import AsyncToSync, sync_to_async

__all__ = ["WsgiToAsgi", "WsgiToAsgiInstance"]

_Receive = Callable[[], Awaitable[Any]]
_Send = Callable[[Any], Awaitable[None]]

# Of a request's body, before it goes to a file.
BODY_IN_MEMORY = 65536


class WsgiToAsgi:
    """An ASGI application for ``http``. The WSGI application runs as thread-sensitive code.

    duplicate_header_limit: a request that repeats a header more often gets a 400; None: no limit.
    """

    def __init__(self, wsgi_application: Any, duplicate_header_limit: int | None = 100) -> None:
        self.wsgi_application = wsgi_application
        self.duplicate_header_limit = duplicate_header_limit

    async def __call__(self, scope: Any, receive: _Receive, send: _Send) -> None:
        await WsgiToAsgiInstance(self.wsgi_application, self.duplicate_header_limit)(scope, receive, send)


class WsgiToAsgiInstance:
    """One request of it."""

    scope: Any

    def __init__(self, wsgi_application: Any, duplicate_header_limit: int | None = 100) -> None:
        self.wsgi_application = wsgi_application
        self.duplicate_header_limit = duplicate_header_limit
        self.response_started = False
        self.response_content_length: int | None = None
        self.response_start: dict[str, Any] | None = None
        self._bytes_sent = 0

    async def __call__(self, scope: Any, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            raise ValueError("WSGI wrapper received a non-HTTP scope")
        self.scope = scope
        if self._repeats_a_header():
            await send({"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"Bad Request: Too many duplicate headers"})
            return
        with SpooledTemporaryFile(max_size=BODY_IN_MEMORY) as body:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                if message["type"] == "http.request":
                    body.write(message.get("body", b""))
                    if not message.get("more_body", False):
                        break
            body.seek(0)
            self.sync_send = AsyncToSync(send)
            await self.run_wsgi_app(body)

    def _repeats_a_header(self) -> bool:
        limit = self.duplicate_header_limit
        if limit is None:
            return False
        counts = Counter(bytes(name).lower() for name, _ in self.scope["headers"])
        return any(count > limit for count in counts.values())

    def build_environ(self, scope: Any, body: Any) -> dict[str, Any]:
        """The ``environ`` of a scope."""
        root, path = scope.get("root_path", ""), scope["path"]
        if root and path.startswith(root):
            path = path[len(root) :]
        environ = {
            "REQUEST_METHOD": scope["method"],
            "SCRIPT_NAME": root.encode("utf-8").decode("latin-1"),
            "PATH_INFO": path.encode("utf-8").decode("latin-1"),
            "QUERY_STRING": scope["query_string"].decode("ascii"),
            "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": scope.get("scheme", "http"),
            "wsgi.input": body,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }
        server, client = scope.get("server"), scope.get("client")
        if server:
            # Of a unix socket its path, and no port.
            environ["SERVER_NAME"] = server[0]
            environ["SERVER_PORT"] = str(server[1] if server[1] is not None else 0)
        if client:
            environ["REMOTE_ADDR"] = client[0]
        return self._with_headers(environ)

    def _with_headers(self, environ: dict[str, Any]) -> dict[str, Any]:
        for raw_name, raw_value in self.scope.get("headers", []):
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            key = name.upper().replace("-", "_")
            if key not in ("CONTENT_LENGTH", "CONTENT_TYPE"):
                key = f"HTTP_{key}"
            environ[key] = f"{environ[key]},{value}" if key in environ else value
        return environ

    def start_response(
        self, status: str, response_headers: Iterable[Any], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """As PEP 3333 has it."""
        try:
            if self.response_started and exc_info:
                raise exc_info[1].with_traceback(exc_info[2])
        finally:
            exc_info = None
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response_headers]
        self.response_content_length = None
        for name, value in headers:
            if name == b"content-length":
                self.response_content_length = int(value)
        self.response_start = {
            "type": "http.response.start",
            "status": int(status.split(None, 1)[0]),
            "headers": headers,
        }
        return self._send_part

    def _start(self) -> None:
        if not self.response_started:
            if self.response_start is None:
                raise RuntimeError("the WSGI application has not called start_response()")
            self.response_started = True
            self.sync_send(self.response_start)

    def _send_part(self, part: bytes) -> None:
        """No more of it than the content-length says."""
        self._start()
        if self.response_content_length is not None:
            part = part[: self.response_content_length - self._bytes_sent]
        self._bytes_sent += len(part)
        self.sync_send({"type": "http.response.body", "body": part, "more_body": True})

    def _is_whole(self) -> bool:
        return self.response_content_length is not None and self._bytes_sent >= self.response_content_length

    @sync_to_async
    def run_wsgi_app(self, body: Any) -> None:
        """Call the application and send what it returns, on its thread."""
        parts = self.wsgi_application(self.build_environ(self.scope, body), self.start_response)
        try:
            for part in parts:
                self._send_part(part)
                if self._is_whole():
                    break
            self._start()
            self.sync_send({"type": "http.response.body"})
        finally:
            close = getattr(parts, "close", None)
            if close is not None:
                close()
