"""``submit``: where work runs, its future, its cancellation, its lost errors, and its end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import logging
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
from harness import wait_for

import sidecar
from sidecar import _submit

LONG = 30.0


@pytest.fixture
def bridge() -> Iterator[sidecar.Sidecar]:
    with sidecar.Sidecar(workers=2, name="submits") as bridge:
        yield bridge


async def add(a: int, b: int = 0) -> int:
    await asyncio.sleep(0)
    return a + b


def fail() -> None:
    raise ValueError("from a function")


async def fail_later() -> None:
    await asyncio.sleep(0)
    raise ValueError("from a coroutine")


class Sleeper:
    """A coroutine that says that it runs, and that its cleanup is through."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.running = threading.Event()
        self.cleaned = threading.Event()
        self.error = error

    async def run(self) -> None:
        try:
            self.running.set()
            await asyncio.sleep(LONG)
        finally:
            await asyncio.sleep(0.01)
            self.cleaned.set()
            if self.error is not None:
                raise self.error


class Own:
    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        return "own"


class AsyncCallable:
    async def __call__(self, value: int) -> int:
        await asyncio.sleep(0)
        return value


class TestWhere:
    def test_a_function_runs_on_the_pool(self, bridge: sidecar.Sidecar) -> None:
        def where(*args: int, **kwargs: int) -> tuple[Any, ...]:
            return threading.current_thread().name, asyncio._get_running_loop(), args, kwargs

        future = bridge.submit(where, 1, 2, key=3)
        assert isinstance(future, concurrent.futures.Future)
        name, loop, args, kwargs = future.result(LONG)
        assert name.startswith("submits-work")
        assert (loop, args, kwargs) == (None, (1, 2), {"key": 3})

    @pytest.mark.parametrize("how", ["coroutine", "function", "partial", "callable object", "bound method"])
    def test_a_coroutine_runs_on_the_loop(self, bridge: sidecar.Sidecar, how: str) -> None:
        async def where(value: int) -> tuple[Any, int]:
            await asyncio.sleep(0)
            return asyncio.get_running_loop(), value

        class Holder:
            async def __call__(self, value: int) -> tuple[Any, int]:
                return await where(value)

            async def method(self, value: int) -> tuple[Any, int]:
                return await where(value)

        works: dict[str, Callable[[], tuple[Any, ...]]] = {
            "coroutine": lambda: (where(3),),
            "function": lambda: (where, 3),
            "partial": lambda: (functools.partial(where, 3),),
            "callable object": lambda: (Holder(), 3),
            "bound method": lambda: (Holder().method, 3),
        }
        assert bridge.submit(*works[how]()).result(LONG) == (bridge.get_loop(), 3)

    def test_any_awaitable(self, bridge: sidecar.Sidecar) -> None:
        assert bridge.submit(Own()).result(LONG) == "own"

        async def make() -> asyncio.Future[int]:
            return asyncio.ensure_future(add(1, 2))

        assert bridge.submit(bridge.run_sync(make())).result(LONG) == 3

    def test_from_every_kind_of_thread(self, bridge: sidecar.Sidecar) -> None:
        """In a coroutine of the bridge, of another loop, in a job of the pool."""

        async def inside() -> int:
            return await asyncio.wrap_future(bridge.submit(add, 1, 2))

        assert bridge.run_sync(inside()) == 3
        assert asyncio.run(inside()) == 3
        assert bridge.submit(lambda: bridge.submit(add, 2, 3).result(LONG)).result(LONG) == 5

    @pytest.mark.parametrize("work", [None, 3, "text", [add]])
    def test_what_is_neither(self, bridge: sidecar.Sidecar, work: object) -> None:
        with pytest.raises(TypeError, match="takes a function or an awaitable, not"):
            bridge.submit(work)

    def test_an_awaitable_takes_no_arguments(self, bridge: sidecar.Sidecar) -> None:
        with pytest.raises(TypeError, match="takes no arguments"):
            bridge.submit(add(1), 2)
        gc.collect()

    def test_no_kind_of_function_is_warned_of(self, bridge: sidecar.Sidecar) -> None:
        """Warnings are errors in these tests."""
        assert bridge.submit(len, [1]).result(LONG) == 1
        assert bridge.submit(int).result(LONG) == 0
        assert bridge.submit(AsyncCallable(), 4).result(LONG) == 4


class TestFuture:
    def test_wait_and_as_completed(self, bridge: sidecar.Sidecar) -> None:
        futures = [bridge.submit(add, i) for i in range(10)] + [bridge.submit(pow, i, 1) for i in range(10, 20)]
        done, pending = concurrent.futures.wait(futures, LONG)
        assert len(done) == 20 and not pending
        assert sorted(future.result() for future in concurrent.futures.as_completed(futures, LONG)) == list(range(20))

    def test_wait_of_cancelled_ones_ends_after_their_cleanup(self, bridge: sidecar.Sidecar) -> None:
        sleeper = Sleeper()
        future = bridge.submit(sleeper.run)
        assert sleeper.running.wait(LONG)
        assert future.cancel()
        done, _ = concurrent.futures.wait([future], LONG)
        assert done == {future} and sleeper.cleaned.is_set()

    def test_wrap_future(self, bridge: sidecar.Sidecar) -> None:
        async def main() -> list[Any]:
            return await asyncio.gather(
                asyncio.wrap_future(bridge.submit(add, 1, 2)),
                asyncio.wrap_future(bridge.submit(pow, 2, 3)),
                asyncio.wrap_future(bridge.submit(fail_later)),
                return_exceptions=True,
            )

        three, eight, error = asyncio.run(main())
        assert (three, eight) == (3, 8) and isinstance(error, ValueError)

    def test_a_cancelled_wrapper_cancels_the_coroutine(self, bridge: sidecar.Sidecar) -> None:
        sleeper = Sleeper()

        async def main() -> None:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.wrap_future(bridge.submit(sleeper.run)), 0.05)

        asyncio.run(main())
        assert sleeper.cleaned.wait(LONG)

    def test_callbacks_are_called(self, bridge: sidecar.Sidecar) -> None:
        seen: list[int] = []
        for future in (bridge.submit(add, 1), bridge.submit(pow, 2, 1)):
            future.add_done_callback(lambda future: seen.append(future.result()))
        wait_for(lambda: sorted(seen) == [1, 2], "both callbacks")


class TestCancel:
    def test_a_running_coroutine_and_its_cleanup(self, bridge: sidecar.Sidecar) -> None:
        sleeper = Sleeper()
        future = bridge.submit(sleeper.run)
        assert sleeper.running.wait(LONG)
        assert future.cancel() and future.cancelled()
        with pytest.raises(CancelledError):
            future.result()
        assert sleeper.cleaned.wait(LONG)

    def test_one_that_was_not_begun(self, bridge: sidecar.Sidecar) -> None:
        begun: list[int] = []

        async def note() -> None:
            begun.append(1)

        async def both() -> concurrent.futures.Future[None]:
            future = bridge.submit(note)
            assert future.cancel()  # this coroutine holds the loop
            return future

        future = bridge.run_sync(both())
        assert concurrent.futures.wait([future], LONG).done
        gc.collect()
        assert not begun

    def test_a_function_that_was_not_begun_and_one_that_was(self, bridge: sidecar.Sidecar) -> None:
        go, ran = threading.Event(), []
        busy = [bridge.submit(go.wait, LONG) for _ in range(2)]
        wait_for(lambda: all(future.running() for future in busy), "both workers are busy")
        queued = bridge.submit(ran.append, 1)
        assert queued.cancel()
        assert not busy[0].cancel()
        go.set()
        assert [future.result(LONG) for future in busy] == [True, True]
        bridge.submit(len, []).result(LONG)
        assert not ran

    def test_what_has_ended_cannot_be_cancelled(self, bridge: sidecar.Sidecar) -> None:
        future = bridge.submit(add, 1)
        assert future.result(LONG) == 1
        assert not future.cancel() and future.result() == 1

    def test_a_coroutine_that_cancels_itself(self, bridge: sidecar.Sidecar) -> None:
        async def cancel() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(LONG)

        future = bridge.submit(cancel)
        with pytest.raises(CancelledError):
            future.result(LONG)
        assert future.cancelled()

    def test_one_that_does_not_mind(self, bridge: sidecar.Sidecar) -> None:
        """Its result comes too late; the future stays cancelled, and all who wait are told."""
        running = threading.Event()

        async def stubborn() -> int:
            try:
                running.set()
                await asyncio.sleep(LONG)
            except asyncio.CancelledError:
                pass
            return 3

        future = bridge.submit(stubborn)
        assert running.wait(LONG)
        future.cancel()
        assert concurrent.futures.wait([future], LONG).done
        assert future.cancelled()

    def test_in_a_storm(self, bridge: sidecar.Sidecar) -> None:
        """Whatever the moment: each one ends, as cancelled or with its result."""
        futures = []
        for i in range(300):
            future = bridge.submit(add, i)
            if i % 3:
                future.cancel()
            futures.append((i, future))
        begun = time.monotonic()
        assert len(concurrent.futures.wait([future for _, future in futures], LONG).done) == 300
        assert time.monotonic() - begun < LONG, "they have all ended, but who waits for them was not told"
        assert all(future.cancelled() or future.result() == i for i, future in futures)


class TestLostErrors:
    @pytest.mark.parametrize("work", [fail, fail_later], ids=["function", "coroutine"])
    def test_are_logged_with_what_it_was(
        self, bridge: sidecar.Sidecar, work: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        bridge.submit(work)
        wait_for(lambda: gc.collect() >= 0 and caplog.records, "the log")
        (record,) = caplog.records
        assert record.name == "sidecar" and record.levelno == logging.ERROR
        assert work.__name__ in record.getMessage() and "nobody asked for it" in record.getMessage()
        assert record.exc_info is not None and isinstance(record.exc_info[1], ValueError)

    def test_also_where_somebody_only_waited(
        self, bridge: sidecar.Sidecar, caplog: pytest.LogCaptureFixture
    ) -> None:
        concurrent.futures.wait([bridge.submit(fail)], LONG)
        wait_for(lambda: gc.collect() >= 0 and caplog.records, "the log")

    @pytest.mark.parametrize("method", ["result", "exception"])
    def test_also_where_somebody_gave_up_before(
        self, bridge: sidecar.Sidecar, caplog: pytest.LogCaptureFixture, method: str
    ) -> None:
        go = threading.Event()

        def fail_on_time() -> None:
            assert go.wait(LONG)
            raise ValueError("after all")

        future: concurrent.futures.Future[None] = bridge.submit(fail_on_time)
        with pytest.raises(concurrent.futures.TimeoutError):
            getattr(future, method)(0.001)
        go.set()
        concurrent.futures.wait([future], LONG)
        del future
        wait_for(lambda: gc.collect() >= 0 and caplog.records, "the log")

    def test_of_the_cleanup_of_a_cancelled_one(
        self, bridge: sidecar.Sidecar, caplog: pytest.LogCaptureFixture
    ) -> None:
        sleeper = Sleeper(error=ValueError("in the cleanup"))
        future = bridge.submit(sleeper.run)
        assert sleeper.running.wait(LONG)
        future.cancel()
        concurrent.futures.wait([future], LONG)
        wait_for(lambda: "in the cleanup" in caplog.text, "the log")
        assert "failed after it was cancelled" in caplog.records[0].getMessage()

    @pytest.mark.parametrize("work", [fail, fail_later], ids=["function", "coroutine"])
    @pytest.mark.parametrize("how", ["result", "exception", "callback", "wrapped"])
    def test_are_not_logged_when_asked_for(
        self, bridge: sidecar.Sidecar, work: Any, how: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        future = bridge.submit(work)
        if how == "result":
            pytest.raises(ValueError, future.result, LONG)
        elif how == "exception":
            assert isinstance(future.exception(LONG), ValueError)
        elif how == "callback":
            asked = threading.Event()
            future.add_done_callback(lambda future: (future.exception(), asked.set()))
            assert asked.wait(LONG)
        else:

            async def main(future: concurrent.futures.Future[Any]) -> None:
                with pytest.raises(ValueError):
                    await asyncio.wrap_future(future)

            asyncio.run(main(future))
        concurrent.futures.wait([future], LONG)
        reference = weakref.ref(future)
        del future
        wait_for(lambda: gc.collect() >= 0 and reference() is None, "the future is gone")
        assert not caplog.records

    def test_cancelled_ones_are_not_errors(
        self, bridge: sidecar.Sidecar, caplog: pytest.LogCaptureFixture
    ) -> None:
        sleeper = Sleeper()
        future = bridge.submit(sleeper.run)
        assert sleeper.running.wait(LONG)
        future.cancel()
        concurrent.futures.wait([future], LONG)
        del future
        gc.collect()
        assert not caplog.records

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
    def test_exits_are_errors_and_end_nothing(
        self, bridge: sidecar.Sidecar, kind: type[BaseException], caplog: pytest.LogCaptureFixture
    ) -> None:
        async def leave() -> None:
            await asyncio.sleep(0)
            raise kind("on its way")

        def leave_now() -> None:
            raise kind("on its way")

        for work in (leave, leave_now):
            with pytest.raises(kind, match="on its way"):
                bridge.submit(work).result(LONG)
        assert bridge.submit(add, 1, 2).result(LONG) == 3
        # asyncio tells the loop of these as well, and the loop its exception handler.
        gc.collect()
        assert {record.name for record in caplog.records} <= {"asyncio"}

    def test_with_the_request_id(self, caplog: pytest.LogCaptureFixture) -> None:
        ids = []

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
            request = sidecar.current()
            assert request is not None
            ids.append(request.id)
            # Else they would end with the request, perhaps before they fail.
            sidecar.get_bridge().submit(fail, detach=True)
            sidecar.get_bridge().submit(fail_later, detach=True)
            start_response("204 No Content", [])
            return []

        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.url_scheme": "http"}
        list(sidecar.WSGIMiddleware(app)(environ, lambda *_: None))
        wait_for(lambda: gc.collect() >= 0 and len(caplog.records) == 2, "both logs")
        assert all(f" of request {ids[0]} failed" in record.getMessage() for record in caplog.records)

    def test_the_traceback_is_the_users(self, bridge: sidecar.Sidecar) -> None:
        async def awaited() -> None:
            await fail_later()

        class Awaitable:
            def __await__(self) -> Any:
                return awaited().__await__()

        error = bridge.submit(Awaitable()).exception(LONG)
        assert error is not None
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert names == ["__await__", "awaited", "fail_later"] or names == ["awaited", "fail_later"]

    def test_an_error_does_not_hold_its_future(self, bridge: sidecar.Sidecar) -> None:
        """By the frames in its traceback."""
        gc.collect()
        gc.disable()
        try:
            future = bridge.submit(fail_later)
            with pytest.raises(ValueError) as caught:
                future.result(LONG)
            reference = weakref.ref(future)
            del future, caught
            wait_for(lambda: reference() is None, "the future goes without the garbage collector")
        finally:
            gc.enable()


class TestLife:
    def test_a_task_that_nobody_holds_survives(self, bridge: sidecar.Sidecar) -> None:
        """Nothing but the wait itself refers to it; the garbage collector would take it, future and all."""
        ended = threading.Event()
        woken: list[weakref.ref[asyncio.Future[None]]] = []

        async def wait_for_itself() -> None:
            future = asyncio.get_running_loop().create_future()
            woken.append(weakref.ref(future))
            await future
            ended.set()

        bridge.submit(wait_for_itself)
        wait_for(lambda: woken, "it runs")
        for _ in range(3):
            gc.collect()
        future = woken[0]()
        assert future is not None
        bridge.get_loop().call_soon_threadsafe(future.set_result, None)
        assert ended.wait(LONG)

    def test_nothing_is_kept_of_what_has_ended(self, bridge: sidecar.Sidecar) -> None:
        class Thing:
            pass

        def use(thing: Thing) -> None:
            pass

        async def use_later(thing: Thing) -> None:
            await asyncio.sleep(0)

        for work in (use, use_later):
            thing = Thing()
            reference = weakref.ref(thing)
            future = bridge.submit(work, thing)
            future.result(LONG)
            del thing
            wait_for(lambda: gc.collect() >= 0 and reference() is None, "its argument is gone")

    def test_a_closed_bridge_refuses(self) -> None:
        bridge = sidecar.Sidecar(name="closed").start()
        bridge.shutdown()
        for work in (add(1), add, len):
            with pytest.raises(sidecar.BridgeClosedError):
                bridge.submit(work, *([] if asyncio.iscoroutine(work) else [()]))
        gc.collect()

    @pytest.mark.parametrize("daemon", [True, False])
    def test_what_was_submitted_just_before_the_end(self, daemon: bool) -> None:
        """It has not reached the loop yet: it ends like the rest, and none is left pending."""
        for _ in range(20):
            bridge = sidecar.Sidecar(name="brief", daemon=daemon).start()
            futures = [bridge.submit(add, 1, 2) for _ in range(3)]
            assert bridge.shutdown()
            done, pending = concurrent.futures.wait(futures, LONG)
            assert not pending
            if not daemon:
                assert [future.result() for future in futures] == [3, 3, 3]
        gc.collect()

    def test_at_the_end_a_daemon_cancels(self) -> None:
        bridge = sidecar.Sidecar(name="daemon", workers=1)
        sleeper = Sleeper()
        coroutine = bridge.submit(sleeper.run)
        go = threading.Event()
        running, queued = bridge.submit(go.wait, LONG), bridge.submit(len, ())
        assert sleeper.running.wait(LONG)
        wait_for(running.running, "the job runs")
        threading.Timer(0.05, go.set).start()
        assert bridge.shutdown(LONG)
        assert coroutine.cancelled() and sleeper.cleaned.is_set()
        assert queued.cancelled() and running.result(0) is True

    def test_at_the_end_others_wait(self) -> None:
        bridge = sidecar.Sidecar(name="patient", workers=1, daemon=False)
        order: list[object] = []

        async def later() -> None:
            await asyncio.sleep(0.05)
            order.append("coroutine")

        def slow(i: int) -> None:
            time.sleep(0.02)
            order.append(i)

        futures = [bridge.submit(later), *(bridge.submit(slow, i) for i in range(4))]
        assert bridge.shutdown(LONG)
        assert [future.exception(0) for future in futures] == [None] * 5
        assert sorted(map(str, order)) == ["0", "1", "2", "3", "coroutine"]

    def test_at_the_end_they_wait_for_a_bounded_time(self, caplog: pytest.LogCaptureFixture) -> None:
        bridge = sidecar.Sidecar(name="patient", daemon=False)
        sleeper = Sleeper()
        future = bridge.submit(sleeper.run)
        assert sleeper.running.wait(LONG)
        begun = time.monotonic()
        assert bridge.shutdown(0.3)
        assert time.monotonic() - begun < 10
        assert future.cancelled() and sleeper.cleaned.is_set()

    @pytest.mark.parametrize("daemon", [True, False])
    def test_at_exit(self, run_script: Callable[..., Any], daemon: bool) -> None:
        done = run_script(f"""
            import asyncio, time, sidecar
            bridge = sidecar.Sidecar(workers=1, daemon={daemon})
            async def work():
                try:
                    await asyncio.sleep(0.1 if not {daemon} else 30)
                    print("coroutine finished", flush=True)
                except asyncio.CancelledError:
                    print("coroutine cancelled", flush=True)
                    raise
            def job(i):
                time.sleep(0.05)
                print("job", i, flush=True)
            futures = [bridge.submit(job, i) for i in range(3)]
            bridge.submit(work)
            while not futures[0].running():
                time.sleep(0.001)
            bridge.run_sync(asyncio.sleep(0.01))
        """)
        assert (done.returncode, done.stderr) == (0, "")
        expected = {"job 0", "coroutine cancelled"} if daemon else {"job 0", "job 1", "job 2", "coroutine finished"}
        assert set(done.stdout.splitlines()) == expected

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
    def test_with_eager_tasks(self, bridge: sidecar.Sidecar) -> None:
        bridge.get_loop().set_task_factory(asyncio.eager_task_factory)

        async def at_once() -> int:
            return 1

        assert bridge.submit(at_once).result(LONG) == 1
        assert bridge.submit(add, 1, 1).result(LONG) == 2
        assert isinstance(bridge.submit(fail_later).exception(LONG), ValueError)


def test_what_the_end_overtakes_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent when the loop has turned for the last time: who waits for it hears of it, without a GIL, too."""
    taken, go = threading.Event(), threading.Event()
    make = _submit._new_future

    def new_future(what: object) -> Any:
        future = make(what)
        taken.set()
        assert go.wait(LONG)
        return future

    def user() -> None:
        try:
            outcomes.append(bridge.submit(asyncio.sleep(0, 7)).result())
        except (CancelledError, RuntimeError) as error:
            outcomes.append(error)

    outcomes: list[Any] = []
    bridge = sidecar.Sidecar(name="overtaken").start()
    loop: Any = bridge.get_loop()
    finish = loop._finish

    def finish_later() -> None:
        """Nobody drives it any more, and it is not closed yet."""
        go.set()
        wait_for(lambda: loop._sent or outcomes, "it was sent")
        finish()

    monkeypatch.setattr(_submit, "_new_future", new_future)
    monkeypatch.setattr(loop, "_finish", finish_later)
    thread = threading.Thread(target=user, daemon=True)
    thread.start()
    assert taken.wait(LONG)
    bridge.shutdown()
    thread.join(LONG)
    assert not thread.is_alive() and len(outcomes) == 1
    assert type(outcomes[0]) is CancelledError, outcomes
