"""``run_cpu`` in its three forms, the same on every engine."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import wait_for
from requested import call, client
from unit import cpu_work as work
from unit.cpu_bridges import ENGINES, FAR, begun, bridge_on, go, tracker, warm  # noqa: F401

import sidecar
from sidecar.cpu import run

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(params=ENGINES, scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[sidecar.Sidecar]:
    """One for all tests that leave it as it was."""
    with bridge_on(request.param) as made:
        warm(made)
        yield made


@pytest.fixture
def name(shared: sidecar.Sidecar) -> str:
    return shared.stats()["cpu"]


def is_far(bridge: sidecar.Sidecar) -> bool:
    return bridge.run_cpu(work.place)[0] != work.place()[0] or bridge.stats()["cpu"] == "interpreters"


# -- three forms --------------------------------------------------------------------


def test_from_sync_code(shared: sidecar.Sidecar) -> None:
    assert shared.run_cpu(work.add, 1, other=2) == 3
    assert shared.run_cpu(work.Adder(5), 2) == 7
    assert shared.run_cpu(divmod, 7, 2) == (3, 1)


def test_in_coroutines_of_any_loop(shared: sidecar.Sidecar) -> None:
    async def many() -> list[int]:
        return await asyncio.gather(*(shared.run_cpu.aio(work.add, at, other=1) for at in range(20)))

    assert asyncio.run(many()) == shared.run_sync(many()) == list(range(1, 21))


def test_as_a_future(shared: sidecar.Sidecar) -> None:
    future = shared.run_cpu.future(work.add, 1, other=2)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(30) == 3 and future.done() and not future.cancel()
    told: list[Any] = []
    shared.run_cpu.future(work.add, 4).add_done_callback(lambda done: told.append(done.result()))
    wait_for(lambda: told == [4], "the callback is told")
    done, pending = concurrent.futures.wait([shared.run_cpu.future(work.add, at) for at in range(8)], 30)
    assert not pending and sum(one.result() for one in done) == 28


def test_not_on_the_callers_thread(shared: sidecar.Sidecar) -> None:
    assert shared.run_cpu(work.place) != work.place()


def test_inside_a_coroutine_of_its_own_it_refuses(shared: sidecar.Sidecar) -> None:
    async def wrong() -> int:
        return shared.run_cpu(work.add, 1)

    with pytest.raises(sidecar.DeadlockError, match=r"Await run_cpu\.aio\(.*add\) there instead \[SC0001\]"):
        shared.run_sync(wrong())


def test_the_same_object_each_time(shared: sidecar.Sidecar) -> None:
    held = shared.run_cpu
    assert shared.run_cpu is held and repr(shared) in repr(held)
    assert repr(sidecar.run_cpu) == "<sidecar.run_cpu>"


@pytest.mark.parametrize("wrong", [None, 7, "work.add"])
def test_no_function(shared: sidecar.Sidecar, wrong: Any) -> None:
    for form in (shared.run_cpu, shared.run_cpu.aio, shared.run_cpu.future):
        with pytest.raises(TypeError, match=r"run_cpu\(\) takes a function"):
            form(wrong)


def test_many_threads(shared: sidecar.Sidecar) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda at: shared.run_cpu(work.add, at, 1), range(200))) == list(range(1, 201))


def test_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_CPU", "threads")
    monkeypatch.setenv("SIDECAR_CPU_WORKERS", "3")
    sidecar.shutdown()
    assert sidecar.run_cpu(work.add, 1, 2) == 3 == sidecar.run_cpu.future(work.add, 1, 2).result(30)
    assert asyncio.run(sidecar.run_cpu.aio(work.add, 1, 2)) == 3
    assert sidecar.get_bridge().stats()["cpu"] == "threads"


# -- errors -------------------------------------------------------------------------


def test_its_exception(shared: sidecar.Sidecar, name: str) -> None:
    with pytest.raises(work.Failure) as caught:
        shared.run_cpu(work.fail, "announced")
    assert caught.value.args == ("announced",)
    files = [entry.path for entry in caught.traceback]
    assert not any("sidecar" in Path(str(file)).parts[-2:] for file in files), files
    if name in ("processes", "interpreters"):
        text = str(caught.value.__cause__)
        assert "cpu_work.py" in text and "raise Failure(text)" in text and "far.py" not in text


@pytest.mark.parametrize("function", [work.fail_with_cause, work.fail_in_context])
def test_its_cause_is_kept(shared: sidecar.Sidecar, function: Any) -> None:
    with pytest.raises(work.Failure) as caught:
        shared.run_cpu(function, "announced")
    error = caught.value
    first = error.__cause__ if function is work.fail_with_cause else error.__context__
    assert isinstance(first, KeyError) and first.args == ("missing",)
    if is_far(shared):
        assert "raise Failure(text)" in str(first.__cause__) and "KeyError: 'missing'" in str(first.__cause__)


def test_in_all_forms(shared: sidecar.Sidecar) -> None:
    with pytest.raises(work.Failure):
        asyncio.run(shared.run_cpu.aio(work.fail, "announced"))
    assert isinstance(shared.run_cpu.future(work.fail, "announced").exception(30), work.Failure)


def test_a_worker_does_not_end_by_it(shared: sidecar.Sidecar) -> None:
    with pytest.raises(SystemExit):
        shared.run_cpu(work.quit_worker)
    assert shared.run_cpu(work.add, 1) == 1


def test_an_error_that_nobody_asks_for_is_logged(
    shared: sidecar.Sidecar, caplog: pytest.LogCaptureFixture
) -> None:
    future = shared.run_cpu.future(work.fail, "announced")
    concurrent.futures.wait([future], 30)
    del future
    wait_for(lambda: "nobody asked for it" in caplog.text, "the log tells")
    assert "run_cpu: unit.cpu_work.fail failed, and nobody asked for it" in caplog.text


@pytest.fixture(params=FAR, scope="module")
def far(request: pytest.FixtureRequest) -> Iterator[sidecar.Sidecar]:
    """Where calls are pickled, with one worker."""
    with bridge_on(request.param, 1) as made:
        made.run_cpu(work.add, 1)
        yield made


class TestPickling:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ((threading.Lock(),), "argument 1 of unit.cpu_work.echo cannot be pickled"),
            ((7, threading.Lock()), "argument 2 of unit.cpu_work.echo cannot be pickled"),
        ],
    )
    def test_an_argument(self, far: sidecar.Sidecar, arguments: Any, text: str) -> None:
        for form in (far.run_cpu, far.run_cpu.future):
            with pytest.raises(sidecar.CpuPickleError, match=text) as caught:
                form(work.echo, *arguments)
        assert isinstance(caught.value, TypeError) and "SC0012" in str(caught.value)
        assert far.run_cpu(work.add, 1) == 1

    def test_a_closure_needs_cloudpickle(self, far: sidecar.Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
        more = 5
        monkeypatch.setitem(__import__("sys").modules, "cloudpickle", None)
        with pytest.raises(sidecar.CpuPickleError, match="needs cloudpickle"):
            far.run_cpu(lambda one: one + more, 1)

    def test_a_closure_by_cloudpickle(self, far: sidecar.Sidecar) -> None:
        pytest.importorskip("cloudpickle", reason="cloudpickle is not installed")
        more = 5
        assert far.run_cpu(lambda one: one + more, 1) == 6

    def test_a_result(self, far: sidecar.Sidecar) -> None:
        before = far.run_cpu(work.place)
        with pytest.raises(sidecar.CpuPickleError, match=r"the result of unit\.cpu_work\.make_lock, a _thread\.lock"):
            far.run_cpu(work.make_lock)
        assert far.run_cpu(work.place)[0] == before[0]

    def test_what_does_not_load(self, far: sidecar.Sidecar) -> None:
        before = far.run_cpu(work.place)
        with pytest.raises(sidecar.CpuPickleError, match="cannot be loaded in the worker: LookupError: announced"):
            far.run_cpu(work.echo, work.Unloadable())
        with pytest.raises(sidecar.CpuPickleError, match="the result of .* cannot be loaded: LookupError: announced"):
            far.run_cpu(work.make_unloadable)
        assert far.run_cpu(work.place)[0] == before[0]

    @pytest.mark.parametrize(
        ("function", "text"),
        [(work.fail_oddly, r"unit\.cpu_work\.Odd: 7: seven"), (work.fail_sealed, r"Sealed: no way out")],
    )
    def test_an_exception(self, far: sidecar.Sidecar, function: Any, text: str) -> None:
        with pytest.raises(sidecar.CpuRemoteError, match=text) as caught:
            far.run_cpu(function)
        assert "cpu_work.py" in str(caught.value.__cause__)
        assert far.run_cpu(work.add, 1) == 1


# -- the request ----------------------------------------------------------------------


def test_it_runs_inside_the_request(shared: sidecar.Sidecar) -> None:
    environ = {
        "HTTP_X_REQUEST_ID": "one",
        "HTTP_TRACEPARENT": f"00-{TRACE}-b7ad6b7169203331-01",
        "HTTP_TRACESTATE": "a=1",
        "HTTP_BAGGAGE": "user=7",
    }

    def view() -> Any:
        async def inside() -> Any:
            return await shared.run_cpu.aio(work.look)

        forms = shared.run_cpu(work.look), shared.run_sync(inside()), shared.run_cpu.future(work.look).result(30)
        return (sidecar.current(), *forms)

    request, *found = call(view, environ, trust="always", deadline=30.0)
    for seen in found:
        assert seen["id"] == "one" and seen["trace_id"] == TRACE and seen["log"] == f"one {TRACE} told"
        assert seen["tracestate"] == "a=1" and seen["baggage"] == {"user": "7"}
        assert 0 < seen["left"] <= 30.0
        assert (seen["span_id"] == request.span_id) is not is_far(shared)


def test_outside_of_one_there_is_none(shared: sidecar.Sidecar) -> None:
    assert shared.run_cpu(work.look) is None
    call(lambda: shared.run_cpu(work.look))
    assert shared.run_cpu(work.look) is None


def test_threads_have_the_callers_context() -> None:
    var: contextvars.ContextVar[int] = contextvars.ContextVar("var", default=0)
    for engine in ("threads", "executor"):
        with bridge_on(engine) as bridge:
            var.set(7)
            assert bridge.run_cpu(var.get) == 7
            bridge.run_cpu(var.set, 8)
            assert var.get() == 7


@pytest.fixture(params=ENGINES)
def one(request: pytest.FixtureRequest) -> Iterator[sidecar.Sidecar]:
    """With one worker, which is warm."""
    with bridge_on(request.param, 1) as made:
        made.run_cpu(work.add, 1)
        yield made


def test_the_deadline_ends_the_wait(one: sidecar.Sidecar, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def view() -> Any:
        began = time.monotonic()
        with pytest.raises(sidecar.DeadlineExceeded, match=r"run_cpu\(unit\.cpu_work\.begin_and_wait\) was cancelled"):
            one.run_cpu(work.begin_and_wait, str(tmp_path))
        return time.monotonic() - began

    assert 0.3 <= call(view, deadline=0.3) < 20.0
    check_orphan(one, tmp_path, caplog)


def test_the_client_that_goes_ends_it(one: sidecar.Sidecar, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with client() as (environ, theirs):

        def view() -> Any:
            leaving = threading.Thread(target=lambda: (begun(tmp_path), theirs.close()))
            leaving.start()
            with pytest.raises(sidecar.ClientDisconnected):
                one.run_cpu(work.begin_and_wait, str(tmp_path))
            leaving.join()

        with pytest.raises(sidecar.ClientDisconnected):
            call(view, environ)
    check_orphan(one, tmp_path, caplog)


def test_the_end_of_the_request_cancels_its_futures(
    one: sidecar.Sidecar, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def view() -> Any:
        futures = [one.run_cpu.future(work.begin_and_wait, str(tmp_path), name) for name in ("one", "two")]
        begun(tmp_path)
        return futures

    began = time.monotonic()
    assert all(future.cancelled() for future in call(view))
    assert time.monotonic() - began < 4.0, "it does not wait for what goes on"
    check_orphan(one, tmp_path, caplog)
    assert not (tmp_path / "two.begun").exists()


def check_orphan(bridge: sidecar.Sidecar, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The one that runs is counted and named, once, until it ends."""
    pid = begun(folder)
    assert pid
    wait_for(lambda: bridge.stats()["cpu_orphans"] == 1, "it is counted")
    with caplog.at_level(logging.INFO, "sidecar"):
        go(folder)
        wait_for(lambda: bridge.stats()["cpu_orphans"] == 0, "it has ended")
    assert caplog.text.count("unit.cpu_work.begin_and_wait") == 2, caplog.text
    assert "was given up and goes on" in caplog.text and "has ended" in caplog.text
    assert bridge.run_cpu(work.add, 1) == 1


# -- cancelling -----------------------------------------------------------------------


def test_what_waits_is_dropped(one: sidecar.Sidecar, tmp_path: Path) -> None:
    first = one.run_cpu.future(work.begin_and_wait, str(tmp_path))
    begun(tmp_path)
    # An executor of others' has one more on its way, which it may not let go.
    waiting = [one.run_cpu.future(work.touch, str(tmp_path / f"{at}")) for at in range(4)]
    dropped = waiting[2:]
    assert all(future.cancel() for future in dropped) and all(future.cancelled() for future in dropped)
    assert concurrent.futures.wait(dropped, 5).not_done == set()
    go(tmp_path)
    assert first.result(30) == "one"
    for future in waiting[:2]:
        future.result(30)
    assert one.run_cpu(work.add, 1) == 1
    assert not (tmp_path / "2").exists() and not (tmp_path / "3").exists()
    assert one.stats()["cpu_orphans"] == 0


def test_what_runs_becomes_an_orphan(
    one: sidecar.Sidecar, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    future = one.run_cpu.future(work.begin_and_wait, str(tmp_path))
    begun(tmp_path)
    assert future.cancel() and future.cancelled() and future.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(1)
    check_orphan(one, tmp_path, caplog)


def test_a_cancelled_task_cancels_it(one: sidecar.Sidecar, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(one.run_cpu.aio(work.begin_and_wait, str(tmp_path)))
        while not (tmp_path / "one.begun").exists():
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    check_orphan(one, tmp_path, caplog)


def test_an_orphans_error_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with bridge_on("threads", 1) as bridge:

        def late() -> None:
            work.begin_and_wait(str(tmp_path))
            raise work.Failure("announced")

        future = bridge.run_cpu.future(late)
        begun(tmp_path)
        future.cancel()
        go(tmp_path)
        wait_for(lambda: "failed after it was given up" in caplog.text, "the log tells")


def test_short_calls_in_a_row_are_looked_out_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_SHORT", 3600.0)
    with sidecar.Sidecar(cpu="threads", cpu_workers=1) as bridge:
        for number in range(50):
            assert bridge.run_cpu(work.add, number, 1) == number + 1
        assert bridge._cpu.short == 50
        monkeypatch.setattr(run, "_SHORT", 0.0)
        assert bridge.run_cpu(work.add, 1, 1) == 2
        assert bridge._cpu.short == 0  # it was not short, so the next one is slept for


def test_who_looks_out_gives_up_and_sees_every_end() -> None:
    from sidecar._submit import SubmittedFuture

    future = SubmittedFuture()
    assert not future._look_out()
    future.set_result(1)
    assert future._look_out()
    cancelled = SubmittedFuture()
    cancelled.cancel()
    assert cancelled._look_out()
