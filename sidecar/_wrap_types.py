"""What type checkers see of ``to_async`` and ``to_sync``. Nothing of it is there at run time."""

# Overloads that overlap are wanted: the first that fits is what is done.
# mypy: disable-error-code="overload-overlap"
# pyright: reportOverlappingOverload=false, reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterable,
        AsyncIterator,
        Awaitable,
        Callable,
        Coroutine,
        Generator,
        Iterator,
    )
    from contextlib import (
        AbstractAsyncContextManager,
        AbstractContextManager,
        _AsyncGeneratorContextManager,
        _GeneratorContextManager,
    )
    from typing import IO, Any, AnyStr, Protocol, TypeVar, overload

    from typing_extensions import ParamSpec

    from sidecar._bridge import Sidecar
    from sidecar._core import Stream

    _P = ParamSpec("_P")
    _T = TypeVar("_T")
    _S = TypeVar("_S")

    class _ToAsync(Protocol):
        @overload
        def __call__(self, /, *, bridge: Sidecar | None = None) -> _ToAsync: ...
        @overload
        def __call__(self, obj: type[_T], /, *, bridge: Sidecar | None = None) -> type[Any]: ...
        # Objects; before functions, for what contextlib's decorators make can be called, too.
        @overload
        def __call__(
            self, obj: AbstractAsyncContextManager[_T], /, *, bridge: Sidecar | None = None
        ) -> AbstractAsyncContextManager[_T]: ...
        @overload
        def __call__(
            self, obj: AsyncGenerator[_T, _S], /, *, bridge: Sidecar | None = None
        ) -> AsyncGenerator[_T, _S]: ...
        @overload
        def __call__(
            self, obj: AbstractContextManager[_T], /, *, bridge: Sidecar | None = None
        ) -> AbstractAsyncContextManager[_T]: ...
        @overload
        def __call__(
            self, obj: Generator[_T, _S, Any], /, *, bridge: Sidecar | None = None
        ) -> AsyncGenerator[_T, _S]: ...
        @overload
        def __call__(
            self, obj: Iterator[_T], /, *, bridge: Sidecar | None = None
        ) -> AsyncGenerator[_T, None]: ...
        # Async functions already.
        @overload
        def __call__(
            self, obj: Callable[_P, Coroutine[Any, Any, _T]], /, *, bridge: Sidecar | None = None
        ) -> Callable[_P, Coroutine[Any, Any, _T]]: ...
        @overload
        def __call__(
            self, obj: Callable[_P, AsyncGenerator[_T, _S]], /, *, bridge: Sidecar | None = None
        ) -> Callable[_P, AsyncGenerator[_T, _S]]: ...
        @overload
        def __call__(
            self, obj: Callable[_P, AsyncIterator[_T]], /, *, bridge: Sidecar | None = None
        ) -> Callable[_P, AsyncIterator[_T]]: ...
        @overload
        def __call__(
            self, obj: Callable[_P, _AsyncGeneratorContextManager[_T]], /, *, bridge: Sidecar | None = None
        ) -> Callable[_P, AbstractAsyncContextManager[_T]]: ...
        # Blocking functions. A file is an iterator to its class, but what opens one is no generator function.
        @overload
        def __call__(
            self, obj: Callable[_P, Generator[_T, _S, Any]], /, *, bridge: Sidecar | None = None
        ) -> Callable[_P, AsyncGenerator[_T, _S]]: ...
        @overload
        def __call__(
            self, obj: Callable[_P, _GeneratorContextManager[_T]], /, *, bridge: Sidecar | None = None
        ) -> Callable[_P, AbstractAsyncContextManager[_T]]: ...
        @overload
        def __call__(
            self, obj: Callable[_P, IO[AnyStr]], /, *, bridge: Sidecar | None = None
        ) -> Callable[_P, Coroutine[Any, Any, IO[AnyStr]]]: ...
        @overload
        def __call__(
            self, obj: Callable[_P, Iterator[_T]], /, *, bridge: Sidecar | None = None
        ) -> Callable[_P, AsyncGenerator[_T, None]]: ...
        @overload
        def __call__(
            self, obj: Callable[_P, _T], /, *, bridge: Sidecar | None = None
        ) -> Callable[_P, Coroutine[Any, Any, _T]]: ...

    class _ToSync(Protocol):
        @overload
        def __call__(self, /, *, timeout: float | None = None, bridge: Sidecar | None = None) -> _ToSync: ...
        @overload
        def __call__(
            self, obj: type[_T], /, *, timeout: float | None = None, bridge: Sidecar | None = None
        ) -> type[Any]: ...
        @overload
        def __call__(
            self, obj: AbstractAsyncContextManager[_T], /, *, bridge: Sidecar | None = None
        ) -> AbstractContextManager[_T]: ...
        @overload
        def __call__(self, obj: AsyncIterable[_T], /, *, bridge: Sidecar | None = None) -> Stream[_T]: ...
        @overload
        def __call__(
            self, obj: Callable[_P, _AsyncGeneratorContextManager[_T]], /, *, bridge: Sidecar | None = None
        ) -> Callable[_P, AbstractContextManager[_T]]: ...
        @overload
        def __call__(
            self,
            obj: Callable[_P, Awaitable[_T]],
            /,
            *,
            timeout: float | None = None,
            bridge: Sidecar | None = None,
        ) -> Callable[_P, _T]: ...
        @overload
        def __call__(
            self, obj: Callable[_P, AsyncIterable[_T]], /, *, bridge: Sidecar | None = None
        ) -> Callable[_P, Stream[_T]]: ...
