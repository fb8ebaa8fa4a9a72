"""The C part of Sidecar. What is public is imported from ``sidecar``; the rest is the package's own."""

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, MutableMapping
from contextvars import Context, ContextVar
from types import GenericAlias, TracebackType
from typing import Any, Generic, Literal, TypeVar, final, overload

from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
from typing_extensions import ParamSpec, Self, disjoint_base

from sidecar._bridge import Sidecar
from sidecar._call_types import _StreamOf, _Submit
from sidecar._loop import BridgeLoop

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)
_P = ParamSpec("_P")

_C_API: object
_lineage: ContextVar[object]

def run_sync(
    awaitable: Awaitable[_T],
    /,
    *,
    timeout: float | None = None,
    context: Context | None = None,
    propagate: bool = False,
) -> _T: ...
def to_caller(fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Coroutine[Any, Any, _T]: ...
def get_bridge() -> Sidecar: ...
def current() -> Request | None: ...
def _detached_context() -> Context: ...
def _take_default_bridge() -> Sidecar | None: ...
def _has_default_bridge() -> bool: ...
def _set_exiting() -> None: ...
def _use_greenlets(hook: Callable[[BridgeLoop], object], future: type[concurrent.futures.Future[Any]], /) -> None: ...

@disjoint_base
class Bridge:
    _name: str
    _timeout: float  # below 0: no limit
    _cleanup_timeout: float
    @property
    def _state(self) -> int: ...
    def run_sync(
        self,
        awaitable: Awaitable[_T],
        /,
        *,
        timeout: float | None = None,
        context: Context | None = None,
        propagate: bool = False,
    ) -> _T: ...
    def _run_closing(
        self,
        awaitable: Awaitable[_T],
        /,
        *,
        timeout: float | None = None,
        context: Context | None = None,
        propagate: bool = False,
    ) -> _T: ...
    def get_loop(self) -> BridgeLoop: ...
    def is_running(self) -> bool: ...
    def _close_begin(self) -> bool: ...
    def _close_end(self, seconds: float, /) -> tuple[BridgeLoop, bool]: ...

# sidecar.Loop inherits it first and asyncio's loop second; to a type checker it is that loop.
@disjoint_base
class LoopCore(asyncio.SelectorEventLoop):
    _bridged: bool
    _default_executor: Any
    _signals_kept: bool
    @property
    def _starting(self) -> bool: ...
    def _share_task(self, task: Any, /) -> None: ...
    def _is_mine(self) -> bool: ...
    def _release(self) -> None: ...

# Both say that they are asyncio's, and isinstance() agrees.
@disjoint_base
class Handle(asyncio.Handle):
    def get_context(self) -> Context: ...  # asyncio's: since 3.12

@final
class TimerHandle(Handle):
    def when(self) -> float: ...

@disjoint_base
class Pool:
    def __new__(cls, workers: int, name: str, room: int = 65536) -> Self: ...
    @property
    def name(self) -> str: ...
    @property
    def workers(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def idle(self) -> int: ...
    @property
    def queued(self) -> int: ...
    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> concurrent.futures.Future[_T]: ...
    def submit_into(
        self, future: concurrent.futures.Future[_T], fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> None: ...
    def run_in(self, loop: asyncio.AbstractEventLoop, fn: Callable[..., _T], /, *args: Any) -> asyncio.Future[_T]: ...
    def call(
        self, context: Context | None, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Coroutine[Any, Any, _T]: ...
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None: ...
    def stop(self, timeout: float, /) -> int: ...

def _is_plain(work: object, /) -> bool: ...

# The C part of a class that derives from it first and from concurrent.futures' second.
@disjoint_base
class Future(concurrent.futures.Future[Any]):
    _what: object
    _request: str | None
    _asked: bool
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    def set_result(self, result: Any, /) -> None: ...
    def set_exception(self, exception: BaseException | None, /) -> None: ...
    def _join(self, request: Request, /) -> None: ...

@final
class Stream(Iterator[_T_co], Generic[_T_co]):
    def __new__(
        cls,
        bridge: Bridge,
        source: Any,
        prefetch: int = 0,
        context: Context | None = None,
        propagate: bool = False,
    ) -> Self: ...
    def __next__(self) -> _T_co: ...
    def send(self, value: Any, /) -> _T_co: ...
    @overload
    def throw(
        self, typ: type[BaseException], val: object = None, tb: TracebackType | None = None, /
    ) -> _T_co: ...
    @overload
    def throw(self, typ: BaseException, val: None = None, tb: TracebackType | None = None, /) -> _T_co: ...
    def close(self) -> None: ...
    def __class_getitem__(cls, item: Any, /) -> GenericAlias: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...

def prune(error: BaseException, /) -> None: ...
@final
class frameless(Generic[_P, _T]):
    __wrapped__: Callable[_P, _T]
    def __new__(cls, function: Callable[_P, _T]) -> Callable[_P, _T]: ...  # type: ignore[misc]
    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _T: ...

@final
class Policy:
    def __new__(
        cls,
        *,
        request_id_header: str = "X-Request-ID",
        trust: str = "untrusted",
        deadline: float | None = None,
        deadline_header: str | None = None,
        disconnect: Literal["close", "reset", "off"] = "close",
        cleanup_timeout: float = 5.0,
    ) -> Self: ...
    @property
    def request_id_header(self) -> str: ...
    @property
    def deadline(self) -> float | None: ...
    @property
    def deadline_header(self) -> str | None: ...

@final
class Request:
    @property
    def id(self) -> str: ...
    @property
    def received_id(self) -> str | None: ...
    @property
    def trusted(self) -> bool: ...
    @property
    def detached(self) -> bool: ...
    @property
    def cancelled(self) -> bool: ...
    @property
    def started(self) -> float: ...
    @property
    def deadline(self) -> float | None: ...
    def time_left(self) -> float | None: ...
    @property
    def trace_id(self) -> str: ...
    @property
    def span_id(self) -> str: ...
    @property
    def traceparent(self) -> str: ...
    @property
    def tracestate(self) -> str: ...
    @property
    def links(self) -> tuple[str, ...]: ...
    @property
    def baggage(self) -> dict[str, str]: ...
    def headers(self) -> dict[str, str]: ...
    def run_sync(
        self,
        awaitable: Awaitable[_T],
        /,
        *,
        timeout: float | None = None,
        context: Context | None = None,
        propagate: bool = False,
    ) -> _T: ...
    stream: _StreamOf
    submit: _Submit

@final
class WSGIMiddleware:
    @overload
    def __new__(cls, app: WSGIApplication, *, policy: Policy) -> Self: ...
    @overload
    def __new__(
        cls,
        app: WSGIApplication,
        *,
        request_id_header: str = "X-Request-ID",
        trust: str = "untrusted",
        deadline: float | None = None,
        deadline_header: str | None = None,
        disconnect: Literal["close", "reset", "off"] = "close",
        cleanup_timeout: float = 5.0,
    ) -> Self: ...
    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse, /) -> Iterable[bytes]: ...
    @property
    def app(self) -> WSGIApplication: ...
    @property
    def wrapped(self) -> WSGIApplication: ...

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

@final
class ASGIMiddleware:
    @overload
    def __new__(cls, app: Callable[[_Scope, _Receive, _Send], Awaitable[Any]], *, policy: Policy) -> Self: ...
    @overload
    def __new__(
        cls,
        app: Callable[[_Scope, _Receive, _Send], Awaitable[Any]],
        *,
        request_id_header: str = "X-Request-ID",
        trust: str = "untrusted",
        deadline: float | None = None,
        deadline_header: str | None = None,
        disconnect: Literal["close", "reset", "off"] = "close",
        cleanup_timeout: float = 5.0,
    ) -> Self: ...
    # Not a method in the class, but an attribute of each: a coroutine function, bound.
    @property
    def __call__(self) -> Callable[[_Scope, _Receive, _Send], Coroutine[Any, Any, None]]: ...
    @property
    def app(self) -> Callable[[_Scope, _Receive, _Send], Awaitable[Any]]: ...
    @property
    def wrapped(self) -> Callable[[_Scope, _Receive, _Send], Awaitable[Any]]: ...
