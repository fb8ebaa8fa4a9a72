"""The worker pool's threads: how long they live, what they are in the middle of, who stands in for whom."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import gc
import logging
import os
import re
import signal
import threading
import time
import weakref
from typing import Any

import pytest
from harness import wait_for
from requested import call

import sidecar
from sidecar._pool import WorkerPool

LONG = 30.0
VAR: contextvars.ContextVar[str] = contextvars.ContextVar("VAR", default="unset")


class Gate:
    """A job that tells that it runs, and goes on when it is told to."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.released = threading.Event()

    def __call__(self, *_: object) -> str:
        self.running.set()
        assert self.released.wait(LONG)
        return "through"


def busy(pool: WorkerPool, count: int) -> list[Gate]:
    gates = [Gate() for _ in range(count)]
    for gate in gates:
        pool.submit(gate)
        assert gate.running.wait(LONG)
    return gates


def release(gates: list[Gate]) -> None:
    for gate in gates:
        gate.released.set()


def threads_named(name: str) -> list[str]:
    """As Python's ``threading`` knows them."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(name)]


# -- idle ------------------------------------------------------------------------------


def test_idle_threads_end_and_the_pool_works_on() -> None:
    with WorkerPool(4, "idle") as pool:
        pool.keep(0.005)
        for _ in range(3):
            release(busy(pool, 4))
            wait_for(lambda: pool.threads == 0, "all have ended")
            assert pool.idle == 0 and threads_named("idle") == []
            assert pool.submit(int, "7").result(LONG) == 7


def test_what_a_thread_kept_goes_with_it() -> None:
    class Connection:
        pass

    local = threading.local()

    def connect() -> weakref.ref[Connection]:
        local.connection = Connection()
        return weakref.ref(local.connection)

    with WorkerPool(1, "local") as pool:
        pool.keep(0.005)
        connection = pool.submit(connect).result(LONG)
        wait_for(lambda: pool.threads == 0 and connection() is None, "its connection is closed")


def test_a_minute_is_what_they_are_kept_for() -> None:
    with WorkerPool(2, "kept") as pool:
        release(busy(pool, 2))
        wait_for(lambda: pool.idle == 2, "both are idle")
        time.sleep(0.2)  # nothing to wait for: nothing happens
        assert pool.threads == 2


def test_jobs_and_ends_at_once() -> None:
    """Threads begin and end all the time while jobs come from many threads and a loop."""
    with sidecar.Sidecar(name="ends", workers=3) as bridge:
        bridge.start()
        bridge._pool.keep(0.0)

        async def on_loop() -> int:
            answers = 0
            for number in range(200):
                answers += await bridge.to_async(len)("x")
                if number % 10 == 0:
                    await asyncio.sleep(0.001)
            return answers

        def caller() -> None:
            for number in range(200):
                assert bridge.submit(str, number).result(LONG) == str(number)

        callers = [threading.Thread(target=caller) for _ in range(3)]
        for thread in callers:
            thread.start()
        assert bridge.run_sync(on_loop(), timeout=LONG) == 200
        for thread in callers:
            thread.join(LONG)
            assert not thread.is_alive()
        wait_for(lambda: bridge.stats()["threads"] == 0, "all have ended")


@pytest.mark.parametrize(("seconds", "error"), [(-1, ValueError), (float("nan"), ValueError), ("x", TypeError)])
def test_bad_spans_are_refused(seconds: Any, error: type[Exception]) -> None:
    with WorkerPool(1, "spans") as pool, pytest.raises(error):
        pool.keep(seconds)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_while_threads_come_and_go() -> None:
    with WorkerPool(3, "forks") as pool:
        pool.keep(0.0)
        stop = threading.Event()

        def traffic() -> None:
            while not stop.is_set():
                pool.submit(int).result(LONG)

        submitter = threading.Thread(target=traffic)
        submitter.start()
        statuses = []
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                code = 70
                try:
                    signal.alarm(20)  # a child that hangs dies of it
                    code = 0 if pool.submit(int, "3").result(LONG) == 3 and pool.stop(LONG) == [] else 71
                finally:
                    os._exit(code)
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        stop.set()
        submitter.join(LONG)
    assert statuses == [0] * 10


# -- contexts --------------------------------------------------------------------------


def test_a_thread_starts_in_an_empty_context_whoever_starts_it() -> None:
    """Also one that starts anew after another has ended, and a thread's own context keeps nothing of a job's."""

    def from_a_request() -> list[str]:
        VAR.set("the request's")
        seen: list[str] = []
        with WorkerPool(1, "empty") as pool:
            pool.keep(0.0)
            for _ in range(2):
                gate = Gate()
                future = pool.submit(gate)
                future.add_done_callback(lambda _: seen.append(VAR.get()))
                gate.released.set()
                future.result(LONG)
                wait_for(lambda: pool.threads == 0, "it has ended")
        return seen

    assert contextvars.copy_context().run(from_a_request) == ["unset", "unset"]


# -- what is stuck ---------------------------------------------------------------------


def stubborn(gate: Gate) -> None:
    gate()


class Service:
    def work(self, gate: Gate) -> None:
        gate()


def test_stop_names_what_is_stuck() -> None:
    pool, gates = WorkerPool(6, "stuck"), [Gate() for _ in range(5)]
    pool.submit(stubborn, gates[0])
    pool.submit(Service().work, gates[1])
    pool.submit(functools.partial(functools.partial(stubborn), gates[2]))
    pool.submit(contextvars.copy_context().run, stubborn, gates[3])
    pool.submit(functools.partial(contextvars.copy_context().run, Service().work, gates[4]))
    for gate in gates:
        assert gate.running.wait(LONG)
    pool.submit(int).result(LONG)  # a thread that is idle is not stuck
    said = pool.stop(0.05)
    release(gates)
    names = [text.rpartition(", for ")[0] for text in said]
    assert sorted(names) == ["Service.work", "Service.work", "stubborn", "stubborn", "stubborn"]
    assert all(re.fullmatch(r"\d\.\d s", text.rpartition(", for ")[2]) for text in said), said
    assert pool.stop(LONG) == []


def test_how_long_it_has_run() -> None:
    pool, gate = WorkerPool(1, "long"), Gate()
    pool.submit(gate)
    assert gate.running.wait(LONG)
    (text,) = pool.stop(0.3)
    release([gate])
    seconds = float(text.rpartition(", for ")[2].split()[0])
    assert 0.2 <= seconds < 10
    assert pool.stop(LONG) == []


def test_a_callback_that_is_stuck_is_named_too() -> None:
    pool, gate = WorkerPool(1, "callback"), Gate()
    first = Gate()
    future = pool.submit(first)
    future.add_done_callback(gate)
    release([first])
    assert gate.running.wait(LONG)
    (text,) = pool.running()
    release([gate])
    assert text.startswith("a callback of its future, for ")
    assert pool.stop(LONG) == []


@pytest.mark.parametrize("detach", [False, True])
def test_the_log_names_the_job_and_its_request(caplog: pytest.LogCaptureFixture, detach: bool) -> None:
    gate = Gate()
    bridge = sidecar.Sidecar(name="slow", workers=2)

    def view() -> Any:
        bridge.submit(stubborn, gate, detach=detach)
        assert gate.running.wait(LONG)
        return sidecar.current()

    request = call(view)
    with caplog.at_level(logging.WARNING, "sidecar"):
        assert not bridge.shutdown(timeout=0.2)
    release([gate])
    (record,) = [record for record in caplog.records if "worker pool" in record.getMessage()]
    assert re.search(
        r"shutdown of <sidecar.Sidecar 'slow' .*>: a job in its worker pool did not end in time: "
        rf"stubborn of request {request.id}, for \d\.\d s",
        record.getMessage(),
    )


def test_to_async_and_run_in_executor_are_named() -> None:
    gates = [Gate() for _ in range(3)]

    async def all_of_them() -> list[str]:
        loop = asyncio.get_running_loop()
        begun = [
            loop.run_in_executor(None, stubborn, gates[0]),
            asyncio.ensure_future(asyncio.to_thread(stubborn, gates[1])),
            asyncio.ensure_future(bridge.to_async(stubborn)(gates[2])),
        ]
        while not all(gate.running.is_set() for gate in gates):
            await asyncio.sleep(0.001)
        said = bridge._pool.running()
        release(gates)
        await asyncio.gather(*begun)
        return said

    with sidecar.Sidecar(name="kinds") as bridge:
        said = bridge.run_sync(all_of_them(), timeout=LONG)
    assert [text.rpartition(", for ")[0] for text in said] == ["stubborn"] * 3


def test_it_can_be_asked_for_at_any_time() -> None:
    """While jobs begin and end on all threads: with no GIL nothing else is in the way."""
    stop = threading.Event()

    def traffic() -> None:
        while not stop.is_set():
            pool.submit(functools.partial(time.sleep, 0.0001)).result(LONG)

    with WorkerPool(4, "asked") as pool:
        pool.keep(0.0)
        submitters = [threading.Thread(target=traffic) for _ in range(3)]
        for thread in submitters:
            thread.start()
        said: set[str] = set()

        def ask() -> bool:
            said.update(text.rpartition(", for ")[0] for text in pool.running())
            return "sleep" in said

        wait_for(ask, "a job is seen")
        for _ in range(500):
            ask()
        stop.set()
        for thread in submitters:
            thread.join(LONG)
        assert pool.running() == []
    assert said <= {"sleep", "a callback of its future"}


def test_naming_keeps_nothing() -> None:
    class Thing:
        def work(self, gate: Gate) -> None:
            gate()

    pool, gate = WorkerPool(1, "kept"), Gate()
    thing = Thing()
    ref = weakref.ref(thing)
    future = pool.submit(thing.work, gate)
    del thing
    assert gate.running.wait(LONG)
    assert pool.running()[0].startswith("test_naming_keeps_nothing.<locals>.Thing.work, for ")
    release([gate])
    future.result(LONG)
    gc.collect()
    assert ref() is None
    pool.shutdown()


# -- who stands in ---------------------------------------------------------------------

SPARES = 256


class Blocked:
    """Jobs that block in ``run_sync``, each until it is told to go on."""

    def __init__(self, bridge: sidecar.Sidecar) -> None:
        self.bridge = bridge
        self.waiting: list[asyncio.Future[str]] = []

    async def wait(self) -> str:
        self.waiting.append(asyncio.get_running_loop().create_future())
        return await self.waiting[-1]

    def job(self) -> str:
        return self.bridge.run_sync(self.wait())

    def let_go(self) -> None:
        for future in self.waiting:
            self.bridge.get_loop().call_soon_threadsafe(future.set_result, "went on")


def begin_blocked(bridge: sidecar.Sidecar, count: int) -> tuple[Blocked, list[concurrent.futures.Future[str]]]:
    blocked = Blocked(bridge)
    futures = []
    for number in range(count):
        futures.append(bridge.submit(blocked.job))
        wait_for(lambda number=number: len(blocked.waiting) == number + 1, "it blocks")  # type: ignore[misc]
    return blocked, futures


def test_others_stand_in_for_jobs_that_block() -> None:
    with sidecar.Sidecar(name="blocks", workers=1) as bridge:
        blocked, futures = begin_blocked(bridge, 20)
        assert bridge.submit(int, "5").result(LONG) == 5
        assert bridge.stats()["threads"] == 21
        bridge._pool.keep(0.005)
        blocked.let_go()
        assert [future.result(LONG) for future in futures] == ["went on"] * 20
        # One that lay down before it was told so keeps its minute.
        wait_for(lambda: bridge.stats()["threads"] <= 1, "those that stood in have ended")


def test_the_cap_of_those_that_stand_in() -> None:
    """The job after the last one waits, and the rest of the bridge works; it runs when one goes on."""
    with sidecar.Sidecar(name="cap", workers=1, shutdown_timeout=LONG) as bridge:
        blocked, futures = begin_blocked(bridge, SPARES + 1)
        late = [bridge.submit(int, "5") for _ in range(3)]
        assert bridge.stats()["threads"] == SPARES + 1
        assert bridge.stats()["queued"] == 3
        assert bridge.run_sync(asyncio.sleep(0, "the loop turns")) == "the loop turns"
        with pytest.raises(concurrent.futures.TimeoutError):
            late[0].result(0.05)
        blocked.let_go()
        assert [future.result(LONG) for future in late] == [5] * 3
        assert [future.result(LONG) for future in futures] == ["went on"] * (SPARES + 1)


def test_what_waits_at_the_cap_ends_with_the_bridge(caplog: pytest.LogCaptureFixture) -> None:
    bridge = sidecar.Sidecar(name="capped", workers=1)
    _, futures = begin_blocked(bridge, SPARES + 1)
    late = bridge.submit(int, "5")
    assert bridge.shutdown(timeout=LONG)
    assert late.done()  # cancelled, or run by one that had just come free
    for future in futures:
        with pytest.raises((asyncio.CancelledError, concurrent.futures.CancelledError, sidecar.BridgeClosedError)):
            future.result(LONG)
