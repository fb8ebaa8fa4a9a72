"""The async face of a blocking class."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sidecar._wrap_async import AsyncContext, async_context_function, async_function, async_generator_function
from sidecar._wrap_class import Builder, call_real, context_of, defines, held
from sidecar._wrap_common import (
    bridge_of,
    cut,
    is_async,
    is_context_function,
    is_generator_function,
)

if TYPE_CHECKING:
    from sidecar._bridge import Sidecar


def async_class(cls: type, bridge: Sidecar | None) -> Any:
    return _AsyncBuilder(cls, bridge).made()


class _AsyncBuilder(Builder):
    side = "async face of"

    def construct(self, args: Any, kwargs: Any) -> Any:
        return call_real(self.cls, args, kwargs)

    def build(self) -> Any:
        face = super().build()
        if not defines(self.cls, "on_pool"):

            def on_pool(face: Any, /, *args: Any, **kwargs: Any) -> Any:
                return face(*args, **kwargs)

            on_pool.__doc__ = "Construct one on the pool."
            on_pool.__qualname__ = f"{self.cls.__qualname__}.on_pool"
            face.on_pool = classmethod(async_function(on_pool, on_pool, self.bridge))
        return face

    def turned(self, call: Callable[..., Any], like: Any, function: Any, method: bool) -> Any:
        if is_async(function):
            return None

        def out(args: Any, value: Any) -> Any:
            return self.back(args[0] if method else None, value)

        if is_generator_function(function):
            return async_generator_function(call, like, self.bridge, out)
        if is_context_function(function):
            return async_context_function(call, like, self.bridge, out)

        def returning(*args: Any, **kwargs: Any) -> Any:
            try:
                return self.back(args[0] if method else None, call(*args, **kwargs))
            except BaseException as error:
                cut(error)
                raise

        return async_function(returning, like, self.bridge)

    def protocols(self) -> dict[str, Any]:
        cls, bridge = self.cls, self.bridge
        found: dict[str, Any] = {}
        if defines(cls, "__enter__", "__exit__"):

            async def __aenter__(face: Any) -> Any:
                return self.back(face, await context_of(face, AsyncContext, bridge).__aenter__())

            async def __aexit__(face: Any, *exc_info: Any) -> bool:
                try:
                    return await context_of(face, AsyncContext, bridge).__aexit__(*exc_info)  # type: ignore
                except BaseException as error:
                    cut(error)
                    raise

            found.update(__aenter__=__aenter__, __aexit__=__aexit__)
        if defines(cls, "__iter__"):

            def item(args: Any, value: Any) -> Any:
                return self.back(args[0], value)

            found["__aiter__"] = async_generator_function(held, getattr(cls, "__iter__"), bridge, item)
        if defines(cls, "__next__"):

            def step(face: Any) -> tuple[bool, Any]:
                try:
                    return True, next(held(face))
                except StopIteration:
                    return False, None
                except BaseException as error:
                    cut(error)
                    raise

            async def __anext__(face: Any) -> Any:
                try:
                    more, value = await bridge_of(bridge)._on_pool(None, step, face)
                except BaseException as error:
                    cut(error)
                    raise
                if more:
                    return self.back(face, value)
                raise StopAsyncIteration

            found["__anext__"] = __anext__
        if defines(cls, "__call__"):
            found.update(self.special_call())
        for name in ("__aenter__", "__aexit__", "__aiter__", "__anext__", "__await__"):
            if defines(cls, name):  # async already
                found[name] = self.special(name)
        return found
