"""sidecar.anycall: one call, from each land; its thread, its time-out, its errors."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import logging
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import wait_for
from lands import HAS_TRIO, LONG, Gate, Land, every_land

import sidecar
from sidecar.anycall import CallAnyTimeout, bridged, call_any, call_map, parallel_map

SOON = 0.05
# A time-out that strikes while the function runs: by then it must have got its thread, on a busy machine too.
RUNS = 0.5

VAR: contextvars.ContextVar[str] = contextvars.ContextVar("VAR", default="unset")


@pytest.fixture(autouse=True)
def idle_trio_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # Trio keeps threads for 10 s; the count of threads after each test would wait for that.
    if HAS_TRIO:
        monkeypatch.setattr("trio._core._thread_cache.IDLE_TIMEOUT", 0.01)


@pytest.fixture
def executor() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(2, "own") as made:
        yield made


def sync_echo(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    return args, kwargs


async def async_echo(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    return args, kwargs


class AsyncCallable:
    async def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        return args, kwargs

    async def method(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        return args, kwargs


ECHOES = [sync_echo, async_echo, functools.partial(async_echo), AsyncCallable(), AsyncCallable().method]


@every_land()
@pytest.mark.parametrize("func", ECHOES, ids=["sync", "async", "partial", "callable", "method"])
@pytest.mark.parametrize("timeout", [None, LONG])
def test_every_combination(land: Land, func: Callable[..., Any], timeout: float | None) -> None:
    assert land.run(lambda: call_any(func, 1, "b", timeout=timeout, key=2, func=3)) == (
        (1, "b"),
        {"key": 2, "func": 3},
    )


@every_land()
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("timeout", [None, LONG])
@pytest.mark.parametrize("error_type", [ValueError, TimeoutError, asyncio.TimeoutError])
def test_errors_arrive_as_raised(
    land: Land, kind: str, timeout: float | None, error_type: type[Exception]
) -> None:
    error = error_type("mine")

    def sync_fail() -> None:
        raise error

    async def async_fail() -> None:
        raise error

    func = sync_fail if kind == "sync" else async_fail
    with pytest.raises(type(error)) as caught:
        land.run(lambda: call_any(func, timeout=timeout))
    assert caught.value is error
    assert caught.traceback[-1].name == func.__name__


@every_land()
def test_a_time_out_of_a_call_inside_is_no_time_out_of_this_one(land: Land) -> None:
    async def inside() -> None:
        raise sidecar.CallTimeoutError("of another bridge")

    with pytest.raises(sidecar.CallTimeoutError, match="^of another bridge$") as caught:
        land.run(lambda: call_any(inside, timeout=LONG))
    assert not isinstance(caught.value, CallAnyTimeout)


def test_nor_is_one_of_an_inner_call_any() -> None:
    """All of its frames are ours, and not shown."""

    @bridged(timeout=SOON)
    async def inner() -> None:
        await asyncio.sleep(LONG)

    with pytest.raises(CallAnyTimeout, match="^Function inner timed out after 0.05s$"):
        call_any(inner.async_, timeout=LONG)


def test_any_exception_of_a_thread_reaches_sync_code() -> None:
    with pytest.raises(StopIteration):
        call_any(next, iter(()), force_offload=True)

    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        call_any(leave, force_offload=True)
    assert call_any(async_echo) == ((), {})  # the bridge lives on


# -- tracebacks -----------------------------------------------------------------

PACKAGE = str(Path(sidecar.__file__).parent)


def sync_fail() -> None:
    raise KeyError("as it is")


async def async_fail() -> None:
    sync_fail()


CALLS: dict[str, Callable[[Callable[..., Any]], Any]] = {
    "call_any": call_any,
    "with a time-out": lambda func: call_any(func, timeout=LONG),
    "offloaded": lambda func: call_any(func, force_offload=True),
    "with an executor": lambda func: call_any(func, executor=sidecar.get_bridge().get_loop()._default_executor),
    "call_map": lambda func: call_map([func]),
    "parallel_map": lambda func: parallel_map([(func, (), {}, LONG)]),
    "bridged": lambda func: bridged(func)(),
    "bridged with a time-out": lambda func: bridged(timeout=LONG)(func)(),
}


def frames(error: BaseException) -> list[traceback.FrameSummary]:
    return list(traceback.extract_tb(error.__traceback__))


def ours(error: BaseException | None) -> list[str]:
    """The frames of ours in its traceback, and in those of its causes."""
    names = []
    while error is not None:
        names += [frame.name for frame in frames(error) if frame.filename.startswith(PACKAGE)]
        error = error.__cause__ or error.__context__
    return names


def allowed(land: Land) -> list[list[str]]:
    """Before 3.11 a frame that raises again is always added: in async code one is left."""
    return [[], ["_unseen"]] if sys.version_info < (3, 11) and land.name != "sync" else [[]]


@every_land()
@pytest.mark.parametrize("func", [sync_fail, async_fail], ids=["sync", "async"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_the_users_frames_and_none_of_ours(
    land: Land, func: Callable[..., Any], call: Callable[..., Any]
) -> None:
    with pytest.raises(KeyError) as caught:
        land.run(lambda: call(func))
    names = [frame.name for frame in frames(caught.value)]
    assert names[0] == "test_the_users_frames_and_none_of_ours" and names[-1] == "sync_fail"
    assert ("async_fail" in names) == (func is async_fail)
    assert ours(caught.value) in allowed(land)


@pytest.mark.parametrize("func", [sync_fail, async_fail], ids=["sync", "async"])
def test_neither_of_a_faces(func: Callable[..., Any]) -> None:
    face = bridged(func)
    with pytest.raises(KeyError) as caught:
        face.sync()
    assert ours(caught.value) == []
    with pytest.raises(KeyError) as caught:
        asyncio.run(face.async_())
    before_3_11 = [[], ["async_"], ["async_", "_unseen"]]
    assert ours(caught.value) in (before_3_11 if sys.version_info < (3, 11) else [[]])


@every_land()
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_nor_of_a_time_outs_and_its_causes(land: Land, kind: str) -> None:
    async def slow() -> None:
        await land.sleep(LONG)

    with Gate() as gate:
        with pytest.raises(CallAnyTimeout) as caught:
            land.run(lambda: call_any(gate.block if kind == "sync" else slow, timeout=0.01))
    assert ours(caught.value) in allowed(land)


@every_land()
def test_nor_of_what_is_returned_or_logged(land: Land, caplog: pytest.LogCaptureFixture) -> None:
    calls: Any = [(sync_fail, (), {}, None), (async_fail, (), {}, None)]
    found = land.run(lambda: parallel_map(calls, return_exceptions=True))
    # Set aside there, not raised again.
    assert [ours(error) in allowed(land) for error in found] == [True, True]
    with Gate(error=KeyError("too late to tell")) as gate:
        with pytest.raises(CallAnyTimeout):
            land.run(lambda: call_any(gate.block, timeout=RUNS))
    wait_for(lambda: caplog.records, "the failure in the log")
    assert caplog.records[0].exc_info is not None
    assert ours(caplog.records[0].exc_info[1]) == []


def test_refusals_too() -> None:
    for refused in (lambda: call_any(len, (), timeout=-1), lambda: parallel_map([(len, (), {}, -1)])):
        with pytest.raises(ValueError) as caught:
            refused()
        assert ours(caught.value) == []


# -- where it runs ------------------------------------------------------------


def thread_name() -> str:
    return threading.current_thread().name


def test_in_sync_code_a_sync_function_runs_right_here() -> None:
    assert call_any(threading.get_ident) == threading.get_ident()


@pytest.mark.parametrize("options", [{"timeout": LONG}, {"force_offload": True}])
def test_in_sync_code_it_runs_on_the_pool_if_it_must(options: Any) -> None:
    assert call_any(thread_name, **options).startswith("Sidecar-work")


@every_land(but="sync")
@pytest.mark.parametrize("timeout", [None, LONG])
def test_async_code_is_not_blocked(land: Land, timeout: float | None) -> None:
    with Gate() as gate:

        async def both() -> Any:
            # The loop goes on while the function blocks, or nobody would release it.
            if land.name == "trio":
                import trio

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(release)
                    return await call_any(gate.block, timeout=timeout)
            result, _ = await asyncio.gather(call_any(gate.block, timeout=timeout), release())
            return result

        async def release() -> None:
            deadline = time.monotonic() + LONG
            while not gate.running.is_set() and time.monotonic() < deadline:
                await land.sleep(0.001)
            gate.released.set()

        assert land.run(both) == "through"
        assert gate.thread.startswith("Sidecar-work") == (land.name != "trio")


@every_land()
@pytest.mark.parametrize("options", [{"timeout": LONG}, {"force_offload": True}])
def test_executor(land: Land, options: Any, executor: concurrent.futures.Executor) -> None:
    assert land.run(lambda: call_any(thread_name, executor=executor, **options)).startswith("own_")


def test_executor_is_not_used_where_nothing_is_offloaded(executor: concurrent.futures.Executor) -> None:
    assert call_any(threading.get_ident, executor=executor) == threading.get_ident()


PROCESSES = """
    import asyncio, concurrent.futures, multiprocessing, os, sys, time
    from sidecar.anycall import CallAnyTimeout, bridged, call_any, call_map, parallel_map

    async def main(processes):
        try:
            await call_any(os.stat, "/nowhere", executor=processes, timeout=30)
        except FileNotFoundError:
            return await call_any(os.getpid, executor=processes, timeout=30)

    if __name__ == "__main__":
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
            there = call_any(os.getpid, executor=processes, force_offload=True)
            assert there != os.getpid()
            assert asyncio.run(main(processes)) == there
            if "trio" in sys.argv:
                import trio
                assert trio.run(main, processes) == there
            try:
                call_any(time.sleep, 0.3, executor=processes, timeout=0.05)
            except CallAnyTimeout as error:
                print(error)
"""


def test_another_executor_gets_the_bare_call(run_script: Callable[..., Any]) -> None:
    done = run_script(PROCESSES, *(["trio"] if HAS_TRIO else []))
    assert (done.stdout, done.stderr) == ("Function sleep timed out after 0.05s\n", "")


def test_async_functions_of_sync_callers_share_the_bridges_loop() -> None:
    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert {call_any(loop), call_any(loop, timeout=LONG)} == {sidecar.get_bridge().get_loop()}


def test_async_functions_stay_in_their_callers_loop() -> None:
    async def main() -> None:
        async def loop() -> asyncio.AbstractEventLoop:
            return asyncio.get_running_loop()

        here = asyncio.get_running_loop()
        assert await call_any(loop) is here
        assert await call_any(loop, timeout=LONG) is here

    asyncio.run(main())


@every_land()
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("timeout", [None, LONG])
def test_threads_see_the_callers_context(
    land: Land, own: bool, timeout: float | None, executor: concurrent.futures.Executor
) -> None:
    def look() -> str:
        seen = VAR.get()
        VAR.set("changed there")
        return seen

    async def async_look() -> str:
        return VAR.get()

    VAR.set("here")
    options: Any = {"executor": executor if own else None, "force_offload": True, "timeout": timeout}
    assert land.run(lambda: call_any(look, **options)) == "here"
    assert land.run(lambda: call_any(async_look, **options)) == "here"
    assert VAR.get() == "here"


# -- time-outs ----------------------------------------------------------------


def is_every_time_out(error: BaseException) -> bool:
    kinds = (TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError, sidecar.CallTimeoutError)
    return all(isinstance(error, kind) for kind in kinds)


@every_land()
def test_a_sync_function_that_is_late_goes_on_alone(land: Land) -> None:
    with Gate() as gate:
        with pytest.raises(CallAnyTimeout) as caught:
            land.run(lambda: call_any(gate.block, timeout=RUNS))
        assert str(caught.value) == "Function block timed out after 0.5s"
        assert is_every_time_out(caught.value)
        assert gate.running.is_set() and not gate.over.is_set()


@every_land()
def test_an_async_function_that_is_late_is_cancelled_and_cleans_up(land: Land) -> None:
    steps: list[str] = []

    async def slow() -> None:
        try:
            await land.sleep(LONG)
        finally:
            if land.name == "trio":
                import trio

                with trio.CancelScope(shield=True):
                    await land.sleep(SOON)
            else:
                await land.sleep(SOON)
            steps.append("cleaned up")

    with pytest.raises(CallAnyTimeout) as caught:
        land.run(lambda: call_any(slow, timeout=SOON))
    assert steps == ["cleaned up"]
    assert str(caught.value) == "Function slow timed out after 0.05s"
    assert is_every_time_out(caught.value)


@every_land(but="trio")
def test_what_the_cleanup_raises_is_the_cause(land: Land) -> None:
    async def slow() -> None:
        try:
            await land.sleep(LONG)
        finally:
            raise KeyError("in the cleanup")

    with pytest.raises(CallAnyTimeout) as caught:
        land.run(lambda: call_any(slow, timeout=SOON))
    causes: list[BaseException | None] = [caught.value.__cause__]
    while causes[-1] is not None:
        causes.append(causes[-1].__cause__)
    assert any(isinstance(cause, KeyError) for cause in causes)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("timeout, shown", [(0, "0s"), (0.0, "0.0s"), (0.02, "0.02s")])
def test_message(kind: str, timeout: float, shown: str) -> None:
    class Slow:
        async def __call__(self, gate: Gate) -> None:
            await asyncio.sleep(LONG)

    with Gate() as gate:
        func: Callable[..., Any] = (
            functools.partial(gate.block) if kind == "sync" else functools.partial(Slow(), gate)
        )
        name = "block" if kind == "sync" else "Slow"
        with pytest.raises(CallAnyTimeout) as caught:
            call_any(func, timeout=timeout)
        assert str(caught.value) == f"Function {name} timed out after {shown}"


@pytest.mark.parametrize("timeout", [-1, -0.01, math.nan, math.inf])
@pytest.mark.parametrize("func", [sync_echo, async_echo])
def test_a_time_out_that_is_none_is_refused(func: Callable[..., Any], timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be a number of seconds from 0 on, or None, not"):
        call_any(func, timeout=timeout)


@every_land()
def test_failure_of_a_function_that_was_left_alone_is_logged(
    land: Land, caplog: pytest.LogCaptureFixture
) -> None:
    with Gate(error=KeyError("too late to tell")) as gate:
        with pytest.raises(CallAnyTimeout):
            land.run(lambda: call_any(gate.block, timeout=RUNS))
        assert not caplog.records
        gate.released.set()
        wait_for(lambda: caplog.records, "the failure in the log")
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("sidecar", logging.ERROR)
    assert record.getMessage() == "block failed after its caller had left it"
    assert record.exc_info is not None and isinstance(record.exc_info[1], KeyError)


# -- cancellation from outside -----------------------------------------------


@pytest.mark.parametrize("timeout", [None, LONG])
def test_cancelling_the_caller_cancels_the_async_function(timeout: float | None) -> None:
    async def main() -> list[str]:
        steps: list[str] = []
        started = asyncio.Event()

        async def slow() -> None:
            started.set()
            try:
                await asyncio.sleep(LONG)
            finally:
                await asyncio.sleep(0.01)
                steps.append("cleaned up")

        task = asyncio.ensure_future(call_any(slow, timeout=timeout))
        await asyncio.wait_for(started.wait(), LONG)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return steps

    assert asyncio.run(main()) == ["cleaned up"]


@pytest.mark.parametrize("timeout", [None, LONG])
def test_cancelling_the_caller_withdraws_a_job_that_waits(timeout: float | None) -> None:
    ran: list[int] = []
    with Gate() as gate, concurrent.futures.ThreadPoolExecutor(1) as one:

        async def main() -> None:
            first = asyncio.ensure_future(call_any(gate.block, executor=one))
            while not gate.running.is_set():
                await asyncio.sleep(0.001)
            second = asyncio.ensure_future(call_any(ran.append, 1, executor=one, timeout=timeout))
            while one._work_queue.qsize() == 0:  # it waits behind the first
                await asyncio.sleep(0.001)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            gate.released.set()
            await first

        asyncio.run(main())
    assert not ran
