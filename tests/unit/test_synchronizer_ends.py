"""Synchronizer: what is left of generators and stays when they end, and when it is closed before they do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

import pytest

from sidecar.errors import BridgeClosedError
from sidecar.synchronizer import Synchronizer

LONG = 20


@pytest.fixture
def sync() -> Iterator[Synchronizer]:
    made = Synchronizer(finalizer_timeout=LONG)
    yield made
    made.close()


async def count(end: int) -> AsyncGenerator[int, None]:
    for number in range(end):
        yield number


class Countdown:
    """An async iterator that is no generator."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __aiter__(self) -> Countdown:
        return self

    async def __anext__(self) -> int:
        self.number -= 1
        if self.number < 0:
            raise StopAsyncIteration
        return self.number


@contextlib.asynccontextmanager
async def stay(log: list[str]) -> AsyncIterator[None]:
    log.append("entered")
    try:
        yield
    finally:
        log.append("left")


def tasks_of(sync: Synchronizer) -> int:
    async def others() -> int:
        await asyncio.sleep(0)  # what has just ended its work ends
        return len(asyncio.all_tasks())

    found: int = sync.wrap(others)()
    return found


def test_a_stay_leaves_no_task(sync: Synchronizer) -> None:
    before = tasks_of(sync)
    log: list[str] = []
    entered = sync.wrap(stay)

    async def main() -> None:
        async with entered(log):
            pass

    with entered(log):
        pass
    with contextlib.suppress(KeyError), entered(log):
        raise KeyError
    asyncio.run(main())
    assert log == ["entered", "left"] * 3
    assert tasks_of(sync) == before


def test_an_iterator_leaves_no_task(sync: Synchronizer) -> None:
    def countdown(number: int) -> AsyncIterator[int]:
        return Countdown(number)

    before = tasks_of(sync)
    counted, counted_down = sync.wrap(count), sync.wrap(countdown)

    async def main() -> None:
        assert [number async for number in counted.aio(3)] == [0, 1, 2]
        assert [number async for number in counted_down.aio(3)] == [2, 1, 0]

    asyncio.run(main())
    assert list(counted_down(2)) == [1, 0]
    assert tasks_of(sync) == before


def test_closed_between_two_items_is_no_end(sync: Synchronizer) -> None:
    """It would look like all of them."""
    counted = sync.wrap(count)

    async def main() -> None:
        items = counted.aio(3)
        assert await items.__anext__() == 0
        await asyncio.get_running_loop().run_in_executor(None, sync.close)
        with pytest.raises(BridgeClosedError, match="closed before .*count.* was at its end"):
            await items.__anext__()

    asyncio.run(main())


@pytest.mark.parametrize("starts_again", [False, True])
def test_left_after_it_was_closed(sync: Synchronizer, starts_again: bool) -> None:
    counted = sync.wrap(count)

    async def main() -> None:
        items = counted.aio(3)
        assert await items.__anext__() == 0
        await asyncio.get_running_loop().run_in_executor(None, sync.close)
        if starts_again:
            sync.start()
        await items.aclose()

    asyncio.run(main())
    items = counted(3)
    assert next(items) == 0
    sync.close()
    if starts_again:
        sync.start()
    began = time.monotonic()
    items.close()
    assert time.monotonic() - began < LONG


def test_a_stay_that_was_closed_before_it_was_left(sync: Synchronizer) -> None:
    log: list[str] = []
    with pytest.raises(BridgeClosedError, match="closed before .* was left"), sync.wrap(stay)(log):
        sync.close()
    assert log == ["entered", "left"]


def test_a_cancellation_that_comes_to_nothing_does_not_hold_the_end(
    sync: Synchronizer, caplog: pytest.LogCaptureFixture
) -> None:
    """The one that comes with the end, in a step that goes on all the same; the step's own call is cancelled, too."""
    inside = threading.Event()

    async def deaf() -> AsyncGenerator[int, None]:
        inside.set()
        for seconds in (LONG, 0, 0, 0):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(seconds)
        yield 1
        yield 2

    async def main() -> None:
        items = sync.wrap(deaf).aio()
        first = asyncio.ensure_future(items.__anext__())
        await asyncio.get_running_loop().run_in_executor(None, inside.wait, LONG)
        await asyncio.get_running_loop().run_in_executor(None, sync.close)
        assert "did not end in time" not in caplog.text
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_child_does_not_wait_for_what_is_its_parents(sync: Synchronizer) -> None:
    items = sync.wrap(count)(3)
    assert next(items) == 0
    child = os.fork()
    if child == 0:
        began = time.monotonic()
        try:
            items.close()
        except BaseException:
            os._exit(2)
        os._exit(0 if time.monotonic() - began < LONG / 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(items) == [1, 2]
