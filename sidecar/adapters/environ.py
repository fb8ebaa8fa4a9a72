"""An ASGI request's scope as WSGI's environ."""

from __future__ import annotations

import sys
from collections.abc import Iterable, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

__all__ = ["build_environ"]

# Of headers, as clients have sent them; a client cannot make it grow without end.
_MOST_NAMES = 1024
_keys: dict[bytes, str] = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}

_HTTP_VERSIONS = {"1.1": "HTTP/1.1", "1.0": "HTTP/1.0", "2": "HTTP/2", "3": "HTTP/3"}


def build_environ(scope: MutableMapping[str, Any], body: object) -> dict[str, Any]:
    """A new one, as PEP 3333 wants it, with ``body`` as its ``wsgi.input``.

    ``asgi.scope`` is the scope. Names of headers that have an underscore are left out: in an environ they would look
    like those with a hyphen, and pass for what a proxy has set.
    """
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    raw_path = scope.get("raw_path")
    if root and path.startswith(root) and (len(path) == len(root) or path[len(root)] == "/"):
        path = path[len(root) :]
    query = scope.get("query_string", b"").decode("latin-1")
    version = scope.get("http_version", "1.1")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": root if root.isascii() else _bytes_as_text(root),
        "PATH_INFO": path if path.isascii() else _path_as_text(path, scope),
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": _HTTP_VERSIONS.get(version) or f"HTTP/{version}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": body,
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "asgi.scope": scope,
    }
    if raw_path:
        target = raw_path.decode("latin-1")
        environ["REQUEST_URI"] = f"{target}?{query}" if query else target
    client = scope.get("client")
    if client:
        environ["REMOTE_ADDR"] = client[0]
        environ["REMOTE_PORT"] = str(client[1])
    request = scope.get("sidecar.request")
    if request is not None:
        environ["sidecar.request"] = request
    _put_headers(environ, scope.get("headers", ()))
    server = scope.get("server")
    if server and server[1] is not None:
        environ["SERVER_NAME"] = server[0]
        environ["SERVER_PORT"] = str(server[1])
    else:
        _put_host(environ)
    return environ


def _bytes_as_text(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _path_as_text(path: str, scope: MutableMapping[str, Any]) -> str:
    """What is no UTF-8 was lost in ``path``; the server may still show what came in."""
    raw_path = scope.get("raw_path")
    if "\ufffd" in path and raw_path:
        whole: str = unquote_to_bytes(raw_path.partition(b"?")[0]).decode("latin-1")
        root = _bytes_as_text(scope.get("root_path", "").rstrip("/"))
        return whole[len(root) :] if root and whole.startswith(root) else whole
    return _bytes_as_text(path)


def _put_headers(environ: dict[str, Any], headers: Iterable[tuple[bytes, bytes]]) -> None:
    keys = _keys
    for name, value in headers:
        key = keys.get(name)
        if key is None:
            key = _key_of(name)
        if not key:
            continue
        text = value.decode("latin-1")
        if key in environ:
            # HTTP/2 splits them, and commas may be part of one.
            text = f"{environ[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{text}"
        environ[key] = text


def _key_of(name: bytes) -> str:
    """Empty for one that is left out."""
    name = bytes(name)
    lower = name.lower()
    key = _keys.get(lower)
    if key is None:
        key = "" if b"_" in lower else f"HTTP_{lower.decode('latin-1').upper().replace('-', '_')}"
    if len(_keys) < _MOST_NAMES:
        _keys[name] = key
    return key


def _put_host(environ: dict[str, Any]) -> None:
    """Of a server on a unix socket: what the client calls it."""
    host = environ.get("HTTP_HOST", "")
    name, _, port = host.rpartition(":") if host.rpartition(":")[2].isdigit() else (host, "", "")
    environ["SERVER_NAME"] = name or "localhost"
    environ["SERVER_PORT"] = port or ("443" if environ["wsgi.url_scheme"] == "https" else "80")
