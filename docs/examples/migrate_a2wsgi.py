"""a2wsgi's adapters, by its own names and by Sidecar's."""

import asyncio

from sidecar.adapters import ASGIApp, WSGIApp
from sidecar.compat.a2wsgi import ASGIMiddleware, WSGIMiddleware


def wsgi_app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode()]


async def asgi_app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})


class Before:
    asgi = WSGIMiddleware(wsgi_app, workers=20)
    wsgi = ASGIMiddleware(asgi_app)


class After:
    asgi = WSGIApp(wsgi_app, threads=20)
    wsgi = ASGIApp(asgi_app)


async def ask(app):
    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        if "body" in message and message["body"]:
            print(message["body"].decode())

    await app({"type": "http", "method": "GET", "path": "/asgi", "headers": []}, receive, send)


def call(app):
    from wsgiref.util import setup_testing_defaults

    environ = {"PATH_INFO": "/wsgi"}
    setup_testing_defaults(environ)
    print(b"".join(app(environ, lambda status, headers, exc_info=None: None)).decode())


if __name__ == "__main__":
    for each in (Before, After):
        asyncio.run(ask(each.asgi))
        call(each.wsgi)
    # -> /asgi
    # -> /wsgi
    # -> /asgi
    # -> /wsgi
