"""is_stopping(), stopping(), and what becomes of the background where a server's patience ends first."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requested
from harness import wait_for

import sidecar
from sidecar import _stopping


@pytest.fixture(autouse=True)
def fresh_bridge() -> Iterator[None]:
    sidecar.shutdown()
    yield
    sidecar.shutdown()


def test_nothing_stops_where_nothing_runs():
    assert not sidecar.is_stopping()
    _stopping.begin(0.0)
    assert not sidecar.is_running()
    sidecar.get_bridge().start()
    assert not sidecar.is_stopping()


def test_who_waits_is_told_once_on_any_loop():
    heard: list[str] = []

    async def wait(name: str) -> None:
        await sidecar.stopping()
        assert sidecar.is_stopping()
        heard.append(name)

    on_bridge = sidecar.submit(wait("bridge"))
    other = threading.Thread(target=lambda: asyncio.run(wait("other")))
    other.start()
    life = sidecar.get_bridge().get_loop()._lifespan
    wait_for(lambda: len(life.stopping._waiting) == 2, "both wait")
    assert heard == []
    _stopping.begin(-1.0)
    on_bridge.result(20)
    other.join(20)
    assert sorted(heard) == ["bridge", "other"]
    sidecar.run_sync(wait("late"))  # and who comes afterwards need not wait
    assert heard[-1] == "late"
    assert life.stopping._waiting == {}


def test_who_gives_up_waiting_leaves_nothing():
    with pytest.raises(TimeoutError):
        sidecar.run_sync(sidecar.stopping(), timeout=0.01)
    assert sidecar.get_bridge().get_loop()._lifespan.stopping._waiting == {}


def test_a_shutdown_tells_too_and_the_next_bridge_is_new():
    heard: list[bool] = []

    async def wait() -> None:
        try:
            await sidecar.stopping()
            heard.append(sidecar.is_stopping())
            await asyncio.sleep(60)
        finally:
            heard.append(sidecar.is_stopping())

    sidecar.submit(wait())
    life = sidecar.get_bridge().get_loop()._lifespan
    wait_for(lambda: len(life.stopping._waiting) == 1, "it waits")
    sidecar.shutdown()
    assert heard == [True, True]
    sidecar.get_bridge().start()
    assert not sidecar.is_stopping()


def test_what_runs_in_the_background_is_cancelled_before_the_end_and_nothing_else(caplog):
    ended: dict[str, str] = {}
    begun: list[str] = []

    async def work(name: str, seconds: float = 60) -> str:
        begun.append(name)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            ended[name] = "cancelled"
            raise
        ended[name] = "done"
        return name

    async def keeper() -> Any:
        task = asyncio.ensure_future(work("kept"))
        yield "kept"
        task.cancel()

    kept = sidecar.resource(keeper)

    async def begin_some() -> None:
        asyncio.ensure_future(work("of the request", 0.2))
        _stopping.begin(0.0)
        await asyncio.sleep(0)

    def view(environ: Any, start_response: Any) -> list[bytes]:
        future = sidecar.submit(work("submitted", 60))
        detached = sidecar.submit(work("detached", 60), detach=True)
        wait_for(lambda: {"submitted", "detached"} <= set(begun), "both run")
        sidecar.run_sync(begin_some())
        wait_for(detached.done, "it is cancelled")
        answer = sidecar.run_sync(work("called", 0.01))
        assert not future.done()
        start_response("200 OK", [])
        return [answer.encode()]

    assert kept.get() == "kept"
    loose = sidecar.submit(work("loose"))
    wait_for(lambda: "loose" in begun, "it runs")
    answer = requested.serve(view, {"REQUEST_METHOD": "GET"})
    assert answer.text == "called"
    assert loose.cancelled()
    assert ended["detached"] == ended["loose"] == "cancelled"
    assert "kept" not in ended
    assert "the server's patience ends before its requests do" in caplog.text


def test_a_negative_time_cancels_nothing_and_it_begins_once():
    begun = threading.Event()

    async def work() -> str:
        begun.set()
        await asyncio.sleep(0.05)
        return "done"

    future = sidecar.submit(work())
    assert begun.wait(20)
    _stopping.begin(-1.0)
    _stopping.begin(0.0)
    assert future.result(20) == "done"
