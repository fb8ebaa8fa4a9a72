"""``gather``: order, failures, cleanup, time-outs; from sync code, on a bridge's loop, on a foreign one."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import wait_for

import sidecar

LONG = 30.0
PACKAGE = str(Path(sidecar.__file__).parent)
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

Gather = Callable[..., Any]


@pytest.fixture
def bridge() -> Iterator[sidecar.Sidecar]:
    with sidecar.Sidecar(workers=2, name="gathers", cleanup_timeout=0.2) as bridge:
        yield bridge


def in_thread(function: Callable[[], Any]) -> Any:
    """In a copy of this context."""
    context = contextvars.copy_context()
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.extend((context.run(function), None))
        except BaseException as error:
            outcome.extend((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(LONG)
    result, error = outcome
    if error is not None:
        raise error
    return result


@pytest.fixture(params=["sync", "thread", "bridge's loop", "foreign loop"])
def gather(request: pytest.FixtureRequest, bridge: sidecar.Sidecar) -> Gather:
    """``gather(make, **options)``: gathers what ``make()`` returns, called where it is then awaited."""

    def run(make: Callable[[], list[Any]], **options: Any) -> Any:
        async def main() -> Any:
            return await bridge.gather(*make(), **options)

        if request.param == "sync":
            return bridge.gather(*make(), **options)
        if request.param == "thread":
            return in_thread(lambda: bridge.gather(*make(), **options))
        return bridge.run_sync(main()) if request.param == "bridge's loop" else asyncio.run(main())

    return run


async def give(value: Any, seconds: float = 0.0) -> Any:
    await asyncio.sleep(seconds)
    return value


async def fail(error: BaseException, seconds: float = 0.0) -> None:
    await asyncio.sleep(seconds)
    raise error


class Own:
    def __await__(self) -> Generator[Any, Any, str]:
        yield from asyncio.sleep(0).__await__()
        return "own"


class Cleaner:
    """A coroutine whose cleanup takes a while, and which says when that is through."""

    def __init__(self, seconds: float = 0.03) -> None:
        self.seconds = seconds
        self.cleaned = 0

    async def run(self) -> None:
        try:
            await asyncio.sleep(LONG)
        finally:
            await asyncio.sleep(self.seconds)
            self.cleaned += 1


class TestResults:
    def test_in_the_order_of_the_arguments(self, gather: Gather) -> None:
        assert gather(lambda: [give(i, 0.01 * (3 - i)) for i in range(4)]) == [0, 1, 2, 3]

    def test_at_once(self, gather: Gather) -> None:
        """Each goes on only when all have begun."""
        count = 0

        async def meet() -> int:
            nonlocal count
            count += 1
            while count < 5:
                await asyncio.sleep(0)
            return count

        assert gather(lambda: [meet() for _ in range(5)], timeout=LONG) == [5] * 5

    def test_any_awaitable(self, gather: Gather) -> None:
        def make() -> list[Any]:
            made: list[Any] = [Own(), give(1)]
            if asyncio._get_running_loop() is not None:
                made.append(asyncio.ensure_future(give("task")))
            return made

        assert gather(make)[:2] == ["own", 1]

    def test_none_at_all(self, gather: Gather) -> None:
        assert gather(lambda: []) == []
        assert gather(lambda: [], timeout=1, return_exceptions=True) == []

    @pytest.mark.parametrize("make", [give, lambda value: Own()], ids=["coroutine", "object"])
    def test_the_same_one_twice(self, gather: Gather, make: Any, caplog: pytest.LogCaptureFixture) -> None:
        one, two, three = gather(lambda: [same := make([]), give(2), same])
        assert one is three and two == 2
        gc.collect()
        assert not caplog.records

    def test_in_a_gather(self, gather: Gather, bridge: sidecar.Sidecar) -> None:
        async def inner() -> Any:
            return await bridge.gather(give(1), bridge.gather(give(2), give(3)))

        assert gather(lambda: [inner(), give(4)]) == [[1, [2, 3]], 4]


class TestFailures:
    def test_as_results(self, gather: Gather) -> None:
        error = ValueError("as it is")
        one, two, three, four = gather(
            lambda: [give(1), fail(error), give(3, 0.01), fail(asyncio.CancelledError())], return_exceptions=True
        )
        assert (one, three) == (1, 3) and two is error and isinstance(four, asyncio.CancelledError)

    def test_an_exception_that_is_false(self, gather: Gather) -> None:
        class Empty(Exception):
            def __bool__(self) -> bool:
                return False

        error = Empty()
        assert gather(lambda: [fail(error)], return_exceptions=True) == [error]
        with pytest.raises(Empty):
            gather(lambda: [fail(error)])

    def test_the_first_one_cancels_the_others_and_waits_for_their_cleanup(
        self, gather: Gather, caplog: pytest.LogCaptureFixture
    ) -> None:
        cleaners = [Cleaner(0.01), Cleaner(0.05)]
        error = ValueError("as it is")
        with pytest.raises(ValueError) as caught:
            gather(lambda: [cleaners[0].run(), fail(error, 0.01), cleaners[1].run(), fail(KeyError("late"), LONG)])
        assert caught.value is error
        assert [cleaner.cleaned for cleaner in cleaners] == [1, 1]
        gc.collect()
        assert not caplog.records

    def test_errors_of_the_others_are_not_lost_property(
        self, gather: Gather, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def fail_in_cleanup() -> None:
            try:
                await asyncio.sleep(LONG)
            finally:
                raise KeyError("in the cleanup")

        with pytest.raises(ValueError):
            gather(lambda: [fail_in_cleanup(), fail(ValueError())])
        gc.collect()
        assert not caplog.records

    def test_a_cancelled_child_is_a_failure(self, gather: Gather) -> None:
        cleaner = Cleaner()
        with pytest.raises(asyncio.CancelledError):
            gather(lambda: [cleaner.run(), fail(asyncio.CancelledError())])
        assert cleaner.cleaned == 1

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
    def test_exits(self, bridge: sidecar.Sidecar, kind: type[BaseException]) -> None:
        cleaner = Cleaner()
        with pytest.raises(kind, match="on its way"):
            bridge.gather(cleaner.run(), fail(kind("on its way"), 0.01))
        wait_for(lambda: cleaner.cleaned, "the cleanup of the others")
        assert bridge.gather(give(1)) == [1]

    def test_cancelled_from_outside_each_is_cancelled_once(self, bridge: sidecar.Sidecar) -> None:
        """A second cancellation would cut the longer cleanup short, as asyncio's own gather may."""
        cleaners = [Cleaner(0.005), Cleaner(0.06)]

        async def main() -> None:
            task = asyncio.ensure_future(bridge.gather(*(cleaner.run() for cleaner in cleaners)))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        for run in (bridge.run_sync, asyncio.run):
            run(main())
        assert [cleaner.cleaned for cleaner in cleaners] == [2, 2]

    @pytest.mark.parametrize("value", [3, None, give, [1]])
    def test_what_is_no_awaitable_closes_the_others(self, gather: Gather, value: object) -> None:
        with pytest.raises(TypeError, match="takes awaitables, not"):
            gather(lambda: [give(1), value, give(2)])
        gc.collect()  # "never awaited" would be an error here

    def test_a_future_of_another_loop(self, bridge: sidecar.Sidecar) -> None:
        loop = asyncio.new_event_loop()
        try:
            future = loop.create_future()
            with pytest.raises(ValueError, match="is of another"):
                bridge.gather(give(1), future)
        finally:
            loop.close()
        gc.collect()

    def test_a_call_that_cannot_be_made_closes_them(self, bridge: sidecar.Sidecar) -> None:
        closed = sidecar.Sidecar(name="closed").start()
        closed.shutdown()
        for aws in ((), (give(1), give(2)), (Own(),)):
            with pytest.raises(sidecar.BridgeClosedError):
                closed.gather(*aws)
        for timeout in ("1", -1, float("nan")):
            with pytest.raises((TypeError, ValueError)):
                bridge.gather(give(1), timeout=timeout)
        gc.collect()

    def test_closed_unawaited_it_closes_them(self, bridge: sidecar.Sidecar) -> None:
        async def main() -> None:
            for options in ({}, {"timeout": 1}):
                bridge.gather(give(1), give(2), **options).close()
            with pytest.raises(KeyError):
                bridge.gather(give(1), timeout=1).throw(KeyError())

        bridge.run_sync(main())
        gc.collect()


class TestTimeouts:
    def test_the_rest_is_cancelled_and_cleans_up(self, gather: Gather) -> None:
        cleaners = [Cleaner(0.005), Cleaner(0.06)]
        with pytest.raises(sidecar.CallTimeoutError, match=r"gather\(\) of 3 did not finish .* \[SC0003\]") as caught:
            gather(lambda: [give(1), *(cleaner.run() for cleaner in cleaners)], timeout=0.02)
        assert [cleaner.cleaned for cleaner in cleaners] == [1, 1]
        assert isinstance(caught.value, TimeoutError)

    def test_reached_by_none(self, gather: Gather) -> None:
        assert gather(lambda: [give(1), give(2)], timeout=LONG) == [1, 2]
        with pytest.raises(ValueError):
            gather(lambda: [fail(ValueError())], timeout=LONG)

    def test_a_time_out_of_the_users_own_passes(self, gather: Gather) -> None:
        error = asyncio.TimeoutError("mine")
        with pytest.raises(asyncio.TimeoutError) as caught:
            gather(lambda: [fail(error)], timeout=LONG)
        assert caught.value is error

    def test_the_cancellation_is_the_cause(self, gather: Gather) -> None:
        with pytest.raises(sidecar.CallTimeoutError) as caught:
            gather(lambda: [Cleaner().run()], timeout=0.01)
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)

    def test_a_cleanup_that_takes_too_long_is_left_behind(
        self, gather: Gather, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
    ) -> None:
        if "foreign" in request.node.name:
            pytest.skip("asyncio.run() ends its loop, and waits for the orphan")
        caplog.set_level(logging.INFO, "sidecar")
        cleaner = Cleaner(0.6)
        begun = time.monotonic()
        with pytest.raises(sidecar.CallTimeoutError, match="left behind as an orphan"):
            gather(lambda: [cleaner.run()], timeout=0.01)
        assert time.monotonic() - begun < 10
        wait_for(lambda: "has ended" in caplog.text, "the log names its end")
        assert "goes on though nobody waits" in caplog.text

    def test_cancelled_meanwhile(self, bridge: sidecar.Sidecar) -> None:
        cleaner = Cleaner()

        async def main() -> None:
            task = asyncio.ensure_future(bridge.gather(cleaner.run(), timeout=LONG))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        bridge.run_sync(main())
        asyncio.run(main())
        assert cleaner.cleaned == 2


class TestInside:
    def test_is_awaitable_by_tasks_and_by_asyncios_gather(self, bridge: sidecar.Sidecar) -> None:
        async def main() -> Any:
            assert asyncio.iscoroutine(made := bridge.gather(give(0)))
            return [
                await made,
                await asyncio.create_task(bridge.gather(give(1))),
                await asyncio.gather(bridge.gather(give(2)), bridge.gather(give(3), timeout=LONG)),
                await asyncio.wait_for(bridge.gather(give(4)), LONG),
            ]

        for run in (bridge.run_sync, asyncio.run):
            assert run(main()) == [[0], [1], [[2], [3]], [4]]

    @pytest.mark.parametrize("run", [sidecar.run_sync, asyncio.run], ids=["bridge's loop", "foreign loop"])
    def test_no_frames_of_ours(self, run: Callable[..., Any], bridge: sidecar.Sidecar) -> None:
        async def check(make: Callable[[], Any]) -> None:
            with pytest.raises(Exception) as caught:
                await make()
            files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
            assert not [file for file in files if file.startswith(PACKAGE)]

        async def main() -> None:
            await check(lambda: bridge.gather(fail(ValueError())))
            await check(lambda: bridge.gather(fail(ValueError()), timeout=LONG))
            await check(lambda: bridge.gather(Cleaner().run(), timeout=0.01))

        run(main())

    def test_each_sees_a_copy_of_the_context(self, gather: Gather) -> None:
        async def work(i: int) -> str:
            seen = variable.get()
            variable.set(f"changed by {i}")
            await asyncio.sleep(0)
            return f"{seen} {variable.get()}"

        def run() -> None:
            variable.set("mine")
            assert gather(lambda: [work(i) for i in range(3)]) == [f"mine changed by {i}" for i in range(3)]
            assert variable.get() == "mine"

        contextvars.copy_context().run(run)
