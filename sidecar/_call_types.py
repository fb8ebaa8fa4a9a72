"""What type checkers see of ``Sidecar``'s methods with overloads. Nothing of it is there at run time."""

# Overloads that overlap are wanted: the first that fits is what is done.
# mypy: disable-error-code="overload-overlap"
# pyright: reportOverlappingOverload=false, reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine
    from concurrent.futures import Future
    from contextlib import AbstractAsyncContextManager
    from contextvars import Context
    from typing import Any, Protocol, TypedDict, TypeVar, Union, overload

    from typing_extensions import ParamSpec

    from sidecar._core import Stream
    from sidecar._lifespan import _Fn
    from sidecar._resource import Resource, _Close, _ClosingDecorator, _Decorator, _LockT

    _P = ParamSpec("_P")
    _T = TypeVar("_T")
    _Source = Union[AsyncIterable[_T], Awaitable[AsyncIterable[_T]]]

    class _StreamOf(Protocol):
        @overload
        def __call__(
            self,
            source: _Source[_T],
            /,
            *,
            prefetch: int = 0,
            context: Context | None = None,
            propagate: bool = False,
        ) -> Stream[_T]: ...
        @overload
        def __call__(
            self,
            source: Callable[..., _Source[_T]],
            /,
            *args: Any,
            prefetch: int = 0,
            context: Context | None = None,
            propagate: bool = False,
            **kwargs: Any,
        ) -> Stream[_T]: ...

    class _Submit(Protocol):
        @overload
        def __call__(self, work: Awaitable[_T], /) -> Future[_T]: ...
        @overload
        def __call__(
            self, work: Callable[_P, Coroutine[Any, Any, _T]], /, *args: _P.args, **kwargs: _P.kwargs
        ) -> Future[_T]: ...
        @overload
        def __call__(self, work: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]: ...
        # A keyword of our own between those of the function is beyond ParamSpec.
        @overload
        def __call__(self, work: Awaitable[_T], /, *, detach: bool) -> Future[_T]: ...
        @overload
        def __call__(  # type: ignore[overload-cannot-match]
            self, work: Callable[..., Coroutine[Any, Any, _T]], /, *args: Any, detach: bool, **kwargs: Any
        ) -> Future[_T]: ...
        @overload
        def __call__(  # type: ignore[overload-cannot-match]
            self, work: Callable[..., _T], /, *args: Any, detach: bool, **kwargs: Any
        ) -> Future[_T]: ...

    class _ResourceOf(Protocol):
        @overload
        def __call__(self) -> _Decorator: ...
        @overload
        def __call__(self, *, close: Callable[[Any], Any] | str) -> _ClosingDecorator: ...
        @overload
        def __call__(
            self, factory: Callable[[], Awaitable[_T]], /, *, close: _Close[_T]
        ) -> Resource[_T]: ...
        @overload
        def __call__(self, factory: Callable[[], _T], /, *, close: _Close[_T]) -> Resource[_T]: ...
        @overload
        def __call__(self, factory: Callable[[], AsyncIterator[_T]], /) -> Resource[_T]: ...
        @overload
        def __call__(self, factory: Callable[[], _LockT], /) -> Resource[_LockT]: ...
        @overload
        def __call__(self, factory: Callable[[], AbstractAsyncContextManager[_T]], /) -> Resource[_T]: ...
        @overload
        def __call__(self, factory: Callable[[], Awaitable[_T]], /) -> Resource[_T]: ...
        @overload
        def __call__(self, factory: Callable[[], _T], /) -> Resource[_T]: ...

    class _OnWorker(Protocol):
        @overload
        def __call__(self, fn: _Fn, /) -> _Fn: ...
        @overload
        def __call__(self) -> Callable[[_Fn], _Fn]: ...

    class _CpuStats(TypedDict):
        cpu: str
        cpu_reason: str
        cpu_running: int
        cpu_queued: int
        cpu_orphans: int
        cpu_workers: int

    class _Stats(_CpuStats):
        calls: int
        tasks: int
        threads: int
        idle: int
        queued: int
        refused: int
