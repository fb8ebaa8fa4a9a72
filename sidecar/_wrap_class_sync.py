"""The sync face of an async class."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sidecar._wrap_class import Builder, call_real, context_of, defines, held
from sidecar._wrap_common import (
    bridge_of,
    cut,
    is_async_context_function,
    is_async_generator_function,
    is_context_function,
    is_coroutine_function,
    is_generator_function,
    look_like,
    on_side,
)
from sidecar._wrap_sync import SyncContext, stream_function, sync_context_function

if TYPE_CHECKING:
    from sidecar._bridge import Sidecar


def sync_class(cls: type, bridge: Sidecar | None, timeout: float | None) -> Any:
    return _SyncBuilder(cls, bridge, timeout).made()


async def _on_loop(call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    try:
        result = call(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result
    except BaseException as error:
        cut(error)
        raise


class _SyncBuilder(Builder):
    side = "sync face of"

    def __init__(self, cls: type, bridge: Sidecar | None, timeout: float | None) -> None:
        super().__init__(cls, bridge)
        self.timeout = timeout

    def _kind(self) -> tuple[object, ...]:
        return *super()._kind(), self.timeout

    def construct(self, args: Any, kwargs: Any) -> Any:
        return self._run_plain(functools.partial(call_real, self.cls), self.cls, (args, kwargs), {})

    def _run_plain(self, call: Callable[..., Any], like: Any, args: Any, kwargs: Any) -> Any:
        """A constructor or plain method: on the loop, where it may expect to be called, its result awaited."""
        bridge = bridge_of(self.bridge)
        if bridge.is_running() and bridge.get_loop()._is_mine():
            result = call(*args, **kwargs)
            return bridge.run_sync(result) if inspect.isawaitable(result) else result
        coroutine: Any = _on_loop(call, args, kwargs)
        coroutine.__qualname__ = getattr(like, "__qualname__", coroutine.__qualname__)
        return bridge.run_sync(coroutine, timeout=self.timeout)

    def turned(self, call: Callable[..., Any], like: Any, function: Any, method: bool) -> Any:
        if is_generator_function(function) or is_context_function(function):
            return None
        if is_async_generator_function(function):
            return stream_function(call, like, self.bridge)
        if is_async_context_function(function):
            return sync_context_function(call, like, self.bridge)
        awaits = is_coroutine_function(function)

        @on_side("sync")
        def face(*args: Any, **kwargs: Any) -> Any:
            try:
                if awaits:
                    # The coroutine itself, and not one of ours around it: messages name it.
                    result = bridge_of(self.bridge).run_sync(call(*args, **kwargs), timeout=self.timeout)
                else:
                    result = self._run_plain(call, like, args, kwargs)
                return self._handed_out(args[0] if method else None, result)
            except BaseException as error:
                cut(error)
                raise

        return look_like(face, like)

    def _handed_out(self, face: Any, result: Any) -> Any:
        if isinstance(result, types.AsyncGeneratorType):
            return bridge_of(self.bridge).stream(result)
        return self.back(face, result)

    def protocols(self) -> dict[str, Any]:
        cls, bridge = self.cls, self.bridge
        found: dict[str, Any] = {}
        if defines(cls, "__aenter__", "__aexit__"):

            def __enter__(face: Any) -> Any:
                try:
                    return self.back(face, context_of(face, SyncContext, bridge).__enter__())
                except BaseException as error:
                    cut(error)
                    raise

            def __exit__(face: Any, *exc_info: Any) -> bool:
                try:
                    return context_of(face, SyncContext, bridge).__exit__(*exc_info)  # type: ignore
                except BaseException as error:
                    cut(error)
                    raise

            found.update(__enter__=__enter__, __exit__=__exit__)
        if defines(cls, "__aiter__"):

            def __iter__(face: Any) -> Iterator[Any]:
                stream: Iterator[Any] = bridge_of(bridge).stream(held(face))
                return stream

            found["__iter__"] = __iter__
        if defines(cls, "__anext__"):

            def __next__(face: Any) -> Any:
                try:
                    return bridge_of(bridge).run_sync(held(face).__anext__(), timeout=self.timeout)
                except StopAsyncIteration:
                    raise StopIteration from None
                except BaseException as error:
                    cut(error)
                    raise

            found["__next__"] = __next__
        if defines(cls, "__call__"):
            found.update(self.special_call())
        for name in ("__enter__", "__exit__", "__iter__", "__next__"):
            if defines(cls, name):  # sync already
                found[name] = self.special(name)
        return found
