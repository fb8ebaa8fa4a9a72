"""sidecar.anycall: many calls at once, the threads they wait for, calls inside calls."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lands import HAS_TRIO, LONG, Gate, Land, every_land

import sidecar
from sidecar.anycall import CallAnyTimeout, call_any, call_map, parallel_map

SOON = 0.05


@pytest.fixture(autouse=True)
def idle_trio_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # Trio keeps threads for 10 s; the count of threads after each test would wait for that.
    if HAS_TRIO:
        monkeypatch.setattr("trio._core._thread_cache.IDLE_TIMEOUT", 0.01)


@pytest.fixture
def one() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(1, "one") as made:
        yield made


# -- waiting for a thread -----------------------------------------------------


@every_land()
def test_the_clock_starts_with_the_function(land: Land, one: concurrent.futures.Executor) -> None:
    # Together they take longer than the time-out of each.
    calls = [(time.sleep, (0.05,), {}, 0.5)] * 14
    began = time.monotonic()
    assert land.run(lambda: parallel_map(calls, executor=one)) == [None] * 14
    assert time.monotonic() - began > 0.5


@pytest.mark.skipif(not HAS_TRIO, reason="Trio is not installed")
def test_the_clock_starts_with_the_function_on_trios_threads() -> None:
    import trio

    async def main() -> Any:
        trio.to_thread.current_default_thread_limiter().total_tokens = 1
        return await parallel_map([(time.sleep, (0.05,), {}, 0.5)] * 14)

    began = time.monotonic()
    assert trio.run(main) == [None] * 14
    assert time.monotonic() - began > 0.5


@every_land()
def test_a_call_that_no_thread_comes_free_for_gives_up(
    land: Land, one: concurrent.futures.ThreadPoolExecutor
) -> None:
    ran: list[int] = []
    with Gate() as gate:
        blocked = one.submit(gate.block)
        assert gate.running.wait(LONG)
        with pytest.raises(CallAnyTimeout, match="^Function append timed out after 0.05s$"):
            land.run(lambda: call_any(ran.append, 1, timeout=SOON, executor=one, force_offload=True))
    assert blocked.result(LONG) == "through"
    one.submit(int).result(LONG)  # whatever was queued has had its turn
    assert ran == []


@pytest.mark.skipif(not HAS_TRIO, reason="Trio is not installed")
def test_in_trio_a_function_that_is_late_makes_room() -> None:
    import trio

    with Gate() as gate:

        async def main() -> Any:
            trio.to_thread.current_default_thread_limiter().total_tokens = 1
            with pytest.raises(CallAnyTimeout):
                await call_any(gate.block, timeout=SOON)
            assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
            with trio.fail_after(LONG):
                return await call_any(len, "four")

        assert trio.run(main) == 4
        assert not gate.over.is_set()


# -- calls inside calls -------------------------------------------------------


def dive(depth: int, options: dict[str, Any]) -> int:
    """Each level blocks its thread until the next one is through."""
    return depth if depth == 0 else 1 + call_any(dive, depth - 1, options, **options)


@every_land()
def test_nested_calls_on_one_thread(land: Land, one: concurrent.futures.Executor) -> None:
    options = {"executor": one, "timeout": LONG}
    assert land.run(lambda: call_any(dive, 7, options, **options)) == 7


@every_land(but="trio")  # whose threads are no part of the pool
def test_nested_calls_of_a_full_pool_are_not_late(land: Land) -> None:
    workers = sidecar.get_bridge()._workers
    together = threading.Barrier(workers)

    def outer(number: int) -> Any:
        together.wait(LONG)  # so all threads of the pool are taken
        return call_any(inner, number, timeout=LONG / 3)

    def inner(number: int) -> str:
        return f"{number} on {threading.current_thread().name.rsplit('-', 1)[0]}"

    calls = [(outer, (number,), {}, LONG) for number in range(workers)]
    assert land.run(lambda: parallel_map(calls)) == [f"{number} on Sidecar-nest" for number in range(workers)]


@pytest.mark.skipif(not HAS_TRIO, reason="Trio is not installed")
def test_nested_calls_on_all_of_trios_threads() -> None:
    import trio

    together = threading.Barrier(2)

    def outer(number: int) -> Any:
        together.wait(LONG)
        return trio.from_thread.run(functools.partial(call_any, inner, number, timeout=LONG))

    def inner(number: int) -> int:
        return number * 10

    async def main() -> Any:
        trio.to_thread.current_default_thread_limiter().total_tokens = 2
        with trio.fail_after(LONG):
            return await parallel_map([(outer, (number,), {}, LONG) for number in (1, 2)])

    assert trio.run(main) == [10, 20]


@every_land()
def test_nested_calls_with_a_coroutine_between(land: Land, one: concurrent.futures.Executor) -> None:
    def outer() -> Any:
        return call_any(between)

    async def between() -> Any:
        return await call_any(inner, executor=one, timeout=LONG / 3)

    def inner() -> str:
        return "through"

    assert land.run(lambda: call_any(outer, executor=one, timeout=LONG)) == "through"


@every_land()
def test_nested_maps(land: Land, one: concurrent.futures.Executor) -> None:
    def outer(number: int) -> Any:
        calls: Any = [(pow, (number, power), {}, LONG / 3) for power in range(4)]
        return parallel_map(calls, executor=one)

    calls: Any = [(outer, (number,), {}, LONG) for number in (2, 3)]
    assert land.run(lambda: parallel_map(calls, executor=one)) == [[1, 2, 4, 8], [1, 3, 9, 27]]


def test_after_its_job_a_context_lends_no_threads(one: concurrent.futures.Executor) -> None:
    contexts: list[contextvars.Context] = []
    call_any(lambda: contexts.append(contextvars.copy_context()), executor=one, timeout=LONG)
    name = contexts[0].run(call_any, lambda: threading.current_thread().name, executor=one, timeout=LONG)
    assert name.startswith("one")


# -- maps ---------------------------------------------------------------------


class Meeting:
    """Sync and async functions that go on when all of them have come: only calls at once get through."""

    def __init__(self, land: Land, size: int) -> None:
        self._land = land
        self._size = size
        self._barrier = threading.Barrier(size)
        self._come = 0

    def sync(self, number: int) -> int:
        self._barrier.wait(LONG)
        return number

    async def async_(self, number: int) -> int:
        self._come += 1
        deadline = time.monotonic() + LONG
        while self._come < self._size:
            assert time.monotonic() < deadline
            await self._land.sleep(0.001)
        return number


@every_land()
def test_parallel_map_makes_its_calls_at_once_and_keeps_their_order(land: Land) -> None:
    meeting = Meeting(land, 4)
    calls: Any = [(meeting.sync, (number,), {}, LONG if number % 2 else None) for number in range(4)]
    calls += [
        (meeting.async_, (), {"number": number}, LONG if number % 2 else None) for number in range(4, 8)
    ]
    assert land.run(lambda: parallel_map(calls)) == list(range(8))
    assert land.run(lambda: parallel_map(iter(()))) == []


@every_land()
def test_order_is_that_of_the_calls_not_of_their_ends(land: Land) -> None:
    ends = [threading.Event() for _ in range(5)]

    def after_the_next(number: int) -> int:
        assert number == 4 or ends[number + 1].wait(LONG)
        ends[number].set()
        return number

    calls: Any = [(after_the_next, (number,), {}, None) for number in range(5)]
    assert land.run(lambda: parallel_map(calls)) == [0, 1, 2, 3, 4]


@every_land()
def test_parallel_map_uses_the_executor(land: Land, one: concurrent.futures.Executor) -> None:
    def name() -> str:
        return threading.current_thread().name

    assert land.run(lambda: parallel_map([(name, (), {}, None)] * 3, executor=one)) == ["one_0"] * 3


@every_land()
def test_return_exceptions(land: Land) -> None:
    async def fail() -> None:
        raise KeyError("async")

    async def slow() -> None:
        await land.sleep(LONG)

    with Gate() as gate:
        calls: Any = [
            (int, ("7",), {}, None),
            (int, ("seven",), {}, None),
            (fail, (), {}, LONG),
            (slow, (), {}, SOON),
            (gate.block, (), {}, SOON),
            (int, (), {"no_such": 1}, None),
        ]
        found = land.run(lambda: parallel_map(calls, return_exceptions=True))
    kinds = [int, ValueError, KeyError, CallAnyTimeout, CallAnyTimeout, TypeError]
    assert [type(one) for one in found] == kinds
    assert found[0] == 7
    assert str(found[3]) == "Function slow timed out after 0.05s"
    assert str(found[4]) == "Function block timed out after 0.05s"


@every_land()
def test_the_first_exception_is_raised_and_ends_the_others(land: Land) -> None:
    steps: list[str] = []

    async def slow() -> None:
        steps.append("started")
        try:
            await land.sleep(LONG)
        finally:
            steps.append("cleaned up")

    async def fail() -> None:
        while not steps:
            await land.sleep(0.001)
        raise KeyError("first")

    with Gate() as gate:
        calls: Any = [(slow, (), {}, None), (gate.block, (), {}, LONG), (fail, (), {}, None)]
        with pytest.raises(KeyError, match="first"):
            land.run(lambda: parallel_map(calls))
        assert steps == ["started", "cleaned up"]
        assert not gate.over.is_set()


@every_land(but="trio")
@pytest.mark.parametrize("return_exceptions", [False, True])
@pytest.mark.parametrize("error_type", [SystemExit, KeyboardInterrupt])
def test_what_ends_a_program_comes_to_the_caller(
    land: Land, return_exceptions: bool, error_type: type[BaseException]
) -> None:
    error = error_type("leave")

    def leave() -> None:
        raise error

    calls: Any = [(leave, (), {}, None), (int, (), {}, None)]

    async def catch() -> str:
        # Through a task of its own it would end the loop's run, past whoever awaits.
        with pytest.raises(error_type) as caught:
            await parallel_map(calls, return_exceptions=return_exceptions)
        assert caught.value is error
        return "caught"

    if land.name != "sync":
        assert land.run(catch) == "caught"
        return
    with pytest.raises(error_type) as caught:
        parallel_map(calls, return_exceptions=return_exceptions)
    assert caught.value is error
    assert parallel_map([(int, (), {}, None)]) == [0]  # the bridge lives on


def test_cancelling_a_map_cancels_its_calls() -> None:
    steps: list[str] = []

    async def slow(name: str) -> None:
        steps.append(f"{name} started")
        try:
            await asyncio.sleep(LONG)
        finally:
            await asyncio.sleep(0.01)
            steps.append(f"{name} cleaned up")

    async def main() -> None:
        task = asyncio.ensure_future(
            parallel_map([(slow, ("a",), {}, None), (slow, ("b",), {}, LONG)], return_exceptions=True)
        )
        while len(steps) < 2:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert sorted(steps) == ["a cleaned up", "a started", "b cleaned up", "b started"]


def test_call_map_in_sync_code_goes_one_by_one_right_here() -> None:
    seen: list[tuple[str, int]] = []

    def first(key: str) -> str:
        seen.append(("first", threading.get_ident()))
        return f"first {key}"

    async def second(key: str) -> str:
        await asyncio.sleep(0.001)
        seen.append(("second", threading.get_ident()))
        return f"second {key}"

    def third(key: str) -> str:
        seen.append(("third", threading.get_ident()))
        return f"third {key}"

    assert call_map([first, second, third], key="a") == ["first a", "second a", "third a"]
    assert [name for name, _ in seen] == ["first", "second", "third"]
    assert seen[0][1] == seen[2][1] == threading.get_ident()


def test_one_that_is_never_awaited_is_named() -> None:
    async def main() -> None:
        with pytest.warns(RuntimeWarning, match="coroutine 'dive' was never awaited"):
            call_any(dive, 1, {})
            gc.collect()
        with pytest.warns(RuntimeWarning, match="coroutine 'parallel_map' was never awaited"):
            parallel_map([(dive, (1, {}), {}, None)])
            gc.collect()

    asyncio.run(main())


@every_land(but="sync")
def test_call_map_in_async_code_makes_its_calls_at_once(land: Land) -> None:
    meeting = Meeting(land, 2)
    funcs: list[Callable[..., Any]] = [meeting.sync, meeting.async_, meeting.async_, meeting.sync]
    assert land.run(lambda: call_map(funcs, 5, timeout=LONG)) == [5, 5, 5, 5]


@every_land()
def test_call_map_passes_its_options(land: Land, one: concurrent.futures.Executor) -> None:
    def name() -> str:
        return threading.current_thread().name

    assert land.run(lambda: call_map([name, name], executor=one, timeout=LONG)) == ["one_0", "one_0"]
    with Gate() as gate, pytest.raises(CallAnyTimeout, match="^Function block timed out after 0.05s$"):
        land.run(lambda: call_map([gate.block], timeout=SOON))
