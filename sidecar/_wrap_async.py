"""Async faces of blocking functions, generators and context managers: their work runs on a bridge's pool."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import sys
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sidecar._support import logger, native_lock
from sidecar._wrap_common import (
    ASYNC_CONTEXT,
    acts_as,
    bridge_of,
    cut,
    look_like,
    on_side,
    set_cause_in_body,
    shown,
)
from sidecar.errors import BridgeClosedError

if TYPE_CHECKING:
    from sidecar._bridge import Sidecar

# -- functions --------------------------------------------------------------------


def async_function(call: Callable[..., Any], like: Any, bridge: Sidecar | None) -> Callable[..., Any]:
    """An async function that runs ``call`` on the pool."""
    if sys.version_info >= (3, 12):
        # It hands out the pool's own coroutine, so no frame of ours is in anybody's traceback.
        @on_side("async")
        def face(*args: Any, **kwargs: Any) -> Any:
            return bridge_of(bridge)._on_pool(None, call, *args, **kwargs)

        return inspect.markcoroutinefunction(look_like(face, like))

    @on_side("async")
    async def coroutine_face(*args: Any, **kwargs: Any) -> Any:
        try:
            return await bridge_of(bridge)._on_pool(None, call, *args, **kwargs)
        except BaseException as error:
            cut(error)
            raise

    return look_like(coroutine_face, like)


async def _surely(bridge: Sidecar | None, context: contextvars.Context, call: Callable[[], Any]) -> Any:
    """A cleanup on the pool: it goes on when its task is cancelled; where the pool is gone it runs here."""
    began = False

    def job() -> Any:
        nonlocal began
        began = True
        return call()

    try:
        return await asyncio.shield(asyncio.ensure_future(bridge_of(bridge)._on_pool(context, job)))
    except BridgeClosedError:
        if began:
            raise
    return context.run(job)


# -- generators and iterators -------------------------------------------------------


class _Steps:
    """A blocking iterator whose steps run on the pool, one at a time.

    A consumer that is cancelled cannot stop a step that runs: whoever has the iterator at that moment, the
    running step or the consumer, closes it.
    """

    def __init__(self) -> None:
        self._lock = native_lock()
        self._iterator: Any = None
        self._running = False
        self._left = False

    def step(self, make: Callable[[], Any], sent: Any, thrown: BaseException | None) -> tuple[bool, Any]:
        """On the pool: whether there is an item, and the item."""
        with self._lock:
            if self._left:
                return False, None
            self._running = True
        try:
            return True, self._advance(make, sent, thrown)
        except StopIteration:
            self._iterator = None
            return False, None
        except BaseException as error:
            self._iterator = None  # it has ended itself
            cut(error)
            raise
        finally:
            with self._lock:
                self._running = False
                left = self._left
            if left:
                self._close_unwatched()

    def _advance(self, make: Callable[[], Any], sent: Any, thrown: BaseException | None) -> Any:
        iterator = self._iterator
        if iterator is None:
            iterator = self._iterator = iter(make())
        if thrown is not None:
            if not hasattr(iterator, "throw"):
                raise thrown
            return iterator.throw(thrown)
        return next(iterator) if sent is None else iterator.send(sent)

    def leave(self) -> bool:
        """No step begins any more. True: none runs either, and the iterator is the caller's to close."""
        with self._lock:
            self._left = True
            return not self._running and self._iterator is not None

    def close(self) -> None:
        """On the pool, as ``yield from`` does it."""
        close = getattr(self._iterator, "close", None)
        if close is not None:
            try:
                close()
            except BaseException as error:
                cut(error)
                raise

    def _close_unwatched(self) -> None:
        try:
            self.close()
        except BaseException:
            logger.exception("%s, whose consumer was cancelled, failed to close", shown(self._iterator))


def _as_it_is(args: Any, value: Any) -> Any:
    return value


def async_generator_function(
    call: Callable[..., Any], like: Any, bridge: Sidecar | None, out: Callable[[Any, Any], Any] = _as_it_is
) -> Callable[..., AsyncGenerator[Any, Any]]:
    """An async generator function: the iterator that ``call`` returns is made, advanced and closed on the pool.

    out: makes of the arguments and an item what is handed out for it.
    """

    @on_side("async")
    async def face(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        def make() -> Any:
            return call(*args, **kwargs)

        context = contextvars.copy_context()
        steps = _Steps()
        sent: Any = None
        thrown: BaseException | None = None
        try:
            while True:
                more, item = await bridge_of(bridge)._on_pool(context, steps.step, make, sent, thrown)
                if not more:
                    return
                sent = thrown = None
                try:
                    sent = yield out(args, item)
                except GeneratorExit:
                    raise
                except BaseException as error:
                    thrown = error
        except BaseException as error:
            if steps.leave():
                await _surely(bridge, context, steps.close)
            cut(error)
            raise
        finally:
            thrown = None  # a cycle through the error's frames otherwise

    return look_like(face, like)


# -- context managers ---------------------------------------------------------------


class _Stay:
    """One stay in a blocking context manager: entered and left on the pool, in one context."""

    def __init__(self, manager: Any, bridge: Sidecar | None) -> None:
        self._manager = manager
        self._bridge = bridge
        self._context = contextvars.copy_context()
        self._lock = native_lock()
        self._entered = self._left = False
        self.task = asyncio.current_task()

    async def enter(self) -> Any:
        try:
            return await bridge_of(self._bridge)._on_pool(self._context, self._enter)
        except BaseException as error:
            with self._lock:
                self._left = True
                entered = self._entered
            if entered:
                # Cancelled when it was in already: what nobody is going to use is left again.
                await self.leave(type(error), error, error.__traceback__)
            cut(error)
            raise

    def _enter(self) -> Any:
        if self._left:
            return None
        value = type(self._manager).__enter__(self._manager)
        with self._lock:
            self._entered = not self._left
        if not self._entered:
            self._leave_unwatched()
        return value

    def _leave_unwatched(self) -> None:
        error = asyncio.CancelledError()
        try:
            type(self._manager).__exit__(self._manager, type(error), error, None)
        except BaseException as raised:
            if raised is not error:
                logger.exception("%s, whose entering was cancelled, failed to exit", shown(self._manager))

    async def leave(self, *exc_info: Any) -> bool:
        leave = functools.partial(type(self._manager).__exit__, self._manager, *exc_info)
        try:
            return bool(await _surely(self._bridge, self._context, leave))
        except BaseException as raised:
            set_cause_in_body(raised, exc_info[1])
            cut(raised)
            raise


class AsyncContext(AbstractAsyncContextManager[Any]):
    """A blocking context manager as an async one. It can be entered by many tasks at once if the original can.

    They enter one after another: those that wait for a lock must not take all of the pool's threads, for one of
    them is needed to release it.
    """

    def __init__(
        self, manager: Any, bridge: Sidecar | None, out: Callable[[Any, Any], Any] = _as_it_is, args: Any = ()
    ) -> None:
        self.__wrapped__ = manager
        self._bridge = bridge
        self._out = functools.partial(out, args)
        self._stays: list[_Stay] = []
        self._turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = (
            weakref.WeakKeyDictionary()
        )

    def __repr__(self) -> str:
        return f"<sidecar.to_async({shown(self.__wrapped__)})>"

    async def __aenter__(self) -> Any:
        stay = _Stay(self.__wrapped__, self._bridge)
        try:
            async with self._turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
                value = self._out(await stay.enter())
        except BaseException as error:
            cut(error)
            raise
        self._stays.append(stay)
        return value

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        stay = innermost(self._stays, "task", asyncio.current_task())
        try:
            suppressed: bool = await stay.leave(kind, error, traceback)
        except BaseException as raised:
            cut(raised)
            raise
        return suppressed


class AsyncContextIterable(AsyncContext):
    """Both in one, as a file is."""

    def __aiter__(self) -> AsyncGenerator[Any, Any]:
        manager = self.__wrapped__
        return async_generator_function(lambda: manager, iter, self._bridge)()


def innermost(stays: list[Any], what: str, mine: object) -> Any:
    """Take out the last stay of one's own, or the last one: it may be left elsewhere than it was entered."""
    for stay in reversed(stays.copy()):
        if getattr(stay, what) == mine:
            stays.remove(stay)  # nobody else's: other threads may be here as well
            return stay
    if not stays:
        raise RuntimeError("a context manager is left that was not entered")
    return stays.pop()


def async_context_function(
    call: Callable[..., Any], like: Any, bridge: Sidecar | None, out: Callable[[Any, Any], Any] = _as_it_is
) -> Callable[..., Any]:
    @on_side("async")
    @acts_as(ASYNC_CONTEXT)
    def face(*args: Any, **kwargs: Any) -> AsyncContext:
        try:
            return AsyncContext(call(*args, **kwargs), bridge, out, args)
        except BaseException as error:
            cut(error)
            raise

    return look_like(face, like)
