"""Sync faces of coroutine functions, async generators and async context managers: they run on a bridge's loop."""

from __future__ import annotations

import inspect
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sidecar._wrap_async import innermost
from sidecar._wrap_common import (
    CONTEXT,
    GENERATOR,
    acts_as,
    bridge_of,
    cut,
    has,
    is_async_context,
    look_like,
    on_side,
    refuse_inside,
    set_cause_in_body,
    shown,
)

if TYPE_CHECKING:
    from contextvars import Context

    from sidecar._bridge import Sidecar

# -- functions --------------------------------------------------------------------


def sync_function(
    call: Callable[..., Any], like: Any, bridge: Sidecar | None, timeout: float | None
) -> Callable[..., Any]:
    """A function that runs the coroutine of ``call`` by ``run_sync``."""

    @on_side("sync")
    def face(*args: Any, **kwargs: Any) -> Any:
        try:
            return bridge_of(bridge).run_sync(call(*args, **kwargs), timeout=timeout)
        except BaseException as error:
            cut(error)
            raise

    return look_like(face, like)


def sync_callable(
    call: Callable[..., Any], like: Any, bridge: Sidecar | None, timeout: float | None
) -> Callable[..., Any]:
    """For what does not say what it returns, as a lambda: decided by each result."""

    @on_side("sync")
    def face(*args: Any, **kwargs: Any) -> Any:
        try:
            result = call(*args, **kwargs)
            if inspect.isawaitable(result):
                return bridge_of(bridge).run_sync(result, timeout=timeout)
            if is_async_context(result) or has(result, "__aiter__"):
                return sync_object(result, bridge)
        except BaseException as error:
            cut(error)
            raise
        raise TypeError(
            f"to_sync({shown(like)}) is for async code, but this returned {shown(result)}, which is no awaitable, "
            "async iterable or async context manager: a blocking function needs no wrapper"
        )

    return look_like(face, like)


def stream_function(
    call: Callable[..., Any], like: Any, bridge: Sidecar | None
) -> Callable[..., Iterator[Any]]:
    @on_side("sync")
    @acts_as(GENERATOR)
    def face(*args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            # Called here: `stream` has keyword arguments of its own.
            stream: Iterator[Any] = bridge_of(bridge).stream(call(*args, **kwargs))
        except BaseException as error:
            cut(error)
            raise
        return stream

    return look_like(face, like)


# -- context managers ---------------------------------------------------------------


class Stay:
    """One stay in an async context manager: a stream whose one item is the value, so that one task does it all.

    context: a ``contextvars.Context`` for it; by default a copy of the caller's.
    """

    def __init__(self, source: Any, bridge: Sidecar | None, context: Context | None = None) -> None:
        # The generator, which the loop keeps, must not keep the stream: dropped, that closes the generator.
        self._suppressed: list[bool] = []
        self._stream: Any = bridge_of(bridge).stream(_inside(source, self._suppressed), context=context)
        self.thread = threading.get_ident()

    def enter(self) -> Any:
        try:
            return next(self._stream)
        except BaseException as error:
            cut(error)
            raise

    def leave(self, *exc_info: Any) -> bool:
        try:
            self._stream.send(exc_info)
        except StopIteration:
            return bool(self._suppressed and self._suppressed[0])
        except BaseException as raised:
            set_cause_in_body(raised, exc_info[1])
            cut(raised)
            raise
        self._stream.close()
        raise RuntimeError("a stream went on after its end")


async def _inside(source: Any, suppressed: list[bool]) -> AsyncGenerator[Any, Any]:
    manager = await made(source)
    value = await type(manager).__aenter__(manager)
    try:
        exc_info = yield value
    except BaseException as error:
        # Dropped without an exit, or its task was cancelled (a scope's deadline, a shutdown).
        if not await type(manager).__aexit__(manager, type(error), error, error.__traceback__):
            raise
        return
    suppressed.append(bool(await type(manager).__aexit__(manager, *exc_info)))


async def made(source: Any) -> Any:
    """On the loop: the async context manager itself, or what a function or class without arguments makes."""
    if is_async_context(source):
        return source
    manager = source()
    if not is_async_context(manager) and isinstance(manager, Awaitable):
        manager = await manager
    if not is_async_context(manager):
        raise TypeError(f"{shown(source)} made {shown(manager)}, which is no async context manager")
    return manager


class SyncContext(AbstractContextManager[Any]):
    """An async context manager as a sync one. It can be entered by many threads at once if the original can."""

    def __init__(self, manager: Any, bridge: Sidecar | None) -> None:
        self.__wrapped__ = manager
        self._bridge = bridge
        self._stays: list[Stay] = []

    def __repr__(self) -> str:
        return f"<sidecar.to_sync({shown(self.__wrapped__)})>"

    def __enter__(self) -> Any:
        try:
            refuse_inside(bridge_of(self._bridge), "to_sync", self.__wrapped__)
            stay = Stay(self.__wrapped__, self._bridge)
            value = stay.enter()
        except BaseException as error:
            cut(error)
            raise
        self._stays.append(stay)
        return value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        stay = innermost(self._stays, "thread", threading.get_ident())
        try:
            suppressed: bool = stay.leave(kind, error, traceback)
        except BaseException as raised:
            cut(raised)
            raise
        return suppressed


class SyncContextIterable(SyncContext):
    """Both in one, as many connections are."""

    def __iter__(self) -> Iterator[Any]:
        stream: Iterator[Any] = bridge_of(self._bridge).stream(self.__wrapped__)
        return stream


def sync_object(obj: Any, bridge: Sidecar | None) -> Any:
    """The sync face of an async context manager or an async iterable."""
    if is_async_context(obj):
        return (SyncContextIterable if has(obj, "__aiter__") else SyncContext)(obj, bridge)
    return bridge_of(bridge).stream(obj)


def sync_context_function(call: Callable[..., Any], like: Any, bridge: Sidecar | None) -> Callable[..., Any]:
    @on_side("sync")
    @acts_as(CONTEXT)
    def face(*args: Any, **kwargs: Any) -> SyncContext:
        try:
            return SyncContext(call(*args, **kwargs), bridge)
        except BaseException as error:
            cut(error)
            raise

    return look_like(face, like)
