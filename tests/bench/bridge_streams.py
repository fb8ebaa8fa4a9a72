"""Async generators consumed by sync code: ``bridge.stream`` against its peers.

Every contestant runs all steps of a generator in a copy of the consumer's context and closes it. A stream has
``LENGTH`` items; making it and closing it are part of the time. What each contestant does for an item is in its
docstring.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import queue
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import synchronicity
from bridge_case import Case, Measure, Opened, Sampler, Taken, stopwatch

import sidecar

LENGTH = 1000
AHEAD = 16

Source = Callable[[], "AsyncIterator[int]"]
Consumer = Callable[[Source], "Iterator[int]"]


async def plain() -> AsyncIterator[int]:
    for number in range(LENGTH):
        yield number


async def waiting() -> AsyncIterator[int]:
    for number in range(LENGTH):
        await asyncio.sleep(0)
        yield number


async def number() -> int:
    return 1


async def number_later() -> int:
    await asyncio.sleep(0)
    return 1


class LoopThread:
    """A loop in a thread of its own, as most programs have it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def items_by_hops(self, source: Source) -> Iterator[int]:
        """Each step is a coroutine sent to the loop, and waited for. Each is a task of its own."""
        generator = source().__aiter__()

        async def step() -> int:
            return await generator.__anext__()

        try:
            while True:
                try:
                    yield asyncio.run_coroutine_threadsafe(step(), self.loop).result()
                except StopAsyncIteration:
                    return
        finally:
            asyncio.run_coroutine_threadsafe(generator.aclose(), self.loop).result()  # type: ignore[attr-defined]


class QueuedStream:
    """By hand: one task runs the generator and puts items into a queue; the consumer lets it go on.

    ``ahead`` is how many items it may be ahead of the consumer, at least 1; it gets leave for half of them at
    a time, so that not every item costs a wake-up of the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, source: Source, ahead: int) -> None:
        self.loop = loop
        self.source = source
        self.batch = max(1, ahead // 2)
        self.items: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        self.leave = asyncio.Semaphore(0)
        self.taken = 0
        self.task: asyncio.Task[None] | None = None
        self.over = False
        context = contextvars.copy_context()
        loop.call_soon_threadsafe(self.begin, ahead, context=context)

    def begin(self, ahead: int) -> None:
        self.give(ahead)
        self.task = self.loop.create_task(self.produce())

    def give(self, leave: int) -> None:
        for _ in range(leave):
            self.leave.release()

    async def produce(self) -> None:
        error: BaseException | None = None
        generator = self.source()
        try:
            await self.leave.acquire()
            async for item in generator:
                self.items.put((True, item))
                await self.leave.acquire()
        except BaseException as raised:  # noqa: BLE001  (it is raised in the consumer)
            error = raised
        finally:
            await generator.aclose()  # type: ignore[attr-defined]
            self.items.put((False, error))

    def __iter__(self) -> QueuedStream:
        return self

    def __next__(self) -> int:
        if self.over:
            raise StopIteration
        # The first ones were given at the begin.
        if self.taken and self.taken % self.batch == 0:
            self.loop.call_soon_threadsafe(self.give, self.batch)
        is_item, value = self.items.get()
        self.taken += 1
        if is_item:
            item: int = value
            return item
        self.over = True
        if value is not None:
            raise value
        raise StopIteration

    def close(self) -> None:
        if not self.over:
            self.over = True
            self.loop.call_soon_threadsafe(lambda: self.task and self.task.cancel())
            while self.items.get()[0]:
                pass


def consume(consumer: Consumer, source: Source) -> Sampler:
    """Whole streams, one after another; an item is an operation."""

    def sample(times: int) -> dict[str, Taken]:
        streams = range(times // LENGTH)
        count = 0
        watch = stopwatch()
        for _ in streams:
            for _ in consumer(source):
                count += 1
        taken = watch()
        if count != times:
            raise AssertionError(f"{count} items of {times}")
        return {"item": taken}

    return sample


def hops(loop: asyncio.AbstractEventLoop, function: Callable[[], Coroutine[Any, Any, int]]) -> Sampler:
    """The baseline: no generator at all, a coroutine for each item."""

    def sample(times: int) -> dict[str, Taken]:
        send, again = asyncio.run_coroutine_threadsafe, range(times)
        watch = stopwatch()
        for _ in again:
            send(function(), loop).result()
        return {"item": watch()}

    return sample


def floor(loop: asyncio.AbstractEventLoop, source: Source) -> Sampler:
    """Nobody crosses anything: `async for` in one task."""

    async def drain(streams: int) -> Taken:
        watch = stopwatch()
        for _ in range(streams):
            async for _ in source():
                pass
        return watch()

    def sample(times: int) -> dict[str, Taken]:
        return {"item": loop.run_until_complete(drain(times // LENGTH))}

    return sample


def on_thread(sampler: Sampler, thread: concurrent.futures.Executor) -> Sampler:
    return lambda times: thread.submit(sampler, times).result()


@contextlib.contextmanager
def opened(source: Source, other_thread: bool) -> Iterator[Opened]:
    bridge = sidecar.Sidecar()
    background = LoopThread()
    own_loop = asyncio.new_event_loop()
    synchronizer = synchronicity.Synchronizer()
    hop = number if source is plain else number_later
    by_synchronicity = synchronizer.create_blocking(source)
    samplers = {
        "floor: async for, in one task": floor(own_loop, source),
        "sidecar stream": consume(lambda source: bridge.stream(source), source),
        f"sidecar stream, prefetch={AHEAD}": consume(
            lambda source: bridge.stream(source, prefetch=AHEAD), source
        ),
        "a hop (run_coroutine_threadsafe)": hops(background.loop, hop),
        "a hop for each __anext__()": consume(background.items_by_hops, source),
        "queue by hand, lockstep": consume(lambda source: QueuedStream(background.loop, source, 1), source),
        f"queue by hand, {AHEAD} ahead": consume(
            lambda source: QueuedStream(background.loop, source, AHEAD), source
        ),
        "synchronicity": consume(lambda _: by_synchronicity(), source),
    }
    where, what = "another thread" if other_thread else "the main thread", "plain items"
    targets = {"sidecar stream": 0.02, f"sidecar stream, prefetch={AHEAD}": 0.01}
    if source is waiting:
        what, targets = "items that wait once (sleep(0))", {"sidecar stream": 0.04}
    title = f"stream of {what}, on {where}, us an item (of it: of a hop)"
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        if other_thread:
            samplers = {name: on_thread(sampler, thread) for name, sampler in samplers.items()}
        yield Opened(
            samplers, "a hop (run_coroutine_threadsafe)", {"item": Measure(title, targets)}, unit=LENGTH
        )
    synchronizer._close_loop()  # type: ignore[no-untyped-call]
    own_loop.close()
    background.close()
    bridge.shutdown()


CASES = (
    Case("stream-plain", "plain items, on the main thread", lambda: opened(plain, False)),
    Case("stream-plain-thread", "plain items, on another thread", lambda: opened(plain, True)),
    Case("stream-waits", "items that wait once, on the main thread", lambda: opened(waiting, False)),
    Case("stream-waits-thread", "items that wait once, on another thread", lambda: opened(waiting, True)),
)
