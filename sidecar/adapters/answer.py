"""What a WSGI application tells ``start_response``, in ASGI's words."""

from __future__ import annotations

from typing import Any

__all__ = ["NO_BODY", "headers_of", "status_of"]

NO_BODY = frozenset((204, 304))

# What PEP 3333 leaves to the server.
_HOP_BY_HOP = (
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
)

# By the application's spelling; empty for a name that is left out.
_MOST_NAMES = 1024
_names: dict[str, bytes] = {}

_STATUSES: dict[str, int] = {"200 OK": 200}


def status_of(line: Any) -> int:
    """Raises ``ValueError`` for what is no status that a response may have."""
    known = _STATUSES.get(line) if type(line) is str else None
    if known is not None:
        return known
    if not isinstance(line, str):
        raise TypeError(f"the status of a response is a str, not {line!r}")
    number, _, _ = line.partition(" ")
    if len(number) != 3 or not number.isdigit() or not number.isascii():
        raise ValueError(f"the status of a response is like '200 OK', not {line!r}")
    status = int(number)
    if status < 200:
        raise ValueError(f"{line!r} is no status of a response: what comes before it is the server's to send")
    if len(_STATUSES) < _MOST_NAMES:
        _STATUSES[line] = status
    return status


def headers_of(given: Any) -> tuple[list[tuple[bytes, bytes]], int]:
    """ASGI's headers, and the length that they announce, or -1.

    Raises ``TypeError`` for what is no list of pairs of str, ``ValueError`` for what would end a header's line.
    """
    headers = []
    length = -1
    for pair in given:
        name, value = pair
        key = _names.get(name)
        if key is None:
            key = _name_of(name)
        if type(value) is not str and not isinstance(value, str):
            raise TypeError(f"the value of the header {name!r} is a str, not {value!r}")
        if not value.isprintable():
            _check_value(name, value)
        text = value.strip().encode("latin-1")
        if key == b"content-length":
            if length >= 0 and length != int(text):
                raise ValueError(f"two headers Content-Length: {length} and {value!r}")
            length = int(text)
            if length < 0:
                raise ValueError(f"the Content-Length of a response is a number from 0 on, not {value!r}")
        if key:
            headers.append((key, text))
    return headers, length


def _name_of(name: Any) -> bytes:
    if not isinstance(name, str):
        raise TypeError(f"the name of a header is a str, not {name!r}")
    if not name or not name.isprintable() or not name.isascii() or any(c in name for c in " :\t"):
        raise ValueError(f"{name!r} is no name of a header")
    lower = name.lower()
    key = b"" if lower in _HOP_BY_HOP else lower.encode("ascii")
    if len(_names) < _MOST_NAMES:
        _names[name] = key
    return key


def _check_value(name: str, value: str) -> None:
    if any(c < " " and c != "\t" or c == "\x7f" for c in value):
        raise ValueError(f"the value of the header {name!r} has a character that ends its line: {value!r}")
