"""The faces of one function: it blocks, ``.aio`` awaits, ``.future`` does not wait."""

from __future__ import annotations

import concurrent.futures
import functools
import inspect
import types
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from sidecar._gather import Gathered
from sidecar._wrap_common import cut, is_async_context, look_like, shown
from sidecar.synchronizer.kinds import FACE, Returns, has_async_face, is_coroutine_function
from sidecar.synchronizer.stays import Context
from sidecar.synchronizer.streams import async_stream, blocking_stream
from sidecar.synchronizer.translate import KEYS

if TYPE_CHECKING:
    from sidecar.synchronizer import Synchronizer


async def _on_loop(call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    result = call(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


class Call:
    """A function of the library, called from outside.

    inside: it is called on the loop, though it may be no coroutine function: ``__anext__`` and its like may return
        any awaitable, and that of a generator belongs to the loop that it was made on.
    method: its first argument is the proxy, which is never passed on as it is.
    """

    def __init__(
        self, owner: Synchronizer, function: Callable[..., Any], inside: bool = False, method: bool = False
    ) -> None:
        self.owner = owner
        self.function = function
        self.name = getattr(function, "__qualname__", None) or type(function).__qualname__
        self._inward = owner._translates(function, "in")
        self._outward = owner._translates(function, "out")
        self._method = method
        self._inside = inside and not is_coroutine_function(function)
        self._returns = Returns(function)

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        owner = self.owner
        if self._inward:
            inward = owner.translate_in
            args = tuple([inward(arg) for arg in args])
            if kwargs:
                kwargs = {name: inward(value) for name, value in kwargs.items()}
        elif args and self._method:
            args = (owner._translator.original_of(args[0]), *args[1:])
        if self._inside:
            return _on_loop(self.function, args, kwargs)
        return self.function(*args, **kwargs)

    def out(self, result: Any) -> Any:
        return self.owner.translate_out(result) if self._outward else result

    def _coroutine(self, result: Any) -> Any:
        """The coroutine that a result is or, by its annotation, stands for; else None."""
        if inspect.iscoroutine(result):
            return result
        if isinstance(result, concurrent.futures.Future) or is_async_context(result):
            return None
        if isinstance(result, Coroutine) or (self._returns.awaitable and inspect.isawaitable(result)):
            return _await(result)
        return None

    def _iterator(self, result: Any) -> Any:
        """The async iterator that a result is or, by its annotation, stands for; else None."""
        if inspect.isasyncgen(result):
            return result
        if self._returns.iterable and hasattr(type(result), "__aiter__") and not self._is_ours(result):
            return type(result).__aiter__(result)
        return None

    def _is_ours(self, result: Any) -> bool:
        return self.owner._translator.wrapper_of(type(result)) is not None

    def _settled(self, result: Any) -> Any:
        """What is neither awaited nor iterated."""
        if (inspect.isfunction(result) and not hasattr(result, FACE)) or isinstance(result, functools.partial):
            return self._decorated(result)
        if self._returns.context and is_async_context(result) and not self._is_ours(result):
            return Context(self.owner, result)
        return self.out(result)

    def _decorated(self, function: Any) -> Callable[..., Any]:
        """A decorator's result is called from outside, too."""
        call = Call(self.owner, function)
        call._outward = self._outward

        def face(*args: Any, **kwargs: Any) -> Any:
            try:
                return call.out(call.begin(args, kwargs))
            except BaseException as error:
                cut(error)
                raise

        return look_like(face, function)

    def checked(self, value: Any) -> Any:
        if self.owner._async_leakage_warning:
            if inspect.iscoroutine(value):
                warnings.warn(
                    f"Potential async leakage: {shown(self.function)} returned the coroutine {value!r}", stacklevel=4
                )
            elif inspect.isasyncgen(value):
                warnings.warn(
                    f"Potential async leakage: {shown(self.function)} returned the async generator {value!r}",
                    stacklevel=4,
                )
        return value

    # -- the three ways of calling ----------------------------------------------------

    def block(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = self.begin(args, kwargs)
        coro = self._coroutine(result)
        if coro is not None:
            return self.out(self.checked(self.owner._block(coro, self.name, self.function)))
        iterator = self._iterator(result)
        if iterator is not None:
            return blocking_stream(self.owner, iterator, self.out)
        return self._settled(result)

    async def wait(self, coro: Coroutine[Any, Any, Any]) -> Any:
        return self.out(self.checked(await self.owner._await(coro, self.name)))

    def await_(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An awaitable, an async generator, or whatever the function gives that is neither."""
        result = self.begin(args, kwargs)
        coro = self._coroutine(result)
        if coro is not None:
            return self.wait(coro)
        iterator = self._iterator(result)
        if iterator is not None:
            return async_stream(self.owner, iterator, self.out)
        return self._settled(result)

    def future(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = self.begin(args, kwargs)
        coro = self._coroutine(result)
        if coro is not None:
            # Closed before its first step, it closes the coroutine in it.
            return self.owner._submit(Gathered(self._outcome(coro), self.name, (coro,)))
        if self._iterator(result) is not None:
            raise TypeError("Can not return futures for generators")
        return self._settled(result)

    async def _outcome(self, coro: Coroutine[Any, Any, Any]) -> Any:
        return self.out(self.checked(await coro))


# -- faces ------------------------------------------------------------------------


def blocking_face(call: Call, like: Any) -> Any:
    def face(*args: Any, **kwargs: Any) -> Any:
        try:
            if kwargs and kwargs.pop("_future", False):
                return call.future(args, kwargs)
            return call.block(args, kwargs)
        except BaseException as error:
            cut(error)
            raise

    return _as_face(face, like, call)


def async_face(call: Call, like: Any) -> Any:
    if is_coroutine_function(call.function):

        async def aio(*args: Any, **kwargs: Any) -> Any:
            try:
                result = call.await_(args, kwargs)
                return await result if inspect.isawaitable(result) else result
            except BaseException as error:
                cut(error)
                raise

        return _as_face(aio, like, call)

    def aio_plain(*args: Any, **kwargs: Any) -> Any:
        try:
            return call.await_(args, kwargs)
        except BaseException as error:
            cut(error)
            raise

    return _as_face(aio_plain, like, call)


def future_face(call: Call, like: Any) -> Any:
    def future(*args: Any, **kwargs: Any) -> Any:
        try:
            return call.future(args, kwargs)
        except BaseException as error:
            cut(error)
            raise

    return _as_face(future, like, call)


def _as_face(face: Any, like: Any, call: Call) -> Any:
    look_like(face, like)
    for key in [key for key in face.__dict__ if key.startswith(KEYS)]:
        del face.__dict__[key]  # copied from the function: they are about that
    setattr(face, FACE, call.owner)
    setattr(face, call.owner._translator.original_key, like)
    return face


def faces(owner: Synchronizer, function: Callable[..., Any], method: bool = False) -> Any:
    """The blocking face; where there is anything async about the function it has ``aio`` and ``future``."""
    call = Call(owner, function, method=method)
    face = blocking_face(call, function)
    if has_async_face(function):
        face.aio = async_face(call, function)
        face.future = future_face(call, function)
    return face


def rename(face: Any, name: str, aio_name: str, module: str | None) -> None:
    for each, called in ((face, name), (getattr(face, "aio", None), aio_name), (getattr(face, "future", None), name)):
        if each is not None:
            each.__name__ = each.__qualname__ = called
            if module is not None:
                each.__module__ = module


# -- methods ----------------------------------------------------------------------


class BoundMethod(functools.partial):  # type: ignore[type-arg]
    """A bound method whose ``aio`` and ``future`` are bound as well. A partial, for that is made and called in C."""

    @property
    def __self__(self) -> Any:
        return self.args[0]

    @property
    def aio(self) -> Any:
        return types.MethodType(self.func.aio, self.args[0])  # type: ignore[attr-defined]

    @property
    def future(self) -> Any:
        return types.MethodType(self.func.future, self.args[0])  # type: ignore[attr-defined]

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(types.MethodType(self.func, self.args[0]))

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.func.__doc__

    def __getattr__(self, name: str) -> Any:
        return getattr(self.func, name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BoundMethod):
            return NotImplemented
        return self.args[0] is other.args[0] and self.func == other.func

    def __hash__(self) -> int:
        return hash((id(self.args[0]), self.func))

    def __reduce__(self) -> Any:
        return getattr, (self.args[0], self.func.__name__)

    def __repr__(self) -> str:
        return f"<bound method {self.func.__qualname__} of {self.args[0]!r}>"


class Method:
    """A method with three faces, in a wrapper class's namespace."""

    def __init__(self, face: Any, of_class: bool = False) -> None:
        self.face = face
        self._of_class = of_class
        self.__doc__ = face.__doc__
        self.__isabstractmethod__ = getattr(face, "__isabstractmethod__", False)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if self._of_class:
            return BoundMethod(self.face, type(instance) if owner is None else owner)
        return self.face if instance is None else BoundMethod(self.face, instance)
