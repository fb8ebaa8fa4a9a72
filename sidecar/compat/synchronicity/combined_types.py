"""Types of what blocks and awaits: wrapped functions and methods, and context managers for both sides."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sidecar.synchronizer.functions import Method
from sidecar.synchronizer.kinds import FACE

if TYPE_CHECKING:
    from sidecar.synchronizer import Synchronizer

__all__ = ["CTX", "AsyncAndBlockingContextManager", "FunctionWithAio", "MethodWithAio"]

CTX = TypeVar("CTX", covariant=True)


class AsyncAndBlockingContextManager(Protocol[CTX]):
    """For ``with`` and for ``async with``."""

    def __enter__(self) -> CTX: ...

    async def __aenter__(self) -> CTX: ...

    def __exit__(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> bool | None: ...

    async def __aexit__(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> bool | None: ...


class _AlsoFaces(type):
    """A wrapped function is a plain function here; ``isinstance()`` knows it all the same."""

    def __instancecheck__(cls, obj: object) -> bool:
        if inspect.isfunction(obj):
            return hasattr(obj, FACE) and hasattr(obj, "aio")
        return type.__instancecheck__(cls, obj)


class FunctionWithAio(staticmethod, metaclass=_AlsoFaces):  # type: ignore[type-arg]
    """A function that blocks, whose ``aio`` awaits; as a member of a class, a static method."""

    def __init__(self, func: Callable[..., Any], aio_func: Callable[..., Any], synchronizer: Synchronizer) -> None:
        super().__init__(func)
        self._func = func
        self.aio = aio_func
        self._synchronizer = synchronizer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._func(*args, **kwargs)


class _AlsoMethods(type):
    def __instancecheck__(cls, obj: object) -> bool:
        return type.__instancecheck__(cls, obj) or isinstance(obj, Method)


class MethodWithAio(Method, metaclass=_AlsoMethods):
    """A method that blocks, whose ``aio`` awaits; both are bound to what it is looked up on."""

    def __init__(
        self,
        func: Callable[..., Any],
        aio_func: Callable[..., Any],
        synchronizer: Synchronizer,
        is_classmethod: bool = False,
    ) -> None:
        def face(*args: Any, **kwargs: Any) -> Any:
            return func(*args, **kwargs)

        both: Any = face
        both.__name__, both.__qualname__ = func.__name__, func.__qualname__
        both.__doc__, both.__wrapped__ = func.__doc__, func
        both.aio = aio_func
        super().__init__(both, is_classmethod)
        self._func = func
        self.aio = aio_func
        self._synchronizer = synchronizer
