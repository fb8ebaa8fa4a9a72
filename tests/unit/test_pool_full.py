"""A full queue of the pool: ``QueueFull``, or waiting in turn for room (``queue_wait``)."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import wait_for
from requested import call
from streaming import in_thread

import sidecar
from sidecar import _core
from sidecar._pool import PatientPool, WorkerPool
from sidecar.errors import Overloaded, QueueFull

LONG = 30.0


class Gate:
    """A job that tells that it runs, and goes on when it is told to."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.released = threading.Event()

    def __call__(self) -> str:
        self.running.set()
        assert self.released.wait(LONG)
        return "through"


def seven() -> int:
    return 7


def same(number: int) -> int:
    return number


class Full:
    """A bridge with one thread, which is busy, and as many jobs behind it as may wait."""

    def __init__(self, wait: float, room: int = 2) -> None:
        self.bridge = sidecar.Sidecar(name="full", workers=1, max_queue=room, queue_wait=wait)
        self.gate = Gate()
        self.bridge.submit(self.gate)
        assert self.gate.running.wait(LONG)
        self.queued = [self.bridge.submit(int, number) for number in range(room)]

    @property
    def pool(self) -> WorkerPool:
        return self.bridge._pool

    @property
    def waiting(self) -> int:
        assert self.pool.places is not None
        return self.pool.places.waiting

    def end(self) -> None:
        self.gate.released.set()
        assert [future.result(LONG) for future in self.queued] == list(range(len(self.queued)))
        places = self.pool.places
        if places is not None:
            wait_for(lambda: places.in_use == 0, "no place was lost")
            assert places.waiting == 0
        assert self.bridge.shutdown()


@pytest.fixture
def full() -> Iterator[Callable[..., Full]]:
    made: list[Full] = []

    def make(wait: float, room: int = 2) -> Full:
        made.append(Full(wait, room))
        return made[-1]

    yield make
    for one in made:
        one.end()


def begin(function: Callable[[], Any]) -> Callable[[], Any]:
    """Call it on a thread; what this returns gives the result, or raises."""
    box: list[Any] = []

    def run() -> None:
        try:
            box.append((function(), None))
        except BaseException as error:
            box.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()

    def outcome() -> Any:
        thread.join(LONG)
        assert box, "it still waits"
        result, error = box[0]
        if error is not None:
            raise error
        return result

    return outcome


# -- refused --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["submit", "to_async", "run_in_executor", "pool.submit"])
def test_without_waiting_it_is_queue_full_at_once(full: Callable[..., Full], how: str) -> None:
    one = full(0.0)
    bridge = one.bridge

    async def in_loop() -> Any:
        if how == "to_async":
            return await bridge.to_async(seven)()
        return await asyncio.get_running_loop().run_in_executor(None, int)

    with pytest.raises(
        QueueFull, match=r"pool 'full-work' is full: 2 jobs wait .* \(max_queue\) \[SC\d{4}\]$"
    ) as caught:
        if how == "submit":
            bridge.submit(int)
        elif how == "pool.submit":
            one.pool.submit(int)
        else:
            bridge.run_sync(in_loop(), timeout=LONG)
    assert isinstance(caught.value, Overloaded)
    assert caught.value.limit == "max_queue"
    assert bridge.stats()["refused"] == 1


def test_it_is_answered_with_503(full: Callable[..., Full]) -> None:
    one = full(0.0)
    seen: list[str] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        one.bridge.submit(int)
        return []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        seen.append(status)
        return lambda block: None

    body = sidecar.WSGIMiddleware(app)({}, start_response)
    list(body)
    assert [status.split()[0] for status in seen] == ["503"]


# -- waiting --------------------------------------------------------------------------


def test_a_thread_waits_for_room(full: Callable[..., Full]) -> None:
    one = full(LONG)
    outcome = begin(lambda: one.bridge.submit(int, "7"))
    wait_for(lambda: one.waiting == 1, "it stands in line")
    one.gate.released.set()
    assert outcome().result(LONG) == 7
    assert one.bridge.stats()["refused"] == 0


def test_a_coroutine_waits_and_its_loop_goes_on(full: Callable[..., Full]) -> None:
    one = full(LONG)

    async def waits() -> tuple[Any, int]:
        job = asyncio.ensure_future(one.bridge.to_async(seven)())
        turns = 0
        while one.waiting == 0:
            await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
            turns += 1
        assert not job.done()
        one.gate.released.set()
        return await job, turns

    assert one.bridge.run_sync(waits(), timeout=LONG) == (7, 50)


def test_the_same_on_a_loop_of_asyncio(full: Callable[..., Full]) -> None:
    one = full(LONG)

    async def waits() -> Any:
        job = asyncio.ensure_future(one.bridge.to_async(seven)())
        while one.waiting == 0:
            await asyncio.sleep(0)
        one.gate.released.set()
        return await job

    assert in_thread(asyncio.run, asyncio.wait_for(waits(), LONG)) == 7


def test_threads_and_coroutines_in_one_line(full: Callable[..., Full]) -> None:
    one = full(LONG)
    order: list[int] = []
    outcomes = []

    async def awaits(number: int) -> None:
        await one.bridge.to_async(order.append)(number)

    for number in range(6):
        if number % 2:
            outcomes.append(begin(lambda number=number: one.bridge.run_sync(awaits(number))))  # type: ignore[misc]
        else:
            outcomes.append(begin(lambda number=number: one.bridge.submit(order.append, number)))  # type: ignore[misc]
        wait_for(lambda number=number: one.waiting == number + 1, "it stands in line")  # type: ignore[misc]
    assert one.pool.queued == 2
    one.gate.released.set()
    for outcome in outcomes:
        outcome()
    wait_for(lambda: len(order) == 6, "all have run")
    assert sorted(order) == list(range(6))


@pytest.mark.parametrize("how", ["submit", "to_async"])
def test_the_wait_has_an_end(full: Callable[..., Full], how: str) -> None:
    one = full(0.05)

    async def awaits() -> Any:
        return await one.bridge.to_async(seven)()

    begun = time.monotonic()
    with pytest.raises(QueueFull, match=r"is full: 2 jobs wait .* none of them was begun within 0\.05 s \[SC"):
        if how == "submit":
            one.bridge.submit(int)
        else:
            one.bridge.run_sync(awaits(), timeout=LONG)
    assert 0.04 <= time.monotonic() - begun < LONG
    assert one.bridge.stats()["refused"] == 1
    assert one.waiting == 0


def test_the_deadline_cuts_it_short(full: Callable[..., Full]) -> None:
    one = full(LONG)

    def view() -> Any:
        with pytest.raises(QueueFull):
            one.bridge.submit(int)
        return time.monotonic()

    begun = time.monotonic()
    assert call(view, deadline=0.1) - begun < LONG / 2


def test_nobody_waits_where_a_loop_runs(full: Callable[..., Full]) -> None:
    """Who has the room may need that very loop."""
    one = full(LONG)

    async def submits() -> None:
        with pytest.raises(QueueFull):
            one.bridge.submit(int)
        with pytest.raises(QueueFull):
            await asyncio.get_running_loop().run_in_executor(None, int)

    begun = time.monotonic()
    one.bridge.run_sync(submits(), timeout=LONG)
    assert time.monotonic() - begun < LONG / 2
    assert one.bridge.stats()["refused"] == 2


def test_where_there_is_room_nobody_notices() -> None:
    with sidecar.Sidecar(name="roomy", workers=2, max_queue=3, queue_wait=LONG) as bridge:

        async def many() -> list[int]:
            loop = asyncio.get_running_loop()
            begun = [bridge.to_async(same)(number) for number in range(50)]
            first = await loop.run_in_executor(None, int)
            return [first, *await asyncio.gather(*begun)]

        assert bridge.run_sync(many(), timeout=LONG) == [0, *range(50)]
        assert [bridge.submit(int, n).result(LONG) for n in range(50)] == list(range(50))
        with pytest.raises(TypeError, match="must be callable"):
            bridge._pool.call(None, 5)
        assert bridge._pool.places is not None
        assert bridge._pool.places.in_use == 0


# -- leaving --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancel", "timeout", "drop"])
def test_who_leaves_the_line_has_no_place(full: Callable[..., Full], how: str) -> None:
    one = full(LONG)

    async def leaves() -> None:
        work = one.bridge.to_async(seven)()
        if how == "timeout":
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(work, 0.02)
        elif how == "cancel":
            task = asyncio.ensure_future(work)
            while one.waiting == 0:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            work.send(None)
            assert one.waiting == 1
            work.close()

    one.bridge.run_sync(leaves(), timeout=LONG)
    assert one.waiting == 0


def test_a_job_that_is_cancelled_in_the_queue_gives_its_place_back(full: Callable[..., Full]) -> None:
    one = full(LONG)
    outcome = begin(lambda: one.bridge.submit(int, "8"))
    wait_for(lambda: one.waiting == 1, "it stands in line")
    assert one.queued.pop().cancel()
    one.gate.released.set()
    assert outcome().result(LONG) == 8


def test_shutdown_ends_the_wait() -> None:
    one = Full(LONG)
    outcome = begin(lambda: one.bridge.submit(int, "8"))
    wait_for(lambda: one.waiting == 1, "it stands in line")
    assert not one.bridge.shutdown(timeout=0.05)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        outcome()
    assert all(future.cancelled() for future in one.queued)
    one.gate.released.set()


# -- under load -----------------------------------------------------------------------


def test_many_of_them_and_no_place_is_lost() -> None:
    most = 0

    with sidecar.Sidecar(name="load", workers=2, max_queue=4, queue_wait=LONG) as bridge:
        pool = bridge.start()._pool

        def job(number: int) -> int:
            nonlocal most
            most = max(most, pool.queued)
            return number

        async def awaits(base: int) -> list[int]:
            work = [bridge.to_async(job)(base + number) for number in range(100)]
            return list(await asyncio.gather(*work))

        def submits(base: int) -> list[int]:
            futures = [bridge.submit(job, base + number) for number in range(100)]
            return [future.result(LONG) for future in futures]

        outcomes = [begin(lambda base=base: submits(base)) for base in (0, 100, 200)]  # type: ignore[misc]
        outcomes += [begin(lambda base=base: bridge.run_sync(awaits(base))) for base in (300, 400)]  # type: ignore[misc]
        assert sorted(number for outcome in outcomes for number in outcome()) == list(range(500))
        assert pool.places is not None
        assert (pool.places.in_use, pool.places.waiting, bridge.stats()["refused"]) == (0, 0, 0)
    assert most <= 4


# -- options --------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [-1, float("inf"), float("nan")])
def test_bad_waits_are_refused(wait: float) -> None:
    with pytest.raises(ValueError, match="queue_wait must be a number of seconds"):
        sidecar.Sidecar(queue_wait=wait)


def test_nobody_can_wait_where_nothing_may() -> None:
    with pytest.raises(ValueError, match="queue_wait: nobody can wait for room where max_queue is 0"):
        sidecar.Sidecar(max_queue=0, queue_wait=1)


def test_places_are_the_pools() -> None:
    with pytest.raises(TypeError, match="places must be Places, or None, not 5"):
        _core.Pool(1, "x", 2, 5)  # type: ignore[arg-type]
    pool = _core.Pool(1, "x", 2)
    assert pool.places is None
    with pytest.raises(RuntimeError, match="has no places"):
        pool.call_placed(None, int)
    assert isinstance(PatientPool(1, "y", 2, 1.0).places, _core.Places)
