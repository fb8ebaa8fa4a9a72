"""What ``sidecar.compat.anyio`` promises beyond what anyio's own tests ask for."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from harness import native_threads, open_descriptors, wait_for
from requested import call as call_in_request

import sidecar
from sidecar.compat.anyio import BlockingPortal, BlockingPortalProvider, start_blocking_portal
from sidecar.compat.anyio.from_thread import check_cancelled, run, run_sync

NOT_RUNNING = "This portal is not running"


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


async def add(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


def in_new_process(code: str) -> None:
    """For what depends on anyio not being imported; other tests of this process may have done that."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# -- alone, and with anyio --


def test_it_needs_no_anyio() -> None:
    in_new_process("""
        import asyncio, sys, threading
        sys.modules["anyio"] = None  # importing it fails
        from sidecar.compat.anyio import start_blocking_portal
        from sidecar.compat.anyio.from_thread import run

        async def ready(*, task_status):
            task_status.started("up")
            return "down"

        async def stubborn(begun):
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.001)  # asyncio cancels once: a cleanup may wait
                seen.append("cleaned")

        seen = []
        with start_blocking_portal() as portal:
            assert portal.call(asyncio.sleep, 0, "slept") == "slept"
            future, value = portal.start_task(ready)
            assert (value, future.result()) == ("up", "down")
            begun = threading.Event()
            future = portal.start_task_soon(stubborn, begun)
            assert begun.wait(20) and future.cancel()
        assert seen == ["cleaned"]
        try:
            run(asyncio.sleep, 0)
        except RuntimeError as error:
            assert "Not running inside an AnyIO worker thread" in str(error)
        else:
            raise AssertionError
    """)


def test_the_rest_of_anyio_is_there_in_a_portal(portal: BlockingPortal) -> None:
    anyio = pytest.importorskip("anyio")
    waits: list[str] = []

    async def stubborn(begun: threading.Event) -> None:
        begun.set()
        for _ in range(3):
            try:
                await anyio.sleep(60)
            except asyncio.CancelledError:
                waits.append("cancelled")
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.001)
            waits.append("shielded")

    async def group() -> int:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(add, 1, 2)
        with anyio.move_on_after(0.001) as scope:
            await anyio.sleep(60)
        return int(scope.cancelled_caught) + await anyio.to_thread.run_sync(run, add, 1, 2)

    assert portal.call(group) == 4
    begun = threading.Event()
    future = portal.start_task_soon(stubborn, begun)
    assert begun.wait(20)
    future.cancel()
    wait_for(lambda: len(waits) == 4, "the task's end")
    assert waits == ["cancelled"] * 3 + ["shielded"]  # anyio cancels each wait, but not under a shield


def test_it_may_stand_in_the_place_of_anyios_own() -> None:
    pytest.importorskip("anyio")
    in_new_process("""
        import sys
        import anyio, sidecar.compat.anyio.from_thread as ours
        sys.modules["anyio.from_thread"] = anyio.from_thread = ours
        from anyio.from_thread import run_sync, start_blocking_portal

        async def worker():
            return await anyio.to_thread.run_sync(run_sync, len, "abc")

        assert start_blocking_portal is ours.start_blocking_portal and run_sync is ours.run_sync
        with start_blocking_portal() as portal:
            assert portal.call(worker) == 3
    """)


def test_another_backend_is_refused_with_where_it_is() -> None:
    with pytest.raises(LookupError, match=r"No such backend: trio.*anyio\.from_thread"):
        start_blocking_portal("trio").__enter__()
    with pytest.raises(LookupError, match="^'?No such backend: curio'?$"):
        start_blocking_portal("curio").__enter__()


def test_threads_that_are_not_anyios() -> None:
    for function in run, run_sync:
        with pytest.raises(RuntimeError, match="Not running inside an AnyIO worker thread"):
            function(add, 1, 2)
    with pytest.raises(RuntimeError, match="can only be called inside an AnyIO worker thread"):
        check_cancelled()


# -- where it runs --


def test_its_loop_is_a_bridges(portal: BlockingPortal) -> None:
    assert portal.call(asyncio.get_running_loop).__class__.__module__ == "sidecar._loop"


def test_its_own_thread_runs_all(portal: BlockingPortal) -> None:
    found = set()

    async def where() -> int:
        await asyncio.sleep(0.001)
        return threading.get_ident()

    def user() -> None:
        for _ in range(20):
            found.add(portal.call(where))

    threads = [threading.Thread(target=user) for _ in range(4)]
    for thread in threads:
        thread.start()
    user()
    for thread in threads:
        thread.join()
    assert len(found) == 1 and threading.get_ident() not in found


def test_a_tracer_sees_what_runs_there() -> None:
    seen = set()

    def tracer(frame: Any, event: str, argument: object) -> Any:
        seen.add(frame.f_code.co_name)

    async def traced() -> str:
        await asyncio.sleep(0.001)
        return threading.current_thread().name

    before = threading._trace_hook  # type: ignore[attr-defined]
    threading.settrace(tracer)
    try:
        with start_blocking_portal(name="traced") as portal:
            assert [portal.call(traced), portal.start_task_soon(traced).result()] == ["traced"] * 2
    finally:
        threading.settrace(before)
    assert "traced" in seen


def test_the_request_crosses_and_the_openers_does_not(portal: BlockingPortal) -> None:
    def request_id() -> str | None:
        request = sidecar.current()
        return None if request is None else request.id

    async def async_id() -> str | None:
        return request_id()

    def application() -> None:
        mine = request_id()
        assert mine is not None
        assert portal.call(async_id) == portal.call(request_id) == mine
        assert portal.start_task_soon(async_id).result() == mine
        with start_blocking_portal() as opened:
            loop: Any = opened._loop
            told: concurrent.futures.Future[str | None] = concurrent.futures.Future()
            loop.call_soon_threadsafe(lambda: told.set_result(request_id()), context=contextvars.Context())
            assert told.result(20) is None

    call_in_request(application)
    assert portal.call(async_id) is None


# -- how calls end --


def test_the_end_of_the_process_in_a_coroutine_is_its_callers(portal: BlockingPortal) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        portal.call(leave)
    assert isinstance(portal.start_task_soon(leave).exception(), SystemExit)
    assert portal.call(add, 1, 2) == 3


@pytest.mark.parametrize("foreign", [False, True], ids=["bridge", "loop"])
def test_a_signal_handler_that_raises_cancels_the_call(foreign: bool) -> None:
    raised, cleaned = threading.Event(), threading.Event()

    class Alarm(Exception):
        pass

    def handler(number: int, frame: object) -> None:
        if not raised.is_set():
            raised.set()
            raise Alarm

    async def slow() -> None:
        try:
            # A signal that comes just before the main thread sleeps on a lock wakes nobody: the next one does.
            while not raised.is_set():
                os.kill(os.getpid(), signal.SIGUSR1)
                await asyncio.sleep(0.05)
            await asyncio.sleep(60)
        finally:
            cleaned.set()

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        options = {"loop_factory": asyncio.new_event_loop} if foreign else None
        with start_blocking_portal("asyncio", options) as portal:
            with pytest.raises(Alarm):
                portal.call(slow)
            assert cleaned.wait(20)
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("foreign", [False, True], ids=["bridge", "loop"])
def test_calls_that_race_with_the_end_do_not_hang(foreign: bool) -> None:
    outcomes: list[str] = []

    def user(portal: BlockingPortal, begun: threading.Event) -> None:
        while True:
            try:
                assert portal.call(add, 1, 2) == portal.start_task_soon(add, 1, 2).result() == 3
            except RuntimeError as error:
                outcomes.append(str(error))
                return
            begun.set()

    options = {"loop_factory": asyncio.new_event_loop} if foreign else None
    for _ in range(10):
        with start_blocking_portal("asyncio", options) as portal:
            events = [threading.Event() for _ in range(4)]
            threads = [threading.Thread(target=user, args=(portal, event)) for event in events]
            for thread in threads:
                thread.start()
            assert all(event.wait(20) for event in events)
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
    assert outcomes == [NOT_RUNNING] * 40


def test_a_context_manager_that_ends_with_its_portal_is_told() -> None:
    told: list[str] = []

    @asynccontextmanager
    async def transaction() -> Any:
        try:
            yield "begun"
        except BaseException as error:
            told.append(type(error).__name__)
            raise
        told.append("committed")

    with start_blocking_portal() as portal:
        with portal.wrap_async_context_manager(transaction()) as value:
            assert value == "begun"
        cancelled = pytest.raises(concurrent.futures.CancelledError)
        with cancelled, portal.wrap_async_context_manager(transaction()):
            portal.call(portal.stop, True)
    assert told == ["committed", "CancelledError"]


def test_a_result_is_not_kept(portal: BlockingPortal) -> None:
    class Thing:
        def __del__(self) -> None:
            gone.set()

    gone = threading.Event()

    async def make(thing: Thing) -> None:
        await asyncio.sleep(0)

    portal.start_task_soon(make, Thing()).result()
    portal.call(make, Thing())
    assert gone.wait(20)


# -- its life --


def test_nothing_is_left_of_a_portal() -> None:
    with start_blocking_portal() as portal:
        portal.call(add, 1, 2)
    threads, descriptors = native_threads(), len(open_descriptors())
    for _ in range(20):
        with start_blocking_portal() as portal:
            portal.call(add, 1, 2)
    wait_for(lambda: native_threads() <= threads, "the threads' end")
    assert len(open_descriptors()) <= descriptors


def test_after_a_fork_a_portal_refuses_and_a_provider_begins_anew() -> None:
    provider = BlockingPortalProvider()
    with provider as portal:
        assert portal.call(add, 1, 2) == 3
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with pytest.raises(RuntimeError, match=f"{NOT_RUNNING} in this process"):
                    portal.call(add, 1, 2)
                with provider as fresh:
                    assert fresh is not portal and fresh.call(add, 1, 2) == 3
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert portal.call(add, 1, 2) == 3


def test_a_portal_on_this_threads_loop_serves_other_threads() -> None:
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        async with BlockingPortal() as portal:
            with pytest.raises(RuntimeError, match="cannot be called from the event loop thread"):
                portal.call(len, "")
            results = await asyncio.gather(
                *(loop.run_in_executor(None, portal.call, add, i, i) for i in range(20))
            )
        with pytest.raises(RuntimeError, match=NOT_RUNNING):
            portal.call(len, "")
        return list(results)

    for runner in asyncio.run, sidecar.run_sync:
        assert runner(main()) == [2 * i for i in range(20)]
    sidecar.shutdown()


def test_a_portal_that_nobody_closes_does_not_hold_up_the_exit() -> None:
    in_new_process("""
        import asyncio, atexit
        from sidecar.compat.anyio import start_blocking_portal

        async def busy():
            try:
                await asyncio.sleep(60)
            finally:
                print("cleaned")

        kept = start_blocking_portal()
        portal = kept.__enter__()
        portal.start_task_soon(busy)
        assert portal.call(asyncio.sleep, 0, 1) == 1
    """)


def test_a_signal_handler_that_raises_at_the_end_cancels_what_is_waited_for() -> None:
    raised, begun = threading.Event(), threading.Event()

    class Alarm(Exception):
        pass

    def handler(number: int, frame: object) -> None:
        if not raised.is_set():
            raised.set()
            raise Alarm

    async def slow() -> None:
        begun.set()
        await asyncio.sleep(60)

    def interrupt() -> None:
        wait_for(lambda: not portal._is_open, "the end of the with block")
        while not raised.is_set():
            os.kill(os.getpid(), signal.SIGUSR1)
            raised.wait(0.05)

    before = signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=interrupt)
    try:
        with pytest.raises(Alarm), start_blocking_portal() as portal:
            future = portal.start_task_soon(slow)
            assert begun.wait(20)
            thread.start()
        thread.join()
        assert future.cancelled()
    finally:
        signal.signal(signal.SIGUSR1, before)
