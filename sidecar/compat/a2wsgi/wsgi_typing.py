"""``a2wsgi.wsgi_typing``: WSGI's types, as PEP 3333 has them."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Callable, Optional, Protocol, TypedDict

__all__ = [
    "CGIOptionalDefined",
    "CGIRequiredDefined",
    "Environ",
    "ErrorStream",
    "ExceptionInfo",
    "InputStream",
    "IterableChunks",
    "StartResponse",
    "WSGIApp",
    "WSGIDefined",
    "WriteCallable",
]


class CGIRequiredDefined(TypedDict):
    """What each environ has of CGI's variables, and none of it empty."""

    REQUEST_METHOD: str
    SERVER_NAME: str
    SERVER_PORT: str
    SERVER_PROTOCOL: str


class CGIOptionalDefined(TypedDict, total=False):
    """What may be missing or empty."""

    REQUEST_URI: str
    REMOTE_ADDR: str
    REMOTE_PORT: str
    SCRIPT_NAME: str
    PATH_INFO: str
    QUERY_STRING: str
    CONTENT_TYPE: str
    CONTENT_LENGTH: str


class InputStream(Protocol):
    """``wsgi.input``."""

    def read(self, size: int = -1, /) -> bytes: ...

    def readline(self, limit: int = -1, /) -> bytes: ...

    def readlines(self, hint: int = -1, /) -> list[bytes]: ...


class ErrorStream(Protocol):
    """``wsgi.errors``."""

    def flush(self) -> None: ...

    def write(self, s: str, /) -> Any: ...

    def writelines(self, seq: list[str], /) -> Any: ...


WSGIDefined = TypedDict(
    "WSGIDefined",
    {
        "wsgi.version": "tuple[int, int]",
        "wsgi.url_scheme": str,
        "wsgi.input": InputStream,
        "wsgi.errors": ErrorStream,
        "wsgi.multithread": bool,
        "wsgi.multiprocess": bool,
        "wsgi.run_once": bool,
    },
)


class Environ(CGIRequiredDefined, CGIOptionalDefined, WSGIDefined):
    """All of it."""


ExceptionInfo = tuple[type[BaseException], BaseException, Optional[TracebackType]]
WriteCallable = Callable[[bytes], None]


class StartResponse(Protocol):
    """``start_response``."""

    def __call__(
        self, status: str, response_headers: list[tuple[str, str]], exc_info: ExceptionInfo | None = None, /
    ) -> WriteCallable: ...


IterableChunks = Iterable[bytes]
WSGIApp = Callable[[Environ, StartResponse], IterableChunks]
