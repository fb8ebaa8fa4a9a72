"""sidecar.compat.asyncio_thread_runner: what a bridge adds to its own tests, and its options."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from harness import wait_for

from sidecar.compat.asyncio_thread_runner import ThreadRunner
from sidecar.errors import DeadlockError

tenant = contextvars.ContextVar("tenant", default="nobody")


@pytest.fixture
def runner() -> Iterator[ThreadRunner]:
    with ThreadRunner() as made:
        yield made


async def double(x: int) -> int:
    await asyncio.sleep(0.001)
    return 2 * x


async def which() -> str:
    return tenant.get()


def test_futures(runner: ThreadRunner) -> None:
    assert [future.result(10) for future in map(runner.run_as_future, map(double, range(3)))] == [0, 2, 4]


def test_what_is_no_coroutine(runner: ThreadRunner) -> None:
    wrong: Any = 5
    with pytest.raises(TypeError, match="A coroutine object is required"):
        runner.run(wrong)
    with pytest.raises(TypeError, match="'int' object is not an async iterable"):
        runner.wrap_iter(wrong)


def test_closed_says_so_and_leaves_no_coroutine_behind() -> None:
    runner = ThreadRunner()
    runner.close()
    for call in (runner.run, runner.run_as_future):
        with pytest.raises(RuntimeError, match="Runner is closed"):
            call(double(2))


def test_options() -> None:
    async def debug() -> bool:
        return asyncio.get_running_loop().get_debug()

    for wish in (True, False):
        with ThreadRunner(debug=wish) as runner:
            assert runner.run(debug()) is wish
    with pytest.warns(UserWarning, match="loop_factory is not called"):
        ThreadRunner(loop_factory=asyncio.new_event_loop)
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        ThreadRunner(other=1)  # type: ignore[call-arg]


def test_context_goes_in_and_stays_in_a_stream(runner: ThreadRunner) -> None:
    async def items() -> AsyncIterator[str]:
        yield tenant.get()
        tenant.set("set inside")
        yield tenant.get()

    token = tenant.set("acme")
    try:
        assert runner.run(which()) == runner.run_as_future(which()).result(10) == "acme"
        assert list(runner.wrap_iter(items())) == ["acme", "set inside"]
        assert tenant.get() == "acme"
    finally:
        tenant.reset(token)


def test_a_stream_that_is_left_is_closed(runner: ThreadRunner) -> None:
    closed = threading.Event()

    async def items() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.set()

    for _ in runner.wrap_iter(items()):
        break
    gc.collect()
    assert closed.wait(10)


def test_a_context_is_one_task(runner: ThreadRunner) -> None:
    tasks = []

    @asynccontextmanager
    async def noting() -> AsyncIterator[str]:
        tasks.append(asyncio.current_task())
        yield "value"
        tasks.append(asyncio.current_task())

    with runner.wrap_context(noting()) as value:
        assert value == "value"
    assert tasks[0] is tasks[1]


def test_entered_contexts_are_left_in_turn() -> None:
    order = []

    @asynccontextmanager
    async def named(name: str) -> AsyncIterator[str]:
        try:
            yield name
        finally:
            await asyncio.sleep(0)
            order.append(name)

    with ThreadRunner() as runner:
        assert runner.enter_context(lambda: named("first")) == "first"
        assert runner.enter_context(named("second")) == "second"
    assert order == ["second", "first"]


def test_inside_itself_is_an_error_and_no_deadlock(runner: ThreadRunner) -> None:
    async def nested() -> str:
        with pytest.raises(DeadlockError):
            runner.run(double(2))
        return "went on"

    assert runner.run(nested()) == "went on"


def test_a_child_of_a_fork_goes_on(runner: ThreadRunner) -> None:
    assert runner.run(double(1)) == 2
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if runner.run(double(2)) == 4 else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert runner.run(double(3)) == 6


@pytest.mark.parametrize("debug", [None, True])
def test_a_dropped_runner_ends_its_bridge(debug: bool | None) -> None:
    runner = ThreadRunner(debug=debug)
    assert runner.run(double(1)) == 2
    bridge = weakref.ref(runner._bridge)
    del runner
    gc.collect()
    wait_for(lambda: bridge() is None or not bridge().is_running(), "the bridge ends")  # type: ignore[union-attr]
