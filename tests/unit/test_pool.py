"""sidecar._core.Pool: the worker pool behind to-thread calls."""

from __future__ import annotations

import concurrent.futures
import contextvars
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar import _core

VAR: contextvars.ContextVar[str] = contextvars.ContextVar("VAR", default="unset")
LONG = 20.0


class WorkerPool(_core.Pool, concurrent.futures.Executor):
    """As the bridge uses it."""


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.001)


def thread_names() -> list[str]:
    names = []
    for task in Path("/proc/self/task").iterdir():
        try:
            names.append((task / "comm").read_text().strip())
        except OSError:  # it ended while we looked
            pass
    return names


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2, "testpool") as made:
        yield made


class Gate:
    """A job that tells that it runs, and goes on when it is told to."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.released = threading.Event()

    def __call__(self) -> str:
        self.running.set()
        assert self.released.wait(LONG)
        return "through"


def test_result_and_arguments(pool: WorkerPool) -> None:
    def echo(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs

    assert pool.submit(echo).result(LONG) == ((), {})
    assert pool.submit(echo, 1, "b", None).result(LONG) == ((1, "b", None), {})
    future = pool.submit(echo, 1, self=2, fn=3)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(LONG) == ((1,), {"self": 2, "fn": 3})


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_every_exception_arrives_with_its_traceback(pool: WorkerPool, error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        pool.submit(fail).result(LONG)
    assert caught.value is error
    assert caught.traceback[-1].name == "fail"
    assert pool.submit(int, "7").result(LONG) == 7


def test_map_and_wait_come_from_the_executor(pool: WorkerPool) -> None:
    assert list(pool.map(lambda x: x * x, range(20))) == [x * x for x in range(20)]
    done, pending = concurrent.futures.wait([pool.submit(len, "abc") for _ in range(9)], LONG)
    assert len(done) == 9 and not pending


def test_threads_start_on_demand_and_are_reused() -> None:
    with WorkerPool(3, "ondemand") as pool:
        assert (pool.threads, pool.idle, pool.queued) == (0, 0, 0)
        idents = set()
        for _ in range(20):
            idents.add(pool.submit(threading.get_ident).result(LONG))
            wait_until(lambda: pool.idle == pool.threads, "all threads idle")
        assert len(idents) == 1 and pool.threads == 1


def test_no_more_threads_than_workers() -> None:
    with WorkerPool(3, "three") as pool:
        gates = [Gate() for _ in range(8)]
        futures = [pool.submit(gate) for gate in gates]
        wait_until(lambda: pool.queued == 5, "three jobs taken")
        assert pool.threads == 3
        assert [gate.running.wait(LONG) for gate in gates[:3]] == [True] * 3
        assert not any(gate.running.is_set() for gate in gates[3:])
        for gate in gates:
            gate.released.set()
        assert [future.result(LONG) for future in futures] == ["through"] * 8
    assert pool.threads == 0


def test_jobs_run_in_the_order_they_came() -> None:
    seen: list[int] = []
    with WorkerPool(1, "order") as pool:
        for number in range(200):
            pool.submit(seen.append, number)
    assert seen == list(range(200))


def test_names_show_outside_and_inside() -> None:
    with WorkerPool(2, "a-very-long-pool-name") as pool:
        gates = [Gate(), Gate()]
        futures = [pool.submit(gate) for gate in gates]
        assert all(gate.running.wait(LONG) for gate in gates)
        shown = [name for name in thread_names() if name.startswith("a-very-long-p")]
        assert sorted(shown) == ["a-very-long-p-0", "a-very-long-p-1"]
        for gate in gates:
            gate.released.set()
        concurrent.futures.wait(futures, LONG)
        inside = pool.submit(lambda: threading.current_thread().name).result(LONG)
        assert inside in shown
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("a-very-long-p")]


def test_threads_block_all_signals(pool: WorkerPool) -> None:
    blocked = pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result(LONG)
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM} <= blocked


def test_each_job_has_a_copy_of_its_submitters_context(pool: WorkerPool) -> None:
    def change(value: str) -> str:
        before = VAR.get()
        VAR.set(value)
        return before

    def submit_from(value: str) -> concurrent.futures.Future[str]:
        VAR.set(value)
        return pool.submit(change, "changed in the pool")

    futures = [contextvars.copy_context().run(submit_from, f"request {n}") for n in range(50)]
    assert [future.result(LONG) for future in futures] == [f"request {n}" for n in range(50)]
    assert VAR.get() == "unset"


def test_done_callbacks_run_in_the_threads_own_empty_context() -> None:
    def with_leak() -> list[str]:
        VAR.set("the first submitter's")
        seen: list[str] = []
        gate = Gate()
        with WorkerPool(1, "empty") as pool:
            future = pool.submit(gate)
            future.add_done_callback(lambda _: seen.append(VAR.get()))
            gate.released.set()
        return seen

    assert contextvars.copy_context().run(with_leak) == ["unset"]


def test_a_cancelled_job_never_runs() -> None:
    with WorkerPool(1, "cancel") as pool:
        gate, ran = Gate(), threading.Event()
        first = pool.submit(gate)
        assert gate.running.wait(LONG)
        second = pool.submit(ran.set)
        assert not first.cancel()
        assert second.cancel()
        gate.released.set()
        assert pool.submit(lambda: "next").result(LONG) == "next"
        assert not ran.is_set()
        done, _ = concurrent.futures.wait([first, second], LONG)
        assert done == {first, second}


def test_arguments_are_gone_when_the_result_is_there(pool: WorkerPool) -> None:
    class Thing:
        pass

    thing = Thing()
    ref = weakref.ref(thing)
    future = pool.submit(id, thing)
    del thing
    future.result(LONG)
    assert ref() is None


def test_shutdown_runs_what_is_queued_and_refuses_more() -> None:
    pool = WorkerPool(1, "closing")
    gate = Gate()
    pool.submit(gate)
    later = pool.submit(lambda: "later")
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError, match=r"cannot schedule new futures after shutdown of pool 'closing'"):
        pool.submit(int)
    gate.released.set()
    assert later.result(LONG) == "later"
    pool.shutdown()
    assert pool.threads == 0
    pool.shutdown()


def test_shutdown_with_cancel_futures_tells_whoever_waits() -> None:
    pool = WorkerPool(1, "closing")
    gate = Gate()
    running = pool.submit(gate)
    assert gate.running.wait(LONG)
    queued = [pool.submit(int) for _ in range(5)]
    pool.shutdown(wait=False, cancel_futures=True)
    done, _ = concurrent.futures.wait(queued, LONG)
    assert len(done) == 5 and all(future.cancelled() for future in queued)
    gate.released.set()
    assert running.result(LONG) == "through"
    pool.shutdown()


def test_stop_counts_the_stuck_and_can_be_called_again() -> None:
    pool = WorkerPool(3, "stuck")
    gates = [Gate(), Gate()]
    for gate in gates:
        pool.submit(gate)
        assert gate.running.wait(LONG)
    queued = [pool.submit(int, "5") for _ in range(3)]
    concurrent.futures.wait(queued, LONG)
    assert pool.threads == 3
    assert len(pool.stop(0.05)) == 2
    assert len(pool.stop(0)) == 2
    for gate in gates:
        gate.released.set()
    assert pool.stop(LONG) == []
    assert pool.threads == 0


def test_a_signal_handler_interrupts_the_wait() -> None:
    class Alarm(Exception):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    pool, gate = WorkerPool(1, "alarm"), Gate()
    pool.submit(gate)
    assert gate.running.wait(LONG)
    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Alarm):
            pool.shutdown()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gate.released.set()
    pool.shutdown()
    assert pool.threads == 0


def test_a_pool_does_not_wait_for_itself() -> None:
    pool = WorkerPool(1, "ouroboros")
    with pytest.raises(RuntimeError, match="pool 'ouroboros' cannot wait for itself"):
        pool.submit(pool.shutdown).result(LONG)
    pool.shutdown()


def test_the_queue_is_bounded() -> None:
    pool, gate = WorkerPool(1, "small", room=2), Gate()
    pool.submit(gate)
    assert gate.running.wait(LONG)
    kept = [pool.submit(lambda: "kept") for _ in range(2)]
    with pytest.raises(RuntimeError, match="pool 'small' is full: 2 jobs wait"):
        pool.submit(int)
    gate.released.set()
    assert [future.result(LONG) for future in kept] == ["kept", "kept"]
    pool.shutdown()


def test_a_dropped_pool_ends_its_threads_after_the_queue() -> None:
    gate = Gate()
    pool = WorkerPool(1, "dropped")
    pool.submit(gate)
    assert gate.running.wait(LONG)
    last = pool.submit(lambda: "last")
    del pool
    gc.collect()
    gate.released.set()
    assert last.result(LONG) == "last"
    wait_until(lambda: "dropped-0" not in thread_names(), "the thread is gone")


def test_a_pool_that_its_own_job_drops() -> None:
    holder = [WorkerPool(1, "selfdrop")]
    future = holder[0].submit(holder.clear)
    assert future.result(LONG) is None
    wait_until(lambda: "selfdrop-0" not in thread_names(), "the thread is gone")


@pytest.mark.parametrize(
    ("args", "error", "words"),
    [
        ((0, "x"), ValueError, "workers must be from 1 to 1024, not 0"),
        ((1025, "x"), ValueError, "workers must be from 1 to 1024, not 1025"),
        ((1, "x", -1), ValueError, "room must be 0 jobs or more, not -1"),
        ((1, 5), TypeError, "str, not int"),
        (("1", "x"), TypeError, "str"),
        ((), TypeError, "workers"),
    ],
)
def test_bad_sizes_are_refused(args: tuple[Any, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        WorkerPool(*args)


def test_bad_calls_are_refused(pool: WorkerPool) -> None:
    with pytest.raises(TypeError, match="needs a callable$"):
        pool.submit()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="needs a callable, not 5"):
        pool.submit(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0 or more seconds, not -1"):
        pool.stop(-1)
    with pytest.raises(ValueError, match="0 or more seconds, not nan"):
        pool.stop(float("nan"))
    with pytest.raises(TypeError):
        pool.stop("soon")  # type: ignore[arg-type]
    assert pool.submit(int).result(LONG) == 0


def test_repr_tells_what_it_does(pool: WorkerPool) -> None:
    assert repr(pool).endswith("'testpool': 0 of 2 threads, 0 idle, 0 jobs wait>")


def test_many_submitters_at_once() -> None:
    barrier = threading.Barrier(8)
    results: list[int] = []
    lock = threading.Lock()

    def submitter(base: int) -> None:
        barrier.wait(LONG)
        futures = [pool.submit(lambda n: n, base + k) for k in range(200)]
        mine = [future.result(LONG) for future in futures]
        with lock:
            results.extend(mine)

    with WorkerPool(4, "many") as pool:
        threads = [threading.Thread(target=submitter, args=(1000 * n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
    assert sorted(results) == sorted(1000 * n + k for n in range(8) for k in range(200))


def in_child(work: Callable[[], bool]) -> int:
    """Fork, do the work there, and return the child's exit status."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            signal.alarm(int(LONG))  # a child that hangs dies of it
            code = 0 if work() else 71
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
class TestFork:
    def test_a_child_sees_a_fresh_pool(self) -> None:
        with WorkerPool(2, "forked") as pool:
            gate = Gate()
            pool.submit(gate)
            assert gate.running.wait(LONG)
            queued = [pool.submit(lambda: "parent's") for _ in range(3)]

            def child() -> bool:
                fresh = (pool.threads, pool.queued) == (0, 0)
                works = pool.submit(lambda: "child's").result(LONG) == "child's"
                ends = pool.stop(LONG) == []
                return fresh and works and ends

            assert in_child(child) == 0
            gate.released.set()
            assert [future.result(LONG) for future in queued] == ["parent's"] * 3

    def test_a_child_of_a_closed_pool_is_closed(self) -> None:
        pool = WorkerPool(1, "closed")
        pool.submit(int).result(LONG)
        pool.shutdown()

        def child() -> bool:
            with pytest.raises(RuntimeError, match="after shutdown"):
                pool.submit(int)
            pool.shutdown()
            return True

        assert in_child(child) == 0

    def test_a_child_may_drop_the_pool(self) -> None:
        pools = [WorkerPool(1, "dropped")]
        pools[0].submit(int).result(LONG)

        def child() -> bool:
            pools.clear()
            gc.collect()
            return True

        assert in_child(child) == 0
        pools[0].shutdown()

    def test_a_child_made_inside_a_job_ends_with_it(self) -> None:
        with WorkerPool(1, "inside") as pool:
            pid = pool.submit(os.fork).result(LONG)
            # The child comes back from os.fork() on the pool's thread: its job ends, and so does it.
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert status == 0
            assert pool.submit(int, "3").result(LONG) == 3


def test_exit_does_not_wait_for_a_stuck_job(tmp_path: Path) -> None:
    script = tmp_path / "stuck.py"
    script.write_text(
        "import threading\n"
        "from sidecar import _core\n"
        "running = threading.Event()\n"
        "pool = _core.Pool(2, 'stuck')\n"
        "pool.submit(lambda: (running.set(), threading.Event().wait()))\n"
        "running.wait()\n"
        "print('leaving')\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=LONG)
    assert (done.returncode, done.stdout, done.stderr) == (0, "leaving\n", "")
