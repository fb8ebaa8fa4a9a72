"""Any executor as the engine: what travels, how much at a time, and whose it is."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import wait_for
from requested import call
from unit import cpu_work as work
from unit.cpu_bridges import ENGINES, begun, bridge_on, go, tracker  # noqa: F401
from unit.test_cpu_processes import check_full

import sidecar
from sidecar.anycall import call_any


class Recorder(concurrent.futures.Executor):
    """Runs nothing by itself: the test does, and sees what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[Any, ...]] = []
        self.futures: list[concurrent.futures.Future[Any]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.threads: set[int] = set()
        self.ended = False

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        self.threads.add(threading.get_ident())
        assert self.gate.wait(30)
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.given.append((fn, args, kwargs))
        self.futures.append(future)
        return future

    def run(self, at: int) -> None:
        fn, args, kwargs = self.given[at]
        assert self.futures[at].set_running_or_notify_cancel()
        self.futures[at].set_result(fn(*args, **kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.ended = True


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def bridge(recorder: Recorder) -> Iterator[sidecar.Sidecar]:
    with sidecar.Sidecar(cpu=recorder, cpu_workers=2, shutdown_timeout=1.0) as made:
        yield made


def test_the_envelope_travels(bridge: sidecar.Sidecar, recorder: Recorder) -> None:
    def view() -> Any:
        future = bridge.run_cpu.future(work.look)
        wait_for(lambda: recorder.given, "it is submitted")
        recorder.run(0)
        return future.result(30), sidecar.current()

    seen, request = call(view, deadline=20.0)
    assert seen["id"] == request.id and seen["trace_id"] == request.trace_id and 0 < seen["left"] <= 20.0
    assert request.id.encode() in b"".join(arg for arg in recorder.given[0][1] if isinstance(arg, bytes))


def test_in_flight_is_bounded(bridge: sidecar.Sidecar, recorder: Recorder) -> None:
    futures = [bridge.run_cpu.future(work.add, at) for at in range(10)]
    wait_for(lambda: len(recorder.given) == 4, "two for each worker")
    assert bridge.stats()["cpu_running"] == 4 and bridge.stats()["cpu_queued"] == 6
    for at in range(10):
        wait_for(lambda at=at: len(recorder.given) > at, "the next one is submitted")  # type: ignore[misc]
        recorder.run(at)
    assert [future.result(30) for future in futures] == list(range(10))


def test_a_submit_that_blocks_holds_up_no_loop(bridge: sidecar.Sidecar, recorder: Recorder) -> None:
    recorder.gate.clear()

    async def main() -> Any:
        calls = [asyncio.ensure_future(bridge.run_cpu.aio(work.add, at)) for at in range(3)]
        await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not recorder.given
        recorder.gate.set()
        while len(recorder.given) < 3:
            await asyncio.sleep(0.001)
        for at in range(3):
            recorder.run(at)
        return await asyncio.gather(*calls)

    assert asyncio.run(main()) == [0, 1, 2]
    assert threading.get_ident() not in recorder.threads


def test_cancelling_cancels_over_there(bridge: sidecar.Sidecar, recorder: Recorder) -> None:
    future = bridge.run_cpu.future(work.add, 1)
    wait_for(lambda: recorder.futures, "it is submitted")
    assert future.cancel() and recorder.futures[0].cancelled()
    wait_for(lambda: bridge.stats()["cpu_running"] == 0, "it is over")
    assert bridge.stats()["cpu_orphans"] == 0


def test_the_deadline_cancels_over_there(bridge: sidecar.Sidecar, recorder: Recorder) -> None:
    def view() -> None:
        with pytest.raises(sidecar.DeadlineExceeded):
            bridge.run_cpu(work.add, 1)

    call(view, deadline=0.2)
    wait_for(lambda: recorder.futures and recorder.futures[0].cancelled(), "it is cancelled")


def test_what_it_has_begun_is_an_orphan(bridge: sidecar.Sidecar, recorder: Recorder) -> None:
    future = bridge.run_cpu.future(work.add, 1)
    wait_for(lambda: recorder.futures, "it is submitted")
    recorder.futures[0].set_running_or_notify_cancel()
    assert future.cancel() and bridge.stats()["cpu_orphans"] == 1
    recorder.futures[0].set_result(b"whatever")
    wait_for(lambda: bridge.stats()["cpu_orphans"] == 0, "it has ended")


def test_one_cancelled_by_others(bridge: sidecar.Sidecar, recorder: Recorder) -> None:
    future = bridge.run_cpu.future(work.add, 1)
    wait_for(lambda: recorder.futures, "it is submitted")
    recorder.futures[0].cancel()
    recorder.futures[0].set_running_or_notify_cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(30)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ModuleNotFoundError("No module named 'sidecar'", name="sidecar"), sidecar.CpuEngineError, "not installed"),
        (concurrent.futures.BrokenExecutor("broken"), sidecar.CpuWorkerDied, "the executor broke"),
        (OSError("its own"), OSError, "its own"),
    ],
    ids=["not installed", "broken", "other"],
)
def test_the_executors_own_errors(
    bridge: sidecar.Sidecar, recorder: Recorder, error: Exception, kind: Any, text: str
) -> None:
    future = bridge.run_cpu.future(work.add, 1)
    wait_for(lambda: recorder.futures, "it is submitted")
    recorder.futures[0].set_exception(error)
    with pytest.raises(kind, match=text):
        future.result(30)


def test_a_submit_that_fails(recorder: Recorder) -> None:
    class Broken(Recorder):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("announced")

    with sidecar.Sidecar(cpu=Broken(), cpu_workers=1) as bridge:
        for _ in range(5):
            with pytest.raises(RuntimeError, match="announced"):
                bridge.run_cpu(work.add, 1)


def test_it_is_its_owners_to_shut_down(recorder: Recorder) -> None:
    with sidecar.Sidecar(cpu=recorder) as bridge:
        bridge.run_cpu.future(work.add, 1).cancel()
    assert not recorder.ended


@pytest.mark.parametrize("max_queue", [0, 1])
@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "processes"])
def test_full(engine: str, max_queue: int, tmp_path: Path) -> None:
    check_full(engine, max_queue, tmp_path)


def test_workers_of_a_pool_are_seen() -> None:
    with concurrent.futures.ThreadPoolExecutor(3) as pool, sidecar.Sidecar(cpu=pool) as bridge:
        bridge.run_cpu(work.add, 1)
        assert bridge.stats()["cpu_workers"] == 3 and bridge.stats()["cpu"] == "executor"
        assert "ThreadPoolExecutor" in bridge.stats()["cpu_reason"]


def test_a_child_of_a_fork_is_told(tmp_path: Path) -> None:
    with warnings.catch_warnings(), concurrent.futures.ThreadPoolExecutor(1) as pool:
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: a fork among threads
        unused = concurrent.futures.ThreadPoolExecutor(1)
        used, fresh = sidecar.Sidecar(cpu=pool), sidecar.Sidecar(cpu=unused)
        assert used.run_cpu(work.add, 1) == 1
        pid = os.fork()
        if not pid:
            status = 1
            try:
                assert fresh.run_cpu(work.add, 2) == 2
                try:
                    used.run_cpu(work.add, 1)
                except sidecar.CpuEngineError as error:
                    status = 7 if "before this one was forked" in str(error) else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert used.run_cpu(work.add, 1) == 1
        assert used.shutdown() and fresh.shutdown()
        unused.shutdown()


# -- call_any ---------------------------------------------------------------------------


def test_call_any_sends_the_envelope(recorder: Recorder) -> None:
    async def main() -> Any:
        task = asyncio.ensure_future(call_any(work.look, executor=recorder))
        while not recorder.given:
            await asyncio.sleep(0.001)
        recorder.run(0)
        return await task

    def view() -> Any:
        return sidecar.run_sync(main()), sidecar.current()

    seen, request = call(view)
    assert seen["id"] == request.id and seen["span_id"] != request.span_id
    assert threading.get_ident() not in recorder.threads


def test_call_any_sends_none_outside(recorder: Recorder) -> None:
    async def main() -> Any:
        task = asyncio.ensure_future(call_any(work.add, 1, executor=recorder))
        while not recorder.given:
            await asyncio.sleep(0.001)
        recorder.run(0)
        return await task

    assert sidecar.run_sync(main()) == 1
    assert recorder.given[0][0].func is work.add, "the bare call"


def test_call_any_on_processes() -> None:
    context = __import__("multiprocessing").get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:

        async def main() -> Any:
            return await call_any(work.look, executor=pool)

        seen, request = call(lambda: (sidecar.run_sync(main()), sidecar.current()))
        assert seen["id"] == request.id


def test_call_any_that_is_cancelled_cancels(recorder: Recorder) -> None:
    recorder.gate.clear()

    async def main() -> None:
        task = asyncio.ensure_future(call_any(work.add, 1, executor=recorder))
        while not recorder.threads:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    sidecar.run_sync(main())
    recorder.gate.set()
    wait_for(lambda: recorder.futures and recorder.futures[0].cancelled(), "what came late is cancelled")


# -- what cpu= takes ------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["thread", "", "dask://", "dask://host", "dask://host:0", "dask://host:99999"])
def test_wrong_texts(wrong: str) -> None:
    with pytest.raises(ValueError, match="cpu must"):
        sidecar.Sidecar(cpu=wrong)


@pytest.mark.parametrize("wrong", [None, 7, b"threads", concurrent.futures.ThreadPoolExecutor])
def test_wrong_kinds(wrong: Any) -> None:
    with pytest.raises(TypeError, match="cpu must"):
        sidecar.Sidecar(cpu=wrong)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "2"])
def test_wrong_counts(wrong: Any) -> None:
    with pytest.raises(ValueError, match="cpu_workers must be a whole number from 1 on"):
        sidecar.Sidecar(cpu_workers=wrong)


def test_dask_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with sidecar.Sidecar(cpu="dask://localhost:8786") as bridge:
        assert bridge.stats()["cpu"] == "dask"
        with pytest.raises(sidecar.CpuEngineError, match="pip install distributed"):
            bridge.run_cpu(work.add, 1)


def test_an_orphan_of_a_thread_pool(tmp_path: Path) -> None:
    with bridge_on("executor", 1) as bridge:
        future = bridge.run_cpu.future(work.begin_and_wait, str(tmp_path))
        begun(tmp_path)
        assert future.cancel() and bridge.stats()["cpu_orphans"] == 1
        go(tmp_path)
        wait_for(lambda: bridge.stats()["cpu_orphans"] == 0, "it has ended")
