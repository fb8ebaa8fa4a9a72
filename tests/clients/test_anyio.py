"""anyio on a kept bridge: what it keeps for each loop lasts, and its scopes and streams work across calls."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import pytest
from clients.load import THREADS, request_id, storm
from harness import native_threads

import sidecar

anyio = pytest.importorskip("anyio", reason="anyio is not installed")
pytest.importorskip("anyio.to_thread")
pytest.importorskip("anyio.from_thread")


def test_one_worker_thread_serves_call_after_call(bridge: sidecar.Sidecar) -> None:
    workers = {bridge.run_sync(anyio.to_thread.run_sync(threading.get_ident)) for _ in range(100)}
    assert len(workers) == 1 and threading.get_ident() not in workers
    threads = native_threads()
    for _ in range(100):
        assert bridge.run_sync(anyio.to_thread.run_sync(threading.get_ident)) in workers
    assert native_threads() == threads


def test_worker_threads_are_kept_under_load(bridge: sidecar.Sidecar) -> None:
    workers: set[int] = set()

    def blocking(number: int) -> tuple[int, str]:
        workers.add(threading.get_ident())
        return number, request_id.get()

    async def work(number: int) -> int:
        answer, id = await anyio.to_thread.run_sync(blocking, number)
        assert id == request_id.get()
        return int(answer)

    storm(bridge, work, calls=300)
    # At most one for each call at a time.
    assert 1 <= len(workers) <= THREADS + 1


def test_the_default_limiter_is_one_for_all_calls(bridge: sidecar.Sidecar) -> None:
    limiters: set[int] = set()

    async def work(number: int) -> int:
        limiters.add(id(anyio.to_thread.current_default_thread_limiter()))
        return number

    storm(bridge, work, calls=50)
    assert limiters == {id(bridge.run_sync(default_limiter()))}


async def default_limiter() -> Any:
    return anyio.to_thread.current_default_thread_limiter()


def test_a_lock_is_shared_by_all_calls(bridge: sidecar.Sidecar) -> None:
    """It is held while a worker thread blocks; whoever waits for it is another call's."""
    inside = []

    def blocking(number: int) -> int:
        inside.append(number)
        assert len(inside) == 1
        time.sleep(0.0002)
        inside.remove(number)
        return number

    async def make() -> Any:
        return anyio.Lock()

    lock = bridge.run_sync(make())

    async def work(number: int) -> int:
        async with lock:
            answer: int = await anyio.to_thread.run_sync(blocking, number)
            return answer

    async def hang(number: int) -> None:
        async with lock:
            await anyio.sleep_forever()

    storm(bridge, work, calls=40, impatient=hang, timeout=0.005)
    assert not lock.locked()


def test_a_worker_calls_back_into_the_loop(bridge: sidecar.Sidecar) -> None:
    async def on_the_loop(number: int) -> int:
        await anyio.sleep(0)
        return number * 2

    def blocking(number: int) -> int:
        doubled: int = anyio.from_thread.run(on_the_loop, number)
        half: int = anyio.from_thread.run_sync(lambda: doubled // 2)
        return half

    async def work(number: int) -> int:
        answer: int = await anyio.to_thread.run_sync(blocking, number)
        return answer

    storm(bridge, work, calls=100)


def test_scopes_end_what_is_in_them(bridge: sidecar.Sidecar) -> None:
    cleaned = []

    async def work(number: int) -> int:
        with anyio.move_on_after(0.001) as scope:
            try:
                await anyio.sleep_forever()
            finally:
                cleaned.append(number)
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError), anyio.fail_after(0.001):
            await anyio.sleep_forever()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0)
        return number

    async def hang(number: int) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            with anyio.fail_after(60):
                await anyio.sleep_forever()

    done = storm(bridge, work, calls=60, impatient=hang)
    assert len(cleaned) == done.answered


def test_task_groups(bridge: sidecar.Sidecar) -> None:
    async def work(number: int) -> int:
        seen: list[tuple[int, str]] = []

        async def child(share: int) -> None:
            await anyio.sleep(0)
            seen.append((share, request_id.get()))

        async with anyio.create_task_group() as group:
            for share in range(5):
                group.start_soon(child, share)
        assert sorted(seen) == [(share, request_id.get()) for share in range(5)]
        return number

    async def fail(number: int) -> None:
        async def child() -> None:
            raise KeyError(number)

        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            group.start_soon(child)

    storm(bridge, work, calls=100)
    with pytest.raises(Exception) as caught:
        bridge.run_sync(fail(7), timeout=10)
    errors = getattr(caught.value, "exceptions", (caught.value,))
    assert [type(error) for error in errors] == [KeyError]


def test_a_stream_goes_from_call_to_call(bridge: sidecar.Sidecar) -> None:
    """Some threads send, the others receive: no item is lost, none comes twice."""

    async def open_stream() -> Any:
        return anyio.create_memory_object_stream(math.inf)

    sender, receiver = bridge.run_sync(open_stream())
    lock, sent, received = threading.Lock(), [], []

    async def work(number: int) -> int:
        if number % 2:
            await sender.send(number)
            sent.append(number)
        else:
            with anyio.move_on_after(0.0005):
                item = await receiver.receive()
                with lock:
                    received.append(item)
        return number

    storm(bridge, work, calls=200)

    async def drain() -> None:
        await sender.aclose()
        async for item in receiver:
            received.append(item)
        await receiver.aclose()

    bridge.run_sync(drain(), timeout=10)
    assert len(sent) > 900 and sorted(received) == sorted(sent)
