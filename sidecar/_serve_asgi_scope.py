"""What a WSGI server says of a request, as ASGI's scope for it; and ASGI's headers as WSGI's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

__all__ = ["body_length", "http_scope", "status_line", "wants_websocket", "wsgi_headers"]

ASGI = {"version": "3.0", "spec_version": "2.4"}

# A client may send any name, so what is kept of them has an end.
_MOST_NAMES = 1024
_names: dict[str, bytes] = {"CONTENT_TYPE": b"content-type", "CONTENT_LENGTH": b"content-length"}
_text_of: dict[bytes, str] = {}

_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}

# What PEP 3333 leaves to the server. How a body ends, and what becomes of the connection, is its own.
_HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
_BAD_IN_HEADER = re.compile(r"[\x00\r\n]")


# -- the request -----------------------------------------------------------------


def http_scope(environ: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """``state``: the lifespan's, of which each request gets a copy."""
    root_path = environ.get("SCRIPT_NAME", "")
    # As Starlette and Django take it since ASGI 3: the whole path, with the part that root_path names.
    path = root_path + environ.get("PATH_INFO", "")
    scope = {
        "type": "http",
        "asgi": ASGI.copy(),
        "http_version": environ.get("SERVER_PROTOCOL", "HTTP/1.1")[5:] or "1.1",
        "method": environ["REQUEST_METHOD"].upper(),
        "scheme": environ.get("wsgi.url_scheme", "http"),
        "path": path if path.isascii() else _utf_8(path),
        "query_string": environ.get("QUERY_STRING", "").encode("latin-1"),
        "root_path": root_path if root_path.isascii() else _utf_8(root_path),
        "headers": _request_headers(environ),
        "client": _address(environ.get("REMOTE_ADDR"), environ.get("REMOTE_PORT"), 0),
        "server": _address(environ.get("SERVER_NAME"), environ.get("SERVER_PORT"), None),
        "state": state.copy(),
        "extensions": {},
    }
    # uWSGI's name for it, and gunicorn's.
    target = environ.get("REQUEST_URI") or environ.get("RAW_URI")
    if target:
        scope["raw_path"] = _raw_path(target)
    request = environ.get("sidecar.request")
    if request is not None:
        scope["sidecar.request"] = request
    return scope


def _utf_8(text: str) -> str:
    """WSGI has bytes in a str of latin-1."""
    return text.encode("latin-1", "replace").decode("utf-8", "replace")


def _raw_path(target: str) -> bytes:
    path = target if target[0] == "/" else (urlsplit(target).path if "://" in target else target)
    return path.partition("?")[0].encode("latin-1", "replace")


def _address(host: str | None, port: Any, no_port: int | None) -> tuple[str, int | None] | None:
    """``None`` for a unix socket's nameless client."""
    if not host:
        return None
    try:
        return host, int(port)
    except (TypeError, ValueError):
        return host, no_port


def _request_headers(environ: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    headers = []
    for key, value in environ.items():
        if key[:5] == "HTTP_" or (value and (key == "CONTENT_TYPE" or key == "CONTENT_LENGTH")):
            headers.append((_names.get(key) or _name_of(key), value.encode("latin-1", "replace")))
    return headers


def _name_of(key: str) -> bytes:
    name = key[5:].replace("_", "-").lower().encode("latin-1", "replace")
    if len(_names) < _MOST_NAMES:
        _names[key] = name
    return name


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


def wsgi_headers(headers: Iterable[Iterable[bytes]]) -> tuple[list[tuple[str, str]], bool]:
    """And whether the application has said how long its body is.

    Raises ``TypeError`` for what is no bytes, ``ValueError`` for what would end a header's line.
    """
    made = []
    has_length = False
    for name, value in headers:
        key = _text_of.get(name) or _text(name)
        if key in _HOP_BY_HOP:
            continue
        text = str(value, "latin-1")
        if _BAD_IN_HEADER.search(text) is not None:
            raise ValueError(f"the response header {key!r} has a line break or a zero byte in its value {text!r}")
        if key == "content-length":
            has_length = True
        made.append((key, text))
    return made, has_length


def _text(name: bytes) -> str:
    text = str(name, "latin-1").lower()
    if not text or _BAD_IN_HEADER.search(text) is not None or ":" in text or " " in text:
        raise ValueError(f"{name!r} is no name of a response header")
    if len(_text_of) < _MOST_NAMES:
        _text_of[bytes(name)] = text
    return text
