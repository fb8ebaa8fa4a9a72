"""The C part of Sidecar. What is public is imported from ``sidecar``; the rest is the package's own."""

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextvars import Context, ContextVar
from types import GenericAlias, TracebackType
from typing import Any, Generic, TypeVar, final, overload

from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
from typing_extensions import ParamSpec, Self, disjoint_base

from sidecar._bridge import Sidecar
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
class Request:
    @property
    def id(self) -> str: ...
    def run_sync(
        self,
        awaitable: Awaitable[_T],
        /,
        *,
        timeout: float | None = None,
        context: Context | None = None,
        propagate: bool = False,
    ) -> _T: ...

@final
class WSGIMiddleware:
    def __new__(cls, app: WSGIApplication) -> Self: ...
    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse, /) -> Iterable[bytes]: ...
    @property
    def app(self) -> WSGIApplication: ...
    @property
    def wrapped(self) -> WSGIApplication: ...
