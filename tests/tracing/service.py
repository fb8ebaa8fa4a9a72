"""A service as the W3C's harness for Trace Context asks for, and who calls it and is called by it.

It takes a JSON list of ``{"url": ..., "arguments": [...]}`` by POST and, in a request of Sidecar's, POSTs each one's
arguments to its url. By itself it is such a service for the harness: ``python -m tracing.service PORT [TRUST]``.
"""

from __future__ import annotations

import http.client
import http.server
import json
import socket
import socketserver
import sys
import threading
import wsgiref.simple_server
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import sidecar

Headers = list[tuple[str, str]]


def call(url: str, body: bytes, headers: dict[str, str]) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        connection.request("POST", parts.path, body, {"Content-Type": "application/json", **headers})
        connection.getresponse().read()
    finally:
        connection.close()


def call_here(actions: list[dict[str, Any]]) -> None:
    for action in actions:
        request = sidecar.current()
        call(action["url"], json.dumps(action["arguments"]).encode(), request.headers())


async def call_all(actions: list[dict[str, Any]]) -> None:
    """In coroutines, all at once; the calls themselves block, on the pool."""

    async def one(action: dict[str, Any]) -> None:
        headers = sidecar.current().headers()
        await sidecar.to_async(call)(action["url"], json.dumps(action["arguments"]).encode(), headers)

    await sidecar.gather(*map(one, actions))


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answers with what it makes of the request, besides; at /coroutine it calls from coroutines."""
    actions = json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)) or b"null") or []
    if environ["PATH_INFO"] == "/coroutine":
        sidecar.run_sync(call_all(actions))
    else:
        call_here(actions)
    request = sidecar.current()
    told = {
        "id": request.id,
        "traceparent": request.traceparent,
        "tracestate": request.tracestate,
        "links": request.links,
        "baggage": request.baggage,
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[str]:
    """Its address, while it serves in a thread."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        host, port = server.server_address[:2]
        yield f"http://{host}:{port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def by_wsgiref(app: Any, port: int = 0) -> socketserver.BaseServer:
    server = wsgiref.simple_server.make_server("127.0.0.1", port, app, handler_class=Quiet)
    return server


def by_werkzeug(app: Any) -> socketserver.BaseServer:
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log(self, *args: Any) -> None:
            pass

    return make_server("127.0.0.1", 0, app, request_handler=Silent)


class Collector(http.server.HTTPServer):
    """What the service calls; keeps the headers of each call by its path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Collecting)
        self.calls: dict[str, list[Headers]] = {}


class _Collecting(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.calls.setdefault(self.path, []).append(self.headers.items())  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


def post(url: str, headers: Headers, actions: list[dict[str, Any]]) -> tuple[Headers, dict[str, Any]]:
    """Send the header lines just as they are, also several of one name; the answer's headers and what it says."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=20)
    return post_over(connection, parts.path, headers, actions)


def post_over(
    connection: socket.socket, path: str, headers: Headers, actions: list[dict[str, Any]]
) -> tuple[Headers, dict[str, Any]]:
    """The same over a connection, which is closed."""
    body = json.dumps(actions).encode()
    lines = [f"POST {path} HTTP/1.0", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    with connection:
        connection.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        text = answer.read()
    assert answer.status == 200, (answer.status, text)
    return answer.getheaders(), json.loads(text)


if __name__ == "__main__":
    made = by_wsgiref(sidecar.WSGIMiddleware(application, trust=(sys.argv + ["always"])[2]), int(sys.argv[1]))
    made.serve_forever()
