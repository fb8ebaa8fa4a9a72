"""``enter_context``: async context managers that stay entered for the life of a bridge."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import sidecar
from sidecar._wrappers import enter_context, leave_all


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


def test_left_in_reverse_order() -> None:
    order: list[str] = []
    with sidecar.Sidecar() as bridge:
        for name in "abc":
            assert enter_context(Ordered(name, order), bridge=bridge) == name
        assert order == []
        assert bridge.run_sync(leave_all(bridge, time.monotonic() + 20)) == []
        assert order == ["c", "b", "a"]
        assert bridge.run_sync(leave_all(bridge, time.monotonic() + 20)) == []
    assert order == ["c", "b", "a"]


def test_left_at_shutdown() -> None:
    order: list[str] = []
    enter_context(Ordered("default", order))
    assert sidecar.shutdown()
    bridge = sidecar.Sidecar()
    for name in "abc":
        enter_context(Ordered(name, order), bridge=bridge)
    assert bridge.shutdown()
    assert order == ["default", "c", "b", "a"]


def test_leaving_is_bounded() -> None:
    order: list[str] = []

    class Stuck(Ordered):
        async def __aexit__(self, *exc_info: Any) -> None:
            await asyncio.sleep(60)

    with sidecar.Sidecar() as bridge:
        for manager in (Ordered("a", order), Stuck("stuck", order), Ordered("b", order)):
            enter_context(manager, bridge=bridge)
        began = time.monotonic()
        stuck = bridge.run_sync(leave_all(bridge, began + 0.4))
        assert time.monotonic() - began < 10
        assert len(stuck) == 1 and "Stuck" in stuck[0]
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
        bridge.run_sync(leave_all(bridge, time.monotonic() + 20))
    assert order == ["a"]
    assert "failed" in caplog.text and "in the exit" in caplog.text


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
        with pytest.raises(sidecar.CallTimeoutError):
            enter_context(slow, bridge=bridge)
        assert ended == ["cancelled"]
        assert bridge.run_sync(leave_all(bridge, time.monotonic() + 20)) == []


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
