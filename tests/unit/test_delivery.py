"""The ends of a pool's jobs on their way to the event loop that awaits them."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sidecar

LONG = 20.0
MANY = 200


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts its wake-ups from other threads; may refuse them."""

    wakes = 0
    refuses: BaseException | None = None

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> Any:
        self.wakes += 1
        if self.refuses is not None:
            raise self.refuses
        return super().call_soon_threadsafe(*args, **kwargs)


class SlottedLoop:
    """A loop that takes no attributes: all is passed on to a real one, which knows nothing of it."""

    __slots__ = ("_real",)

    def __init__(self, real: asyncio.AbstractEventLoop) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture
def bridge() -> Iterator[sidecar.Sidecar]:
    with sidecar.Sidecar(workers=1, name="Delivery") as bridge:
        yield bridge


@pytest.fixture
def loop() -> Iterator[CountingLoop]:
    loop = CountingLoop()
    yield loop
    if not loop.is_closed():
        loop.close()


def double(number: int) -> int:
    return number * 2


def all_jobs_end_while_the_loop_is_busy(
    loop: asyncio.AbstractEventLoop, bridge: sidecar.Sidecar, work: Callable[[int], int]
) -> list[Any]:
    """Results of many jobs, none of which the loop has heard of before the last one has ended."""
    ended = threading.Event()

    async def main() -> list[Any]:
        tasks = [asyncio.ensure_future(sidecar.to_async(work, bridge=bridge)(number)) for number in range(MANY)]
        tasks.append(asyncio.ensure_future(sidecar.to_async(ended.set, bridge=bridge)()))
        await asyncio.sleep(0)
        # One worker: what it does last ends last.
        assert ended.wait(LONG)
        return await asyncio.gather(*tasks, return_exceptions=True)

    return loop.run_until_complete(main())[:-1]


def test_many_ends_wake_the_loop_once_or_twice(loop: CountingLoop, bridge: sidecar.Sidecar) -> None:
    assert all_jobs_end_while_the_loop_is_busy(loop, bridge, double) == [2 * n for n in range(MANY)]
    # The job that says it is the last has not told its own end by then.
    assert 1 <= loop.wakes <= 2


def test_a_loop_that_is_closed_meanwhile_is_left_alone(loop: CountingLoop, bridge: sidecar.Sidecar) -> None:
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go.wait(LONG)

    async def main() -> None:
        for work in (slow, ended.set):
            asyncio.ensure_future(sidecar.to_async(work, bridge=bridge)())
        await asyncio.sleep(0)
        assert begun.wait(LONG)

    loop.run_until_complete(main())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    go.set()
    # Its job is cancelled, unless the thread was faster; the pool lives on.
    assert bridge.submit(double, 4).result(LONG) == 8


def test_a_loop_that_refuses_does_not_harm_the_pool(
    loop: CountingLoop, bridge: sidecar.Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    loop.refuses = OSError("no more descriptors")
    future = None

    async def main() -> None:
        nonlocal future
        future = asyncio.ensure_future(sidecar.to_async(double, bridge=bridge)(1))
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    assert bridge.submit(double, 4).result(LONG) == 8
    assert [type(each.exc_value) for each in unraisable] == [OSError]
    # What comes later is delivered.
    loop.refuses = None
    assert loop.run_until_complete(sidecar.to_async(double, bridge=bridge)(3)) == 6
    assert future is not None and future.cancel()
    loop.run_until_complete(asyncio.wait([future]))


def test_each_error_goes_to_its_own_awaiter(loop: CountingLoop, bridge: sidecar.Sidecar) -> None:
    def fails_at_odd(number: int) -> int:
        if number % 2:
            raise ValueError(number)
        return number

    results = all_jobs_end_while_the_loop_is_busy(loop, bridge, fails_at_odd)
    assert [r.args[0] if isinstance(r, ValueError) else r for r in results] == list(range(MANY))
    assert [isinstance(r, ValueError) for r in results] == [bool(n % 2) for n in range(MANY)]


class Awkward(asyncio.Future):  # type: ignore[type-arg]
    """A future whose end raises."""

    error: BaseException

    def set_result(self, result: Any) -> None:
        super().set_result(result)
        raise self.error


class AwkwardLoop(CountingLoop):
    """The first future of a pool's job raises at its end."""

    error: BaseException | None = None

    def create_future(self) -> Any:
        if self.error is not None and sys._getframe(1).f_code.co_name != "create_task":
            future = Awkward(loop=self)
            future.error, self.error = self.error, None
            return future
        return super().create_future()


@pytest.mark.parametrize("error", [ZeroDivisionError("an odd future"), KeyboardInterrupt(), SystemExit(3)])
def test_a_future_that_raises_takes_nothing_from_the_others(
    bridge: sidecar.Sidecar, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    loop = AwkwardLoop()
    go = threading.Event()
    tasks: list[asyncio.Future[Any]] = []

    def double_when_told(number: int) -> int:
        assert go.wait(LONG)
        return number * 2

    async def main() -> None:
        for number in range(5):
            loop.error = error if number == 0 else None
            tasks.append(asyncio.ensure_future(sidecar.to_async(double_when_told, bridge=bridge)(number)))
            await asyncio.sleep(0)
        go.set()
        await asyncio.wait(tasks)

    try:
        if isinstance(error, Exception):
            loop.run_until_complete(main())
            assert [each.exc_value for each in unraisable] == [error]
        else:
            with pytest.raises(type(error)):
                loop.run_until_complete(main())
            loop.run_until_complete(asyncio.wait(tasks))
            assert not unraisable
        assert [task.result() for task in tasks] == [0, 2, 4, 6, 8]
    finally:
        loop.close()


def test_a_loop_that_takes_no_attributes(loop: CountingLoop, bridge: sidecar.Sidecar) -> None:
    odd = SlottedLoop(loop)

    async def main() -> int:
        asyncio._set_running_loop(odd)  # type: ignore[arg-type]
        try:
            pending = bridge._on_pool(None, double, 21)
            future = pending.send(None)
        finally:
            asyncio._set_running_loop(loop)
        await asyncio.wait([future])
        result: int = future.result()
        pending.close()
        return result

    assert loop.run_until_complete(main()) == 42


def test_the_bridges_own_loop_takes_them_the_same_way(bridge: sidecar.Sidecar) -> None:
    ended = threading.Event()

    async def main() -> list[int]:
        tasks = [asyncio.ensure_future(sidecar.to_async(double, bridge=bridge)(number)) for number in range(MANY)]
        last = asyncio.ensure_future(sidecar.to_async(ended.set, bridge=bridge)())
        await asyncio.sleep(0)
        assert ended.wait(LONG)
        await last
        return [task.result() for task in tasks]

    assert bridge.run_sync(main()) == [2 * n for n in range(MANY)]
