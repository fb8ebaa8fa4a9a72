"""Measure ``sidecar.compat.synchronicity`` against synchronicity: the same library, wrapped by both; print tables."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import synchronicity
from compat_case import CALL, ITEM, SLOWER_NEVER, Work, case, main, repeated

from sidecar.compat.synchronicity import Synchronizer

LENGTH = 1000


async def number(x: int) -> int:
    return x


async def numbers(count: int) -> AsyncIterator[int]:
    for each in range(count):
        yield each


@contextlib.asynccontextmanager
async def context() -> AsyncIterator[int]:
    yield 1


class Client:
    async def get(self, x: int) -> int:
        return x


Make = Callable[[Any], Work]


def both(make: Make) -> Any:
    @contextlib.contextmanager
    def pair() -> Iterator[tuple[Work, Work]]:
        ours, theirs = Synchronizer(), synchronicity.Synchronizer()
        try:
            yield make(ours), make(theirs)
        finally:
            ours._close_loop()
            theirs._close_loop()

    return pair


def call(sync: Any) -> Work:
    face = sync.wrap(number)
    return repeated(lambda: face(1))


def call_in_a_thread(sync: Any) -> Work:
    face = sync.wrap(number)

    def work(times: int) -> None:
        thread = threading.Thread(target=repeated(lambda: face(1)), args=(times,))
        thread.start()
        thread.join()

    return work


def method(sync: Any) -> Work:
    client = sync.wrap(Client)()
    return repeated(lambda: client.get(1))


def items(sync: Any) -> Work:
    face = sync.wrap(numbers)

    def work(times: int) -> None:
        for _ in range(times // LENGTH):
            for _ in face(LENGTH):
                pass

    return work


def entered(sync: Any) -> Work:
    face = sync.wrap(context)

    def enter() -> None:
        with face():
            pass

    return repeated(enter)


def futures(sync: Any) -> Work:
    face = sync.wrap(number)

    def work(times: int) -> None:
        for future in [face(1, _future=True) for _ in range(times)]:
            future.result()

    return work


def awaited(sync: Any) -> Work:
    face = sync.wrap(number)

    async def go(times: int) -> None:
        for _ in range(times):
            await face.aio(1)

    return lambda times: asyncio.run(go(times))


def items_awaited(sync: Any) -> Work:
    face = sync.wrap(numbers)

    async def go(times: int) -> None:
        for _ in range(times // LENGTH):
            async for _ in face.aio(LENGTH):
                pass

    return lambda times: asyncio.run(go(times))


NAME = "synchronicity"
CASES = [
    case("call", "a wrapped function, in the main thread", NAME, both(call), CALL),
    case("call-in-a-thread", "a wrapped function, in another thread", NAME, both(call_in_a_thread), CALL),
    case("method", "a method of a proxy", NAME, both(method), CALL),
    case("items", "an item of a wrapped generator", NAME, both(items), ITEM, LENGTH),
    case("context", "a wrapped context manager, entered and left", NAME, both(entered), CALL),
    case("futures", "_future=True, many at once", NAME, both(futures), SLOWER_NEVER),
    case("await", "await face.aio() on another loop", NAME, both(awaited), SLOWER_NEVER),
    case("items-await", "an item, by async for on another loop", NAME, both(items_awaited), SLOWER_NEVER, LENGTH),
]

if __name__ == "__main__":
    main(__doc__, NAME, CASES)
