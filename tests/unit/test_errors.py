"""Exceptions arrive as raised: with the user's frames and none of ours, with what they carry, from every entry."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import operator
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import wait_for

import sidecar
from sidecar import errors, to_caller

LONG = 30.0
TIMEOUTS = list(dict.fromkeys((TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError)))
PACKAGE = str(Path(sidecar.__file__).parent)


@pytest.fixture
def bridge() -> Iterator[sidecar.Sidecar]:
    with sidecar.Sidecar(workers=2, name="errors", cleanup_timeout=0.2) as bridge:
        yield bridge


class Failure(Exception):
    pass


def fail(error: BaseException) -> None:
    raise error


async def fail_later(error: BaseException) -> None:
    await asyncio.sleep(0)
    fail(error)


async def fail_in_stream(error: BaseException) -> AsyncIterator[int]:
    yield 1
    await fail_later(error)


class Awaitable:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __await__(self) -> Any:
        return fail_later(self.error).__await__()


async def caught_inside(make: Callable[[], Any]) -> None:
    """In a coroutine: what it catches has its own frame first."""
    await make()


Entry = Callable[[sidecar.Sidecar, BaseException], Any]

ENTRIES: dict[str, Entry] = {
    "run_sync": lambda bridge, error: bridge.run_sync(fail_later(error)),
    "run_sync of an awaitable": lambda bridge, error: bridge.run_sync(Awaitable(error)),
    "run_sync with propagate": lambda bridge, error: bridge.run_sync(fail_later(error), propagate=True),
    "run_sync with timeout": lambda bridge, error: bridge.run_sync(fail_later(error), timeout=LONG),
    "stream": lambda bridge, error: list(bridge.stream(fail_in_stream, error)),
    "stream with prefetch": lambda bridge, error: list(bridge.stream(fail_in_stream, error, prefetch=3)),
    "a stream's source": lambda bridge, error: bridge.stream(fail, error),
    "submit a function": lambda bridge, error: bridge.submit(fail, error).result(LONG),
    "submit a coroutine": lambda bridge, error: bridge.submit(fail_later, error).result(LONG),
    "submit an awaitable": lambda bridge, error: bridge.submit(Awaitable(error)).result(LONG),
    "gather": lambda bridge, error: bridge.gather(fail_later(error), asyncio.sleep(LONG)),
    "gather of awaitables": lambda bridge, error: bridge.gather(Awaitable(error), timeout=LONG),
    "gather in a coroutine": lambda bridge, error: asyncio.run(
        caught_inside(lambda: bridge.gather(Awaitable(error), timeout=LONG))
    ),
    "_on_pool": lambda bridge, error: asyncio.run(caught_inside(lambda: bridge._on_pool(None, fail, error))),
    "to_caller": lambda bridge, error: bridge.run_sync(caught_inside(lambda: to_caller(fail, error))),
    "wrap_future": lambda bridge, error: asyncio.run(
        caught_inside(lambda: asyncio.wrap_future(bridge.submit(fail_later, error)))
    ),
}

every_entry = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES.keys())


def frames(error: BaseException) -> list[traceback.FrameSummary]:
    return list(traceback.extract_tb(error.__traceback__))


def assert_not_ours(error: BaseException | None) -> None:
    """In its traceback, and, from 3.11 on, in those of its causes: before, each step of a cancellation is one."""
    while error is not None:
        ours = [frame for frame in frames(error) if frame.filename.startswith(PACKAGE)]
        assert not ours, f"frames of ours in {error!r}: {ours}"
        error = (error.__cause__ or error.__context__) if sys.version_info >= (3, 11) else None


class TestTracebacks:
    @every_entry
    def test_the_users_frames_and_none_of_ours(self, bridge: sidecar.Sidecar, entry: Entry) -> None:
        error = Failure("as it is")
        with pytest.raises(Failure) as caught:
            entry(bridge, error)
        assert caught.value is error
        names = [frame.name for frame in frames(error)]
        assert names[0] == "test_the_users_frames_and_none_of_ours" and names[-1] == "fail"
        assert_not_ours(error)

    @every_entry
    def test_raised_again_it_is_as_good_as_new(self, bridge: sidecar.Sidecar, entry: Entry) -> None:
        error = Failure("as it is")
        for _ in range(3):
            with pytest.raises(Failure):
                entry(bridge, error)
            error.__traceback__ = None
        with pytest.raises(Failure):
            entry(bridge, error)
        assert_not_ours(error)

    def test_one_that_has_no_frames_at_all(self, bridge: sidecar.Sidecar) -> None:
        """Raised by C code, its traceback set to None before."""

        async def make() -> asyncio.Future[None]:
            future = asyncio.get_running_loop().create_future()
            error = Failure()
            error.__traceback__ = None
            future.set_exception(error)
            return future

        future = bridge.run_sync(make())
        for _ in range(3):
            with pytest.raises(Failure) as caught:
                bridge.run_sync(to_caller(future.result))
            assert_not_ours(caught.value)
            caught.value.__traceback__ = None

    @pytest.mark.parametrize("how", ["run_sync", "awaitable", "gather", "gather inside"])
    def test_time_outs(self, bridge: sidecar.Sidecar, how: str) -> None:
        class Sleeper:
            def __await__(self) -> Any:
                return asyncio.sleep(LONG).__await__()

        calls: dict[str, Callable[[], Any]] = {
            "run_sync": lambda: bridge.run_sync(asyncio.sleep(LONG), timeout=0.01),
            "awaitable": lambda: bridge.run_sync(Sleeper(), timeout=0.01),
            "gather": lambda: bridge.gather(Sleeper(), timeout=0.01),
            "gather inside": lambda: asyncio.run(caught_inside(lambda: bridge.gather(Sleeper(), timeout=0.01))),
        }
        with pytest.raises(sidecar.CallTimeoutError) as caught:
            calls[how]()
        assert_not_ours(caught.value)

    @pytest.mark.parametrize(
        "call",
        [
            lambda bridge: bridge.stream(3),
            lambda bridge: bridge.submit(3),
            lambda bridge: bridge.gather(3),
            lambda bridge: bridge.run_sync(3),
            lambda bridge: bridge.stream(operator.add, 1, 2),
        ],
        ids=["stream", "submit", "gather", "run_sync", "what a stream's function gives"],
    )
    def test_of_refusals(self, bridge: sidecar.Sidecar, call: Callable[[sidecar.Sidecar], Any]) -> None:
        with pytest.raises(TypeError) as caught:
            call(bridge)
        assert_not_ours(caught.value)


class TestWhatTheyCarry:
    @every_entry
    def test_cause_context_and_notes(self, bridge: sidecar.Sidecar, entry: Entry) -> None:
        cause, context = KeyError("cause"), LookupError("context")
        error = Failure("as it is")
        error.__cause__ = cause
        error.__context__ = context
        if sys.version_info >= (3, 11):
            error.add_note("a note")
        with pytest.raises(Failure) as caught:
            entry(bridge, error)
        assert caught.value.__cause__ is cause and caught.value.__context__ is context
        assert getattr(caught.value, "__notes__", ["a note"]) == ["a note"]

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
    @every_entry
    def test_groups_pass(self, bridge: sidecar.Sidecar, entry: Entry) -> None:
        group = ExceptionGroup("several", [ValueError(1), KeyError(2)])  # noqa: F821
        with pytest.raises(ExceptionGroup) as caught:  # noqa: F821
            entry(bridge, group)
        assert caught.value is group and len(caught.value.exceptions) == 2

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup came with 3.11")
    def test_a_task_groups_group(self, bridge: sidecar.Sidecar) -> None:
        async def main() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail_later(ValueError(1)))
                group.create_task(asyncio.sleep(LONG))

        with pytest.raises(ExceptionGroup) as caught:  # noqa: F821
            bridge.run_sync(main())
        (inner,) = caught.value.exceptions
        assert isinstance(inner, ValueError)
        assert_not_ours(inner)

    @every_entry
    def test_no_context_of_ours(self, bridge: sidecar.Sidecar, entry: Entry) -> None:
        error = Failure()
        with pytest.raises(Failure):
            entry(bridge, error)
        assert error.__context__ is None and error.__cause__ is None


class TestWhereTheSourcesDisagree:
    def test_no_hidden_time_limit(self) -> None:
        assert sidecar.Sidecar(name="limits")._timeout < 0
        assert sidecar.run_sync(asyncio.sleep(0.3, "slow")) == "slow"

    def test_a_time_out_cancels_and_waits_for_the_cleanup(self, bridge: sidecar.Sidecar) -> None:
        cleaned: list[int] = []

        async def work() -> None:
            try:
                await asyncio.sleep(LONG)
            finally:
                await asyncio.sleep(0.02)
                cleaned.append(1)

        with pytest.raises(sidecar.CallTimeoutError):
            bridge.run_sync(work(), timeout=0.01)
        assert cleaned

    def test_for_a_bounded_time_then_it_is_a_named_orphan(
        self, bridge: sidecar.Sidecar, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert sidecar.Sidecar()._cleanup_timeout == 5.0

        async def stubborn() -> None:
            try:
                await asyncio.sleep(LONG)
            finally:
                await asyncio.sleep(0.6)

        begun = time.monotonic()
        with pytest.raises(sidecar.CallTimeoutError, match="left behind as an orphan"):
            bridge.run_sync(stubborn(), timeout=0.01)
        assert time.monotonic() - begun < 10
        wait_for(lambda: "stubborn() at" in caplog.text, "the orphan is named")

    def test_it_raises_one_exception_that_is_every_time_out(self, bridge: sidecar.Sidecar) -> None:
        with pytest.raises(sidecar.CallTimeoutError) as caught:
            bridge.run_sync(asyncio.sleep(LONG), timeout=0)
        for kind in (TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError, errors.SidecarError):
            assert isinstance(caught.value, kind)

    @pytest.mark.parametrize("kind", TIMEOUTS)
    @every_entry
    def test_the_users_own_passes_untouched(
        self, bridge: sidecar.Sidecar, entry: Entry, kind: type[Exception]
    ) -> None:
        if entry is ENTRIES["wrap_future"]:
            pytest.skip("asyncio.wrap_future() makes a new one of these")
        error = kind("mine")
        with pytest.raises(kind) as caught:
            entry(bridge, error)
        assert caught.value is error and not isinstance(caught.value, sidecar.CallTimeoutError)

    @pytest.mark.parametrize("value", [None, 3, fail_later, object()])
    def test_a_non_awaitable_is_a_type_error(self, bridge: sidecar.Sidecar, value: Any) -> None:
        with pytest.raises(TypeError):
            bridge.run_sync(value)
        with pytest.raises(TypeError):
            bridge.gather(value)

    def test_a_call_from_the_bridges_own_loop_is_a_deadlock(self, bridge: sidecar.Sidecar) -> None:
        async def main() -> BaseException:
            inner = fail_later(Failure())
            with pytest.raises(sidecar.DeadlockError) as caught:
                bridge.run_sync(inner)
            assert isinstance(caught.value, RuntimeError)
            assert inner.cr_frame is None  # closed
            return caught.value

        assert_not_ours(bridge.run_sync(main()))

    def test_cancelled_work_shows_as_asyncios(self, bridge: sidecar.Sidecar) -> None:
        async def cancel() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel("with a message")
            await asyncio.sleep(LONG)

        async def items() -> AsyncIterator[int]:
            yield 1
            await cancel()

        for call in (
            lambda: bridge.run_sync(cancel()),
            lambda: bridge.gather(cancel()),
            lambda: list(bridge.stream(items)),
            lambda: bridge.run_sync(asyncio.wrap_future(bridge.submit(cancel), loop=bridge.get_loop())),
        ):
            with pytest.raises(asyncio.CancelledError):
                call()

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, type("Own", (BaseException,), {})])
    @every_entry
    def test_any_base_exception_reaches_the_caller_and_the_bridge_lives_on(
        self, bridge: sidecar.Sidecar, entry: Entry, kind: type[BaseException]
    ) -> None:
        if entry in (ENTRIES["gather in a coroutine"], ENTRIES["_on_pool"], ENTRIES["wrap_future"]):
            pytest.skip("through asyncio.run(), which has rules of its own for these")
        with pytest.raises(kind, match="on its way"):
            entry(bridge, kind("on its way"))
        assert bridge.run_sync(asyncio.sleep(0, "alive")) == "alive"
        assert bridge.submit(len, ()).result(LONG) == 0


class TestNothingIsLeftUnawaited:
    """Warnings are errors in these tests; the collector finds what was."""

    def test_by_a_closed_bridge(self) -> None:
        closed = sidecar.Sidecar(name="closed").start()
        closed.shutdown()
        calls: list[Callable[[], Any]] = [
            lambda: closed.run_sync(fail_later(Failure())),
            lambda: closed.run_sync(fail_later(Failure()), propagate=True),
            lambda: closed.submit(fail_later(Failure())),
            lambda: closed.submit(fail_later, Failure()),
            lambda: closed.gather(fail_later(Failure()), fail_later(Failure())),
        ]
        for call in calls:
            with pytest.raises(sidecar.BridgeClosedError):
                call()
        gc.collect()

    def test_by_wrong_arguments(self, bridge: sidecar.Sidecar) -> None:
        run: Any = bridge.run_sync
        for options in ({"timeout": -1}, {"timeout": "1"}, {"context": 3}, {"nonsense": 1}):
            with pytest.raises((TypeError, ValueError)):
                run(fail_later(Failure()), **options)
        with pytest.raises(ValueError):
            bridge.gather(fail_later(Failure()), timeout=-1)
        with pytest.raises(TypeError):
            bridge.submit(fail_later(Failure()), 1)
        gc.collect()

    def test_by_a_deadlock(self, bridge: sidecar.Sidecar) -> None:
        async def main() -> None:
            for options in ({}, {"propagate": True}):
                with pytest.raises(sidecar.DeadlockError):
                    bridge.run_sync(fail_later(Failure()), **options)

        bridge.run_sync(main())
        gc.collect()


class TestNumbers:
    NUMBERS = {
        "DeadlockError": "SC0001",
        "BridgeClosedError": "SC0002",
        "CallTimeoutError": "SC0003",
        "ForkedError": "SC0004",
        "LoopOwnedError": "SC0005",
        "NoCallerError": "SC0006",
        "DeadlineExceeded": "SC0007",
        "ClientDisconnected": "SC0008",
        "Overloaded": "SC0009",
        "QueueFull": "SC0010",
        "CpuWorkerDied": "SC0011",
        "CpuPickleError": "SC0012",
        "CpuRemoteError": "SC0013",
        "CpuEngineError": "SC0014",
        "ForkRefusedError": "SC0015",
    }

    def test_never_change(self) -> None:
        found = {
            name: getattr(errors, name).code
            for name in errors.__all__
            if getattr(errors, name) is not errors.SidecarError
        }
        assert found == self.NUMBERS

    def test_each_is_documented(self) -> None:
        page = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"
        text = page.read_text()
        for name, number in self.NUMBERS.items():
            assert f"## {number}\n\n`{name}`" in text and f"[{number}](#{number.lower()}) | `{name}`" in text
