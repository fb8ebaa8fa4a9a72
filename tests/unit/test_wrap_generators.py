"""``to_async`` of generators and iterators, ``to_sync`` of async ones."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest
from harness import wait_for

import sidecar
from sidecar._wrappers import to_async, to_sync

Run = Callable[[Coroutine[Any, Any, Any]], Any]
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture(params=["bridge", "foreign loop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on the bridge's loop, or on a plain one of asyncio's."""
    return sidecar.run_sync if request.param == "bridge" else asyncio.run


async def collected(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


async def soon(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


class Steps:
    """A generator that writes down what happens to it, and where."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.threads: set[int] = set()
        self.hold: threading.Event | None = None
        self.held = threading.Event()

    def __call__(self, end: int) -> Iterator[Any]:
        try:
            for number in range(end):
                try:
                    self.threads.add(threading.get_ident())
                    sent = yield number
                    if sent is not None:
                        self.events.append(sent)
                    if self.hold is not None:
                        self.held.set()
                        assert self.hold.wait(20)
                except LookupError as error:
                    self.events.append(type(error))
        finally:
            self.threads.add(threading.get_ident())
            self.events.append("closed")

    @property
    def on_pool(self) -> bool:
        return bool(self.threads) and threading.main_thread().ident not in self.threads


def test_generator(run: Run) -> None:
    steps = Steps()
    generator = to_async(steps)(3)
    assert inspect.isasyncgen(generator)
    assert run(collected(generator)) == [0, 1, 2]
    assert steps.events == ["closed"] and steps.on_pool


def test_send_and_throw(run: Run) -> None:
    steps = Steps()

    async def main() -> list[Any]:
        generator = to_async(steps)(9)
        got = [
            await generator.__anext__(),
            await generator.asend("sent"),
            await generator.athrow(LookupError()),
        ]
        with pytest.raises(ZeroDivisionError):
            await generator.athrow(ZeroDivisionError())
        with pytest.raises(StopAsyncIteration):
            await generator.__anext__()
        return got

    assert run(main()) == [0, 1, 2]
    assert steps.events == ["sent", LookupError, "closed"] and steps.on_pool


def test_closed(run: Run) -> None:
    steps = Steps()

    async def main() -> None:
        generator = to_async(steps)(9)
        await generator.__anext__()
        await generator.aclose()
        assert steps.events == ["closed"] and steps.on_pool
        await generator.aclose()
        never_begun = to_async(steps)(9)
        await never_begun.aclose()

    run(main())
    assert steps.events == ["closed"]


def test_closed_when_the_consumer_drops_it(run: Run) -> None:
    steps = Steps()

    async def main() -> None:
        async for number in to_async(steps)(9):
            if number == 2:
                break
        gc.collect()
        await soon(lambda: steps.events)

    run(main())
    assert steps.events == ["closed"] and steps.on_pool


def test_closed_when_the_consumer_is_cancelled_between_steps(run: Run) -> None:
    steps = Steps()

    async def consume() -> None:
        async for _ in to_async(steps)(9):
            await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.ensure_future(consume())
        await soon(lambda: steps.threads)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        gc.collect()
        await soon(lambda: steps.events)

    run(main())
    assert steps.on_pool


def test_closed_when_the_consumer_is_cancelled_in_a_step(run: Run) -> None:
    steps = Steps()
    steps.hold = threading.Event()

    async def main() -> None:
        task = asyncio.ensure_future(collected(to_async(steps)(9)))
        await soon(steps.held.is_set)
        task.cancel()
        await asyncio.wait({task}, timeout=20)
        assert task.cancelled() and steps.events == []
        steps.hold.set()  # type: ignore[union-attr]
        await soon(lambda: steps.events)

    run(main())
    assert steps.events == ["closed"] and steps.on_pool and len(steps.threads) >= 1


def test_closing_that_fails_after_a_cancellation_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    held, go_on = threading.Event(), threading.Event()

    def stubborn() -> Iterator[int]:
        held.set()
        assert go_on.wait(20)
        try:
            yield 1
        finally:
            raise LookupError("in the end")

    async def main() -> None:
        task = asyncio.ensure_future(collected(to_async(stubborn)()))
        await soon(held.is_set)
        task.cancel()
        await asyncio.wait({task})

    sidecar.run_sync(main())
    go_on.set()
    wait_for(lambda: "in the end" in caplog.text, "the failure is logged")
    assert "failed to close" in caplog.text


def test_generator_that_ignores_its_end(run: Run) -> None:
    def stubborn() -> Iterator[int]:
        with contextlib.suppress(GeneratorExit):
            yield 1
        yield 2

    async def main() -> None:
        generator = to_async(stubborn)()
        await generator.__anext__()
        with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
            await generator.aclose()

    run(main())


def test_iterators_and_generator_objects(run: Run) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        yield 2

    assert run(collected(to_async(iter([1, 2])))) == [1, 2]
    assert run(collected(to_async(numbers()))) == [1, 2]
    assert run(collected(to_async(map(str, (1, 2))))) == ["1", "2"]

    async def no_generator() -> None:
        iterator = to_async(iter([1, 2, 3]))
        assert await iterator.__anext__() == 1
        with pytest.raises(AttributeError, match="send"):
            await iterator.asend("value")
        other = to_async(iter([1, 2, 3]))
        await other.__anext__()
        with pytest.raises(LookupError):
            await other.athrow(LookupError())

    run(no_generator())


def test_steps_come_one_at_a_time(run: Run) -> None:
    inside = 0

    def steps() -> Iterator[int]:
        nonlocal inside
        for number in range(20):
            inside += 1
            assert inside == 1
            time.sleep(0)
            inside -= 1
            yield number

    async def main() -> list[list[int]]:
        face = to_async(steps)
        return [await collected(face()) for _ in range(3)]

    assert run(main()) == [list(range(20))] * 3


def test_generator_outlives_a_shutdown_of_the_default_bridge() -> None:
    steps = Steps()

    async def main() -> list[int]:
        generator = to_async(steps)(3)
        first = await generator.__anext__()
        await asyncio.get_running_loop().run_in_executor(None, sidecar.shutdown)
        return [first, *await collected(generator)]

    assert asyncio.run(main()) == [0, 1, 2]


def test_closed_here_where_the_pool_is_gone() -> None:
    steps = Steps()

    async def main() -> None:
        bridge = sidecar.Sidecar()
        generator = to_async(steps, bridge=bridge)(3)
        await generator.__anext__()
        await asyncio.get_running_loop().run_in_executor(None, bridge.shutdown)
        with pytest.raises(sidecar.BridgeClosedError):
            await generator.__anext__()
        assert steps.events == ["closed"]

    asyncio.run(main())


def test_stream_of_an_async_generator() -> None:
    events: list[Any] = []

    async def steps(end: int) -> AsyncIterator[Any]:
        try:
            for number in range(end):
                try:
                    events.append((yield number))
                except LookupError as error:
                    events.append(type(error))
        finally:
            await asyncio.sleep(0)
            events.append("closed")

    assert list(to_sync(steps)(2)) == list(to_sync(steps(2))) == [0, 1]
    del events[:]
    stream = to_sync(steps)(9)
    assert [next(stream), stream.send("sent"), stream.throw(LookupError())] == [0, 1, 2]
    stream.close()
    assert events == ["sent", LookupError, "closed"]


def test_stream_of_an_async_iterable() -> None:
    class Iterable:
        async def __aiter__(self) -> AsyncIterator[int]:
            for number in range(3):
                await asyncio.sleep(0)
                yield number

    assert list(to_sync(Iterable())) == [0, 1, 2]


def test_steps_share_one_context(run: Run) -> None:
    def steps() -> Iterator[str]:
        token = variable.set("first step")
        yield "first"
        yield variable.get()
        variable.reset(token)
        yield variable.get()

    async def main() -> list[str]:
        variable.set("consumer's")
        return [*await collected(to_async(steps)()), variable.get()]

    assert run(main()) == ["first", "first step", "consumer's", "consumer's"]


def test_faces_keep_nothing_alive(run: Run) -> None:
    class Payload:
        pass

    def steps(payload: Payload) -> Iterator[int]:
        yield 1
        yield 2

    async def main() -> weakref.ref[Payload]:
        payload = Payload()
        generator = to_async(steps)(payload)
        await generator.__anext__()
        with contextlib.suppress(ZeroDivisionError):
            await generator.athrow(ZeroDivisionError())
        await to_async(id)(payload)
        return weakref.ref(payload)

    kept = run(main())
    wait_for(lambda: gc.collect() >= 0 and kept() is None, "the payload is gone")
