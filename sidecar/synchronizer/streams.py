"""Async generators of a Synchronizer, for callers of both sides; each lives in one task."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from sidecar._submit import _context_of_nobody
from sidecar._support import logger
from sidecar._wrap_common import cut, shown
from sidecar.errors import BridgeClosedError

if TYPE_CHECKING:
    from sidecar.synchronizer import Synchronizer

_Step = Callable[[Any, Any], Coroutine[Any, Any, Any]]

# -- for blocking callers ---------------------------------------------------------


class Watched:
    """An async iterator that tells when it was ended between two steps: a stream that is dropped does not wait.

    It is ended by ``aclose()``, or by ``athrow()`` where its loop comes to its end.
    """

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator
        self._given_up = False
        self._process = os.getpid()
        self.over = threading.Event()
        self.error: BaseException | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    def __anext__(self) -> Any:
        return self._iterator.__anext__()

    def asend(self, value: Any) -> Any:
        if value is None:
            return self._iterator.__anext__()
        return self._iterator.asend(value)

    async def athrow(self, *error: Any) -> Any:
        try:
            return await self._iterator.athrow(*error)
        except BaseException:
            self.over.set()
            raise

    async def aclose(self) -> None:
        close = getattr(self._iterator, "aclose", None)
        try:
            if close is not None:
                await close()
        except BaseException as error:
            if self._given_up or isinstance(error, asyncio.CancelledError):
                raise
            self.error = error
        finally:
            self.over.set()

    def wait(self, seconds: float) -> None:
        """For the end of the cleanup, and raise what it has raised."""
        if self._process != os.getpid():
            return  # it is the parent's
        if not self.over.wait(seconds):
            self._given_up = True
            logger.warning("Synchronizer: %s does not close within %g s; it goes on", shown(self._iterator), seconds)
        if self.error is not None:
            raise self.error


def blocking_stream(owner: Synchronizer, iterator: Any, outward: Callable[[Any], Any]) -> Generator[Any, Any, None]:
    """The generator for ``for``; the stream, which is made now, keeps the context that this is called in."""
    watched = Watched(iterator)
    return _blocking_steps(owner, [owner._life.bridge().stream(watched)], watched, outward)


def _blocking_steps(
    owner: Synchronizer, streams: list[Any], watched: Watched, outward: Callable[[Any], Any]
) -> Generator[Any, Any, None]:
    # Held by the list only: taken out of it, the stream is dropped, which closes the iterator in its own task.
    early = False
    try:
        value = next(streams[0])
        while True:
            try:
                sent = yield outward(value)
            except GeneratorExit:
                early = True
                raise
            except BaseException as error:
                value = streams[0].throw(error)
            else:
                # The same step; this one is called without a method's look-up.
                value = next(streams[0]) if sent is None else streams[0].send(sent)
    except StopIteration:
        return
    except BaseException as error:
        if not early:
            cut(error)
        raise
    finally:
        streams.clear()
        if early and not sys.is_finalizing() and not owner._life.is_here():
            watched.wait(owner.finalizer_timeout)


# -- one task for all steps -------------------------------------------------------


class Producer:
    """An async iterator, and the task that all of its steps run in. Used on its loop only.

    The task ends with the iterator: when a step has raised, when the generator is at its end, when it is closed, or
    when the loop comes to its end.
    """

    def __init__(self, owner: Synchronizer, iterator: Any) -> None:
        self._life = owner._life
        self._iterator = iterator
        self._context = _context_of_nobody()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._order: tuple[_Step, Any, asyncio.Future[Any]] | None = None
        self._idle: asyncio.Future[None] | None = None
        self._leaving = False
        self._lost = False  # its loop has come to its end before it
        self.over = False

    async def step(self, step: _Step, value: Any = None) -> Any:
        """Have the task do ``await step(iterator, value)``. Cancelled here, the step is cancelled and waited for."""
        here = asyncio.get_running_loop()
        if self.is_lost():
            raise closed_before(self._iterator, "at its end")
        if self._order is not None:
            raise RuntimeError(f"{shown(self._iterator)} is already running")
        if self.over:
            raise StopAsyncIteration
        answer: asyncio.Future[Any] = here.create_future()
        self._order = (step, value, answer)
        if self._task is None:
            self._loop = here
            self._begin()
        elif self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        try:
            await asyncio.wait((answer,))
        except asyncio.CancelledError:
            if not answer.done() and self._task is not None:
                self._task.cancel()
            await asyncio.wait((answer,))
            answer.cancelled() or answer.exception()
            raise
        return answer.result()

    def is_lost(self) -> bool:
        """Whether its loop has come to its end before it; a Synchronizer that was closed has another one next."""
        return self._lost or (self._loop is not None and self._loop is not asyncio.get_running_loop())

    async def close(self) -> None:
        if self.over or self.is_lost():
            return
        with contextlib.suppress(StopAsyncIteration):  # it has come to its end meanwhile
            await self.step(aclose)

    def close_later(self) -> None:
        """From any thread: close it after the step that it is in."""
        if self._loop is not None and not self.over:
            with contextlib.suppress(RuntimeError):  # it was closed meanwhile, and has closed the iterator
                self._loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        self._leaving = True
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        coro: Any = self._serve()
        name = getattr(self._iterator, "__qualname__", type(self._iterator).__qualname__)
        coro.__name__ = coro.__qualname__ = name
        if sys.version_info >= (3, 11):
            self._task = loop.create_task(coro, context=self._context)
        else:
            self._task = self._context.run(loop.create_task, coro)
        _producers.add(self)
        self._task.add_done_callback(self._ended)

    async def _serve(self) -> None:
        while not self.over:
            # A step may have made nothing of the cancellation that came with the loop's end.
            if self._order is None and (self._leaving or not self._life.is_here()):
                self.over, self._lost = True, not self._leaving
                await aclose(self._iterator, None)
            elif self._order is None:
                self._idle = asyncio.get_running_loop().create_future()
                try:
                    await self._idle
                except asyncio.CancelledError:
                    # The loop comes to its end.
                    self.over = self._lost = True
                    await aclose(self._iterator, None)
                    raise
            else:
                await self._answer(*self._order)

    async def _answer(self, step: _Step, value: Any, answer: asyncio.Future[Any]) -> None:
        failure: BaseException | None = None
        result: Any = None
        try:
            result = await step(self._iterator, value)
        except BaseException as error:
            failure = error
            if isinstance(error, asyncio.CancelledError) and sys.version_info >= (3, 11) and self._task is not None:
                while self._task.uncancel():
                    pass
        self._order = None
        has_raised = failure is not None and not isinstance(failure, asyncio.CancelledError)
        if has_raised or step is aclose or getattr(self._iterator, "ag_frame", self) is None:
            self.over = True
        if answer.done():
            return
        if failure is None:
            answer.set_result(result)
        elif isinstance(failure, asyncio.CancelledError):
            answer.cancel()
        elif isinstance(failure, StopIteration):
            answer.set_exception(RuntimeError("an async iterator raised StopIteration"))
        else:
            answer.set_exception(failure)

    def _ended(self, task: asyncio.Task[None]) -> None:
        _producers.discard(self)
        self.over = True
        order, self._order = self._order, None
        if order is not None and not order[2].done():
            order[2].cancel()  # the task was cancelled before its first step
        if not task.cancelled() and task.exception() is not None:
            logger.error("Synchronizer: closing %s failed", shown(self._iterator), exc_info=task.exception())


_producers: set[Producer] = set()


def closed_before(what: object, state: str) -> BridgeClosedError:
    return BridgeClosedError(f"the Synchronizer was closed before {shown(what)} was {state} [{BridgeClosedError.code}]")


async def asend(iterator: Any, value: Any) -> Any:
    return await (iterator.__anext__() if value is None else iterator.asend(value))


async def athrow(iterator: Any, error: BaseException) -> Any:
    return await iterator.athrow(error)


async def aclose(iterator: Any, _: Any) -> None:
    close = getattr(iterator, "aclose", None)
    if close is not None:
        await close()


async def _close_within(producer: Producer, seconds: float) -> None:
    """Close it; after ``seconds`` it goes on by itself."""
    closing = asyncio.get_running_loop().create_task(producer.close())
    _closing.add(closing)
    closing.add_done_callback(_closed)
    done, _ = await asyncio.wait((closing,), timeout=seconds)
    if done:
        closing.result()
    else:
        logger.warning("Synchronizer: %s does not close within %g s; it goes on", shown(producer._iterator), seconds)


_closing: set[asyncio.Task[None]] = set()


def _closed(task: asyncio.Task[None]) -> None:
    _closing.discard(task)
    if not task.cancelled():
        task.exception()


# -- for async callers ------------------------------------------------------------


def async_stream(owner: Synchronizer, iterator: Any, outward: Callable[[Any], Any]) -> AsyncGenerator[Any, Any]:
    """The async generator for ``async for`` on any loop."""
    return _async_steps(owner, iterator, Producer(owner, iterator), outward)


async def _async_steps(
    owner: Synchronizer, iterator: Any, producer: Producer, outward: Callable[[Any], Any]
) -> AsyncGenerator[Any, Any]:
    name = getattr(iterator, "__qualname__", type(iterator).__qualname__)
    try:
        value = await owner._await(producer.step(asend), name)
        while True:
            try:
                sent = yield outward(value)
            except GeneratorExit:
                raise
            except BaseException as error:
                value = await owner._await(producer.step(athrow, error), name)
            else:
                value = await owner._await(producer.step(asend, sent), name)
    except StopAsyncIteration:
        return
    except GeneratorExit:
        if not sys.is_finalizing():
            await owner._await(_close_within(producer, owner.finalizer_timeout), name)
        raise
    except asyncio.CancelledError:
        producer.close_later()  # where the step did not end it, or goes on: nobody waits any more
        raise
    except BaseException as error:
        cut(error)
        raise
