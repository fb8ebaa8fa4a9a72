"""``enter_context``: async context managers that stay entered for the life of a bridge."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from harness import wait_for

import sidecar
from sidecar import enter_context

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="empty")


class Ordered:
    def __init__(self, name: str, order: list[str]) -> None:
        self._name = name
        self._order = order

    async def __aenter__(self) -> str:
        self._task = asyncio.current_task()
        return self._name

    async def __aexit__(self, *exc_info: Any) -> None:
        assert asyncio.current_task() is self._task and exc_info == (None, None, None)
        await asyncio.sleep(0.01)
        self._order.append(self._name)


def test_left_at_shutdown_in_reverse_order() -> None:
    order: list[str] = []
    enter_context(Ordered("default", order))
    assert sidecar.shutdown()
    bridge = sidecar.Sidecar()
    for name in "abc":
        assert enter_context(Ordered(name, order), bridge=bridge) == name
    gc.collect()
    assert order == ["default"]
    assert bridge.shutdown()
    assert order == ["default", "c", "b", "a"]


def test_in_one_order_with_resources() -> None:
    """What one of them uses is there until it is left, whichever of the two it is."""
    order: list[str] = []
    bridge = sidecar.Sidecar()

    @bridge.resource
    async def first() -> AsyncIterator[str]:
        yield "first"
        order.append("first")

    @bridge.resource
    async def last() -> AsyncIterator[str]:
        yield f"last, with {entered}"
        order.append("last")

    class UsesFirst(Ordered):
        async def __aexit__(self, *exc_info: Any) -> None:
            order.append(f"{self._name}, with {await first}")

    assert first.get() == "first"
    entered = bridge.enter_context(UsesFirst("entered", order))
    assert last.get() == "last, with entered"
    assert bridge.shutdown()
    assert order == ["last", "entered, with first", "first"]


def test_each_call_enters_anew() -> None:
    order: list[str] = []

    def make() -> Ordered:
        order.append("made")
        return Ordered("left", order)

    with sidecar.Sidecar() as bridge:
        for count in (1, 2):
            assert bridge.enter_context(make) == "left"
            assert order == ["made"] * count
    assert order == ["made", "made", "left", "left"]


def test_the_main_thread_still_drives_beside_it() -> None:
    """It drives no other's tasks; the one that stays entered is nobody's."""

    async def where() -> int:
        await asyncio.sleep(0)
        return threading.get_ident()

    assert threading.current_thread() is threading.main_thread()
    with sidecar.Sidecar() as bridge:
        bridge.enter_context(Ordered("a", []))
        wait_for(lambda: bridge.run_sync(where()) == threading.get_ident(), "the main thread drives")
        assert {bridge.run_sync(where()) for _ in range(20)} == {threading.get_ident()}


def test_an_empty_context() -> None:
    seen: list[str] = []

    @contextlib.asynccontextmanager
    async def scope() -> AsyncIterator[str]:
        token = var.set(f"{var.get()}, then its own")
        yield var.get()
        var.reset(token)
        seen.append(var.get())

    token = var.set("the request that came first")
    try:
        with sidecar.Sidecar() as bridge:
            assert bridge.enter_context(scope) == "empty, then its own"
            assert var.get() == "the request that came first"
    finally:
        var.reset(token)
    assert seen == ["empty"]


def test_its_own_tasks_go_with_it() -> None:
    ended: list[str] = []

    async def beat() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("beat")

    @contextlib.asynccontextmanager
    async def client() -> AsyncIterator[None]:
        beating = asyncio.create_task(beat())
        await asyncio.sleep(0)
        yield
        assert not beating.done()
        beating.cancel()
        await asyncio.wait({beating})
        ended.append("client")

    with sidecar.Sidecar() as bridge:
        bridge.enter_context(client)
    assert ended == ["beat", "client"]


def test_inside_a_coroutine_of_another_bridge() -> None:
    """It holds up that one's loop, and no more."""
    order: list[str] = []
    with sidecar.Sidecar() as bridge:

        async def inside() -> str:
            return bridge.enter_context(Ordered("a", order))

        assert sidecar.run_sync(inside()) == "a"
        assert asyncio.run(inside()) == "a"
    assert order == ["a", "a"]


def test_does_not_keep_its_bridge() -> None:
    order: list[str] = []
    bridge = sidecar.Sidecar()
    bridge.enter_context(Ordered("a", order))
    with pytest.warns(ResourceWarning, match="was dropped without shutdown"):
        del bridge
        gc.collect()
    wait_for(lambda: order == ["a"], "it is left")


def test_leaving_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "sidecar")
    order: list[str] = []

    class Stuck(Ordered):
        async def __aexit__(self, *exc_info: Any) -> None:
            await asyncio.sleep(60)

    bridge = sidecar.Sidecar()
    for manager in (Ordered("a", order), Stuck("stuck", order), Ordered("b", order)):
        enter_context(manager, bridge=bridge)
    began = time.monotonic()
    assert not bridge.shutdown(timeout=0.6)
    assert time.monotonic() - began < 10
    [said] = caplog.messages
    assert "Stuck" in said and "did not end in time" in said
    assert order == ["b", "a"]


def test_leaving_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    order: list[str] = []

    @contextlib.asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        yield
        raise OSError("in the exit")

    with sidecar.Sidecar() as bridge:
        enter_context(Ordered("a", order), bridge=bridge)
        enter_context(failing, bridge=bridge)
    assert order == ["a"]
    assert "failing() failed" in caplog.text and "OSError: in the exit" in caplog.text


def test_that_ends_by_itself_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    left: list[str] = []

    @contextlib.asynccontextmanager
    async def scope() -> AsyncIterator[Any]:
        try:
            yield asyncio.current_task()
        finally:
            left.append("scope")

    async def cancel(task: Any) -> None:
        task.cancel()
        await asyncio.wait({task})

    with sidecar.Sidecar() as bridge:
        bridge.run_sync(cancel(bridge.enter_context(scope)))
        assert left == ["scope"]
        assert "scope() has ended by itself" in caplog.text
    assert left == ["scope"]


def test_inside_a_coroutine_of_the_bridge() -> None:
    order: list[str] = []

    with sidecar.Sidecar() as bridge:

        async def inside() -> None:
            with pytest.raises(sidecar.DeadlockError, match=r"^enter_context\(.*Ordered.*use `async with`.*\[SC0001\]"):
                bridge.enter_context(Ordered("a", order))

        bridge.run_sync(inside())
    assert order == []


def test_entering_that_is_cut_short() -> None:
    ended: list[str] = []

    @contextlib.asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        try:
            await asyncio.sleep(60)
            yield
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    with sidecar.Sidecar(timeout=0.05) as bridge:
        with pytest.raises(sidecar.CallTimeoutError, match="enter_context"):
            enter_context(slow, bridge=bridge)
        assert ended == ["cancelled"]


def test_entered_all_the_same_it_is_left_at_once() -> None:
    """Cut short, it does not give up; but nobody has its value any more."""
    ended: list[str] = []

    @contextlib.asynccontextmanager
    async def stubborn() -> AsyncIterator[None]:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
        yield
        ended.append("left")

    with sidecar.Sidecar(timeout=0.05) as bridge:
        with pytest.raises(sidecar.CallTimeoutError):
            enter_context(stubborn, bridge=bridge)
        assert ended == ["cancelled", "left"]
    assert ended == ["cancelled", "left"]


def test_cut_short_just_when_it_is_entered() -> None:
    order: list[str] = []

    class CancelsItsCaller(Ordered):
        async def __aenter__(self) -> str:
            loop: Any = asyncio.get_running_loop()
            for task in asyncio.all_tasks() - {asyncio.current_task(), loop._root}:
                task.cancel()
            return await super().__aenter__()

    with sidecar.Sidecar() as bridge:
        with pytest.raises(asyncio.CancelledError):
            bridge.enter_context(CancelsItsCaller("a", order))
        assert order == ["a"]


def test_child_of_a_fork_leaves_its_parents_alone(run_script: Callable[..., Any]) -> None:
    done = run_script(
        """
        import contextlib, os, sys
        import sidecar
        from sidecar._wrappers import enter_context

        @contextlib.asynccontextmanager
        async def resource(name):
            yield
            os.write(1, f"{name} left by {'child' if os.getpid() != parent else 'parent'}\\n".encode())

        parent = os.getpid()
        bridge = sidecar.Sidecar()
        enter_context(resource("parent's"), bridge=bridge)
        child = os.fork()
        if child == 0:
            enter_context(resource("child's"), bridge=bridge)
            clean = bridge.shutdown()
            os._exit(0 if clean else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert bridge.shutdown()
        """
    )
    assert done.stdout.splitlines() == ["child's left by child", "parent's left by parent"], done.stderr
    assert done.returncode == 0
