"""Applications of one kind for servers of the other: ``wsgi`` is an ASGI application adapted, ``asgi`` one of WSGI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sidecar
from sidecar.adapters import ASGIApp, WSGIApp

FOLDER = Path(os.environ.get("SIDECAR_TEST_FOLDER", "."))
TEXT = [("Content-Type", "text/plain")]


async def id_in_coroutine() -> str:
    request = sidecar.current()
    return request.id if request is not None else "none"


def note(name: str) -> None:
    with open(FOLDER / name, "a") as file:
        file.write("x")


class Endless:
    """Notes its close()."""

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield b"x" * 10_000

    def close(self) -> None:
        note("closed")


def view(environ: dict[str, Any], start_response: Any) -> Any:
    path = environ["PATH_INFO"]
    if path == "/boom":
        raise LookupError("announced boom")
    if path == "/echo":
        body = environ["wsgi.input"].read()
        start_response("200 OK", [*TEXT, ("Content-Length", str(len(body)))])
        return [body]
    start_response("204 No Content" if path == "/nothing" else "200 OK", TEXT)
    if path == "/endless":
        return Endless()
    if path == "/ids":
        return (sidecar.run_sync(id_in_coroutine()).encode() for _ in range(3))
    return [b"plain"]


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            note(kind)
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    if scope["path"] == "/echo":
        while True:
            message = await receive()
            await send({"type": "http.response.body", "body": message["body"], "more_body": message["more_body"]})
            if not message["more_body"]:
                return
    body = (await id_in_coroutine()).encode() if scope["path"] == "/ids" else b"plain"
    await send({"type": "http.response.body", "body": body})


asgi = WSGIApp(view, threads=4)
wsgi = ASGIApp(app)
