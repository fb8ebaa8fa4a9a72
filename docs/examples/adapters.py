"""An ASGI application for a server of WSGI, and a WSGI application for a server of ASGI."""

import asyncio

import sidecar
from sidecar.adapters import ASGIApp, WSGIApp


async def asgi_app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello from ASGI"})


def wsgi_app(environ, start_response):
    request = sidecar.current()
    start_response("200 OK", [("Content-Type", "text/plain")])
    for line in environ["wsgi.input"]:  # as the client sends it
        yield line.upper()  # as the client takes it
    yield b"one request" if request is environ["sidecar.request"] else b"another request"


for_uwsgi = ASGIApp(asgi_app)
for_uvicorn = WSGIApp(wsgi_app, threads=20)


def ask_wsgi():
    from wsgiref.util import setup_testing_defaults

    environ = {}
    setup_testing_defaults(environ)
    body = for_uwsgi(environ, lambda status, headers, exc_info=None: print(status))  # -> 200 OK
    print(b"".join(body).decode())  # -> hello from ASGI


async def ask_asgi():
    parts = [b"a\n", b"b\n"]

    async def receive():
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    body = []

    async def send(message):
        body.append(message.get("body", b""))

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", b"4")]}
    await for_uvicorn(scope, receive, send)
    print(b"".join(body).split())  # -> [b'A', b'B', b'one', b'request']


if __name__ == "__main__":
    ask_wsgi()
    asyncio.run(ask_asgi())
