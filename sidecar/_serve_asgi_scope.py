"""What a WSGI server says of a request, in ASGI's words: what of it is rare, and so not C's (served_scope.c)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

__all__ = ["ASGI", "body_length", "is_chunked", "raw_path", "status_line", "utf_8", "wants_websocket"]

ASGI = {"version": "3.0", "spec_version": "2.4"}

_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}

# -- the request -----------------------------------------------------------------


def utf_8(text: str) -> str:
    """WSGI has bytes in a str of latin-1."""
    return text.encode("latin-1", "replace").decode("utf-8", "replace")


def raw_path(target: str) -> bytes:
    path = target if target[0] == "/" else (urlsplit(target).path if "://" in target else target)
    return path.partition("?")[0].encode("latin-1", "replace")


def body_length(environ: dict[str, Any]) -> int:
    """Bytes to read from ``wsgi.input``; -1: until it ends."""
    given = environ.get("CONTENT_LENGTH")
    if given:
        try:
            return max(int(given), 0)
        except ValueError:
            return 0
    return -1 if environ.get("wsgi.input_terminated") or is_chunked(environ) else 0


def is_chunked(environ: dict[str, Any]) -> bool:
    """Only uWSGI needs to be told: it has a function of its own to read these."""
    encoding: str = environ.get("HTTP_TRANSFER_ENCODING", "")
    return "uwsgi.version" in environ and encoding.lower() == "chunked"


def wants_websocket(environ: dict[str, Any]) -> bool:
    upgrade: str | None = environ.get("HTTP_UPGRADE")
    return upgrade is not None and upgrade.lower() == "websocket"


# -- the response ----------------------------------------------------------------


def status_line(status: int) -> str:
    return _LINES.get(status) or f"{status} Unknown"
