"""Scenarios: ``stream``, by each way a step can go and each way a stream can end."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from leaks.measure import Scenarios

import sidecar

scenario = Scenarios()
logging.getLogger("sidecar").setLevel(logging.CRITICAL)
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

bridge = sidecar.Sidecar(name="leaks", workers=2, cleanup_timeout=60).start()
stream: Any = bridge.stream
hasty = sidecar.Sidecar(name="hasty", timeout=0.005, cleanup_timeout=0.005).start()
var: contextvars.ContextVar[object] = contextvars.ContextVar("var")
ended: list[int] = []


async def rows(count: int = 3, wait: bool = False) -> AsyncIterator[object]:
    try:
        for number in range(count):
            if wait:
                await asyncio.sleep(0)
            yield [number]
    finally:
        ended.append(1)


async def opened() -> AsyncIterator[object]:
    await asyncio.sleep(0)
    return rows()


class Plain:
    left = 3

    def __aiter__(self) -> Plain:
        return self

    async def __anext__(self) -> object:
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        return [self.left]


def refused(error: type[BaseException], call: Callable[..., object], *args: object, **kwargs: object) -> None:
    try:
        call(*args, **kwargs)
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


def closed_by(action: Callable[[], object]) -> None:
    """Wait for a cleanup that takes place on the loop."""
    ended.clear()
    action()
    deadline = time.monotonic() + 10
    while not ended and time.monotonic() < deadline:
        bridge.run_sync(asyncio.sleep(0))
    assert ended


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


# -- to the end ------------------------------------------------------------------


@scenario()
def ready_items() -> None:
    assert len(list(stream(rows))) == 3


@scenario()
def items_that_wait() -> None:
    assert len(list(stream(rows, 3, True))) == 3


@scenario()
def reads_ahead() -> None:
    assert len(list(stream(rows, 9, prefetch=2))) == 9
    assert len(list(stream(rows, 9, True, prefetch=4))) == 9


@scenario()
def other_sources() -> None:
    assert len(list(stream(opened))) == len(list(stream(opened()))) == len(list(stream(Plain()))) == 3


@scenario()
def in_a_context() -> None:
    context = contextvars.copy_context()
    context.run(var.set, [])
    list(stream(rows, context=context))

    def consume() -> None:
        list(stream(rows, propagate=True))

    contextvars.copy_context().run(consume)


# -- send, throw, errors ----------------------------------------------------------


async def echo() -> AsyncIterator[object]:
    got: object = None
    while True:
        try:
            got = yield got
        except ValueError as error:
            got = error.args


@scenario()
def send_and_throw() -> None:
    one = stream(echo)
    next(one)
    assert one.send([]) == [] and one.throw(ValueError([1])) == ([1],)
    refused(KeyError, one.throw, KeyError([]))
    assert next(one, None) is None


async def fail() -> AsyncIterator[object]:
    yield []
    await asyncio.sleep(0)
    raise LookupError([])


@scenario()
def errors() -> None:
    for prefetch in (0, 2):
        one = stream(fail, prefetch=prefetch)
        next(one)
        refused(LookupError, next, one)
        assert next(one, None) is None


@scenario()
def mistakes() -> None:
    refused(TypeError, stream, [1])
    refused(TypeError, stream, rows(), 1)
    refused(TypeError, stream, opened(), 1)
    refused(ValueError, stream, opened(), prefetch=-1)
    refused(TypeError, stream, opened(), context={})
    refused(TypeError, next, stream(asyncio.sleep, 0))
    context = contextvars.copy_context()
    context.run(refused, RuntimeError, next, stream(rows, context=context))


@scenario()
def deadlocks() -> None:
    one = stream(rows)

    async def inside() -> None:
        refused(sidecar.DeadlockError, next, one)

    bridge.run_sync(inside())
    assert len(list(one)) == 3


# -- before the end ----------------------------------------------------------------


@scenario()
def never_begun() -> None:
    stream(rows)
    stream(opened())
    stream(opened()).close()


@scenario()
def closed() -> None:
    for prefetch in (0, 2):
        with stream(rows, 9, True, prefetch=prefetch) as one:
            next(one)


@scenario()
def dropped() -> None:
    for prefetch in (0, 2):
        closed_by(lambda: next(stream(rows, 9, prefetch=prefetch)))
    bridge.run_sync(settle())


@scenario()
def dropped_on_another_thread() -> None:
    holder = [stream(rows, 9)]
    next(holder[0])

    def drop() -> None:
        thread = threading.Thread(target=holder.clear)
        thread.start()
        thread.join()

    closed_by(drop)
    bridge.run_sync(settle())


class Reader:
    def __init__(self) -> None:
        self.stream = stream(self.read())

    async def read(self) -> AsyncIterator[object]:
        try:
            yield self
            yield self
        finally:
            ended.append(1)


@scenario(20)
def garbage() -> None:
    def drop() -> None:
        reader = Reader()
        next(reader.stream)
        holder: list[object] = [stream(rows, 9, prefetch=2)]
        next(holder[0])  # type: ignore[call-overload]
        holder.append(holder)
        del reader, holder
        gc.collect()

    closed_by(drop)
    bridge.run_sync(settle())


async def bad_cleanup() -> AsyncIterator[object]:
    try:
        yield []
        yield []
    finally:
        ended.append(1)
        raise LookupError([])


@scenario()
def cleanups_that_fail() -> None:
    closed_by(lambda: next(stream(bad_cleanup)))
    one = stream(bad_cleanup)
    next(one)
    refused(LookupError, one.close)
    bridge.run_sync(settle())


async def deaf() -> AsyncIterator[object]:
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        await asyncio.sleep(0.02)
    yield []


@scenario(5)
def limits() -> None:
    async def slow() -> AsyncIterator[object]:
        await asyncio.sleep(10)
        yield []

    refused(sidecar.CallTimeoutError, next, hasty.stream(slow))
    refused(sidecar.CallTimeoutError, next, hasty.stream(deaf))
    deadline = time.monotonic() + 10
    tasks = 9
    while tasks > 2 and time.monotonic() < deadline:
        tasks = hasty.run_sync(count_tasks(), timeout=10)
    assert tasks == 2


async def count_tasks() -> int:
    return len(asyncio.all_tasks())


@scenario(10)
def shutdowns() -> None:
    own = sidecar.Sidecar(name="own")
    parked, ahead = own.stream(rows, 9), own.stream(rows, 9, prefetch=2)
    next(parked)
    next(ahead)
    assert own.shutdown()
    refused(asyncio.CancelledError, next, parked)
    assert parked.close() is None


@scenario(10)
def forks() -> None:
    one = stream(rows, 3)
    next(one)
    child = os.fork()
    if child == 0:
        refused(sidecar.errors.ForkedError, next, one)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert len(list(one)) == 2
