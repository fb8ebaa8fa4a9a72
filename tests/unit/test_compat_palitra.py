"""sidecar.compat.palitra: palitra's behaviour, whose source distribution has no tests, and what a bridge adds to it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from harness import native_threads, wait_for

from sidecar.compat import palitra
from sidecar.compat.palitra import EventLoopThreadRunner
from sidecar.errors import DeadlockError

tenant = contextvars.ContextVar("tenant", default="nobody")


@pytest.fixture(params=["an instance", "the class"])
def runner(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "the class":
        yield EventLoopThreadRunner
        palitra.shutdown_global_runner()
    else:
        made = EventLoopThreadRunner()
        yield made
        made.close()


@pytest.fixture(autouse=True)
def no_shared_runner() -> Iterator[None]:
    yield
    palitra.shutdown_global_runner()


async def hello() -> str:
    await asyncio.sleep(0.001)
    return "hello"


async def fails() -> None:
    await asyncio.sleep(0)
    raise ValueError("no")


async def for_long() -> None:
    await asyncio.sleep(60)


# -- palitra's own behaviour ------------------------------------------------------------


def test_runs_one_or_many_on_one_loop(runner: Any) -> None:
    loop = runner.get_loop()
    assert loop.is_running() and not loop.is_closed()
    assert runner.run(hello()) == "hello"
    assert runner.gather(hello(), hello()) == ["hello", "hello"]
    assert runner.gather() == []
    assert runner.get_loop() is loop
    assert asyncio.run_coroutine_threadsafe(hello(), loop).result(10) == "hello"


def test_errors_arrive_and_are_collected(runner: Any) -> None:
    with pytest.raises(ValueError, match="no"):
        runner.run(fails())
    with pytest.raises(ValueError, match="no"):
        runner.gather(hello(), fails())
    first, second = runner.gather(hello(), fails(), return_exceptions=True)
    assert first == "hello" and isinstance(second, ValueError)


def test_time_outs_cancel(runner: Any) -> None:
    for limit in (0, 0.01):
        with pytest.raises(asyncio.TimeoutError):
            runner.run(for_long(), timeout=limit)
        with pytest.raises(asyncio.TimeoutError):
            runner.gather(for_long(), timeout=limit)
    assert not [task for task in asyncio.all_tasks(runner.get_loop()) if "for_long" in repr(task)]


def test_an_error_does_not_end_the_others(runner: Any) -> None:
    ended = threading.Event()

    async def other() -> None:
        await asyncio.sleep(0.02)
        ended.set()

    with pytest.raises(ValueError):
        runner.gather(fails(), other())
    assert ended.wait(10)


@pytest.mark.parametrize("wrong", ["text", 42, None])
def test_what_is_no_awaitable(runner: Any, wrong: Any) -> None:
    name = type(wrong).__name__
    with pytest.raises(TypeError, match=f"object {name} can't be used in 'await' expression|'{name}' object can't be"):
        runner.run(wrong)
    with pytest.raises(TypeError, match="An asyncio.Future, a coroutine or an awaitable is required"):
        runner.gather(wrong)


def test_a_coroutine_that_was_closed(runner: Any) -> None:
    coro = hello()
    coro.close()
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        runner.run(coro)


def test_debug_stays(runner: Any) -> None:
    async def debug() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert [runner.run(debug(), debug=wish) for wish in (None, True, None, False)] == [False, True, True, False]


def test_loop_factory_is_not_there(runner: Any) -> None:
    with pytest.raises(NotImplementedError, match="`loop_factory` currently not implemented."):
        runner.run(hello(), loop_factory=asyncio.new_event_loop)


def test_closed() -> None:
    for used in (False, True):
        with EventLoopThreadRunner() as runner:
            if used:
                loop = runner.get_loop()
        runner.close()
        assert runner.get_loop().is_closed() and (not used or runner.get_loop() is loop)
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            runner.run(hello())
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            runner.gather(hello(), hello())
        with pytest.raises(RuntimeError):
            runner.get_loop().call_soon(print)


def test_shared_runner_comes_and_goes() -> None:
    assert not palitra.is_runner_alive()
    assert palitra.run(hello()) == "hello"
    assert palitra.is_runner_alive()
    assert palitra.gather(hello()) == ["hello"]
    assert EventLoopThreadRunner.get_loop() is palitra._shared().get_loop()
    for _ in range(2):
        palitra.shutdown_global_runner()
        assert not palitra.is_runner_alive()
    thread = threading.Thread(target=lambda: palitra.run(hello()))
    thread.start()
    thread.join()
    assert palitra.is_runner_alive()


# -- what a bridge adds --------------------------------------------------------------------


def test_context_goes_in(runner: Any) -> None:
    async def which() -> str:
        return tenant.get()

    token = tenant.set("acme")
    try:
        assert runner.run(which()) == "acme"
        assert runner.gather(which()) == ["acme"]
    finally:
        tenant.reset(token)


def test_inside_itself_is_an_error_and_no_deadlock(runner: Any) -> None:
    async def nested() -> str:
        with pytest.raises(DeadlockError, match="Cannot call run\\(\\) from the loop thread"):
            runner.run(hello())
        return "went on"

    assert runner.run(nested()) == "went on"


def test_a_child_of_a_fork_goes_on(runner: Any) -> None:
    assert runner.run(hello()) == "hello"
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if runner.run(hello()) == "hello" and runner.get_loop().is_running() else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert runner.run(hello()) == "hello"


def test_dropped_runners_leave_nothing() -> None:
    EventLoopThreadRunner().run(hello())
    before = native_threads()
    runners = []
    for _ in range(5):
        runner = EventLoopThreadRunner()
        runner.run(hello())
        runners.append(weakref.ref(runner._bridge))
    del runner
    gc.collect()
    wait_for(lambda: all(bridge() is None or not bridge().is_running() for bridge in runners), "bridges end")
    wait_for(lambda: native_threads() <= before, "their threads end")
