"""What type checkers see of ``stream`` and ``submit``. Nothing of it is there at run time."""

# Overloads that overlap are wanted: the first that fits is what is done.
# mypy: disable-error-code="overload-overlap"
# pyright: reportOverlappingOverload=false, reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine
    from concurrent.futures import Future
    from contextvars import Context
    from typing import Any, Protocol, TypeVar, Union, overload

    from typing_extensions import ParamSpec

    from sidecar._core import Stream

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
