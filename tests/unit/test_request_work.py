"""What a request starts ends with it: tasks, submitted work, streams, calls of its threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from harness import wait_for
from requested import Work, call, client, serve, view

import sidecar

LONG = 30.0
LENGTH = 10


def in_thread_of_request(function: Any) -> tuple[threading.Thread, list[Any]]:
    """Begin it on another thread, in this context; what it returned or raised comes into the list."""
    outcome: list[Any] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            outcome.append(function())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=context.run, args=(run,))
    thread.start()
    return thread, outcome


class TestTasks:
    def test_one_left_behind_is_cancelled_and_waited_for(self) -> None:
        work = Work(cleanup=0.05)
        task = call(lambda: sidecar.run_sync(work.leave()))
        assert work.ends == ["cancelled"] and task.cancelled()

    def test_one_that_nobody_holds(self) -> None:
        work = Work()

        async def leave() -> None:
            await work.leave()

        call(lambda: sidecar.run_sync(leave()))
        assert work.ends == ["cancelled"]

    def test_the_tasks_of_tasks(self) -> None:
        inner = Work()

        async def outer() -> None:
            await inner.leave()
            await asyncio.sleep(LONG)

        async def leave() -> asyncio.Task[None]:
            task = asyncio.create_task(outer())
            await asyncio.sleep(0.001)
            return task

        call(lambda: sidecar.run_sync(leave()))
        assert inner.ends == ["cancelled"]

    def test_one_that_has_ended_is_left_alone(self) -> None:
        async def leave() -> asyncio.Task[str]:
            task = asyncio.create_task(asyncio.sleep(0, "whole"))
            await asyncio.sleep(0.001)
            return task

        assert call(lambda: sidecar.run_sync(leave())).result() == "whole"

    def test_one_of_nobodys_context_goes_on(self) -> None:
        """As libraries make them that keep a task for all requests."""
        work = Work()
        empty = contextvars.Context()
        task = call(lambda: empty.run(sidecar.run_sync, work.leave()))
        assert work.ends == [] and not task.done()
        task.get_loop().call_soon_threadsafe(task.cancel)
        wait_for(lambda: work.ends == ["cancelled"], "it ends")

    def test_of_two_bridges(self, bridge: sidecar.Sidecar) -> None:
        works = [Work(0.05), Work(0.05)]

        def leave() -> list[Any]:
            return [bridge.run_sync(works[0].leave()), sidecar.run_sync(works[1].leave())]

        tasks = call(leave)
        assert [work.ends for work in works] == [["cancelled"], ["cancelled"]]
        assert tasks[0].get_loop() is not tasks[1].get_loop()

    def test_of_a_bridge_that_was_shut_down_meanwhile(self) -> None:
        work = Work()

        def leave() -> Any:
            with sidecar.Sidecar() as bridge:
                return bridge.run_sync(work.leave())

        assert call(leave).cancelled()

    def test_a_callback_on_the_loop_of_nobody_sees_it_end(self) -> None:
        """The pump runs what no caller drives."""
        work = Work(cleanup=0.02)
        done = threading.Event()

        async def leave() -> None:
            task = await work.leave()
            task.add_done_callback(lambda _: done.set())

        call(lambda: sidecar.run_sync(leave()))
        assert done.is_set()

    def test_its_cleanup_is_not_cut_short_by_a_second_verdict(self) -> None:
        """The client goes, which cancels; then the response is closed."""
        work = Work(cleanup=0.2)

        async def leave_and_wait() -> None:
            await work.leave()
            await asyncio.sleep(LONG)

        with client() as (environ, theirs):

            def wait() -> None:
                theirs.close()
                sidecar.run_sync(leave_and_wait())

            with pytest.raises(sidecar.ClientDisconnected):
                serve(view(wait), environ)
        assert work.ends == ["cancelled"]


class TestSubmitted:
    def test_a_coroutine_is_cancelled_once_and_waited_for(self) -> None:
        for _ in range(100):
            work = Work(cleanup=0.001)

            def begin(work: Work = work) -> Any:
                future = sidecar.submit(work.run)
                assert work.begun.wait(LONG)
                return future

            assert call(begin).cancelled()
            assert work.ends == ["cancelled"]

    def test_one_that_its_user_has_cancelled_cleans_up(self) -> None:
        work = Work(cleanup=0.1)

        def begin() -> None:
            future = sidecar.submit(work.run)
            assert work.begun.wait(LONG)
            future.cancel()

        call(begin)
        assert work.ends == ["cancelled"]

    def test_one_that_has_not_begun(self) -> None:
        work = Work()
        future = call(lambda: sidecar.submit(work.run))
        assert future.cancelled()
        assert work.ends in ([], ["cancelled"])

    def test_a_function_that_waits_for_a_thread_never_runs(self, bridge: sidecar.Sidecar) -> None:
        go, ran = threading.Event(), []
        blockers = [bridge.submit(go.wait, LONG) for _ in range(2)]
        future = call(lambda: bridge.submit(ran.append, 1))
        go.set()
        assert all(blocker.result(LONG) for blocker in blockers)
        assert future.cancelled() and ran == []

    def test_a_function_that_runs_is_waited_for(self) -> None:
        begun, ended = threading.Event(), []

        def work() -> None:
            begun.set()
            time.sleep(0.1)
            ended.append(True)

        def begin() -> None:
            sidecar.submit(work)
            assert begun.wait(LONG)

        call(begin)
        assert ended

    def test_from_a_coroutine_and_from_the_pool(self) -> None:
        works = [Work(), Work()]

        async def from_a_coroutine() -> None:
            sidecar.submit(works[0].run)

        def begin() -> None:
            sidecar.run_sync(from_a_coroutine())
            sidecar.submit(sidecar.submit, works[1].run).result(LONG)
            for work in works:
                assert work.begun.wait(LONG)

        call(begin)
        assert [work.ends for work in works] == [["cancelled"], ["cancelled"]]

    def test_its_answer_is_kept(self) -> None:
        future = call(lambda: concurrent.futures.wait([sidecar.submit(len, "abc")])[0].pop())
        assert future.result() == 3


class TestDetached:
    def test_it_outlives_the_request_and_keeps_its_id(self) -> None:
        go = threading.Event()

        async def coroutine() -> Any:
            while not go.is_set():
                await asyncio.sleep(0.002)
            return sidecar.current()

        def function() -> Any:
            assert go.wait(LONG)
            return sidecar.current()

        def begin() -> Any:
            kinds: list[Any] = [coroutine, coroutine(), function]
            return sidecar.current(), [sidecar.submit(kind, detach=True) for kind in kinds]

        request, futures = call(begin)
        assert not any(future.done() for future in futures)
        go.set()
        for future in futures:
            seen = future.result(LONG)
            assert seen.id == request.id and seen.detached and not seen.cancelled
            assert seen.trace_id == request.trace_id

    def test_it_has_no_deadline_and_no_client(self) -> None:
        go = threading.Event()

        async def work() -> tuple[Any, Any]:
            while not go.is_set():
                await asyncio.sleep(0.002)
            inner = sidecar.submit(asyncio.sleep, 0.001, "inner")
            return sidecar.current().deadline, await asyncio.wrap_future(inner)

        with client() as (environ, _):
            future = call(lambda: sidecar.submit(work, detach=True), environ, deadline=0.01)
        time.sleep(0.02)  # let the deadline pass: nothing of it is to be seen
        go.set()
        assert future.result(LONG) == (None, "inner")

    def test_by_the_request_and_by_a_bridge(self, bridge: sidecar.Sidecar) -> None:
        works = [Work(), Work()]

        def begin() -> list[Any]:
            return [
                sidecar.current().submit(works[0].run, 0.05, detach=True),
                bridge.submit(works[1].run, 0.05, detach=True),
            ]

        assert [future.result(LONG) for future in call(begin)] == ["done", "done"]

    def test_outside_of_a_request_it_changes_nothing(self) -> None:
        assert sidecar.submit(len, "ab", detach=True).result(LONG) == 2
        assert sidecar.submit(asyncio.sleep, 0, "x", detach=True).result(LONG) == "x"

    def test_it_is_an_option_and_no_argument_of_the_work(self) -> None:
        def work(**options: Any) -> Any:
            return options

        assert sidecar.submit(work, detach=True, other=1).result(LONG) == {"other": 1}


class TestCallsOfItsThreads:
    def test_a_call_of_another_thread_is_cancelled(self) -> None:
        work = Work(cleanup=0.01)

        def begin() -> Any:
            started = in_thread_of_request(lambda: sidecar.run_sync(work.run()))
            assert work.begun.wait(LONG)
            return started

        thread, outcome = call(begin)
        thread.join(LONG)
        assert isinstance(outcome[0], asyncio.CancelledError) and work.ends == ["cancelled"]

    def test_struck_while_another_thread_drives_it(self) -> None:
        """The main thread drives its own call only, so that of the thread is driven by it or by the pump."""
        works = [Work() for _ in range(8)]

        def begin() -> Any:
            started = [in_thread_of_request(lambda work=work: sidecar.run_sync(work.run())) for work in works]
            for work in works:
                assert work.begun.wait(LONG)
            return started

        for thread, outcome in call(begin):
            thread.join(LONG)
            assert isinstance(outcome[0], asyncio.CancelledError)
        assert [work.ends for work in works] == [["cancelled"]] * 8

    def test_calls_after_the_end_are_nobodys(self) -> None:
        go = threading.Event()

        def late() -> tuple[Any, Any]:
            assert go.wait(LONG)
            return sidecar.current().cancelled, sidecar.run_sync(asyncio.sleep(0.001, "served"))

        thread, outcome = call(lambda: in_thread_of_request(late))
        go.set()
        thread.join(LONG)
        assert outcome == [(True, "served")]

    def test_a_step_of_a_stream_is_cancelled(self) -> None:
        work = Work(cleanup=0.01)

        async def items() -> AsyncIterator[str]:
            yield "first"
            await work.run()
            yield "never"

        def begin() -> Any:
            stream = sidecar.stream(items)
            assert next(stream) == "first"
            started = in_thread_of_request(lambda: next(stream))
            assert work.begun.wait(LONG)
            return started

        thread, outcome = call(begin)
        thread.join(LONG)
        assert isinstance(outcome[0], asyncio.CancelledError) and work.ends == ["cancelled"]


class TestStreams:
    @pytest.mark.parametrize("prefetch", [0, 2])
    def test_one_that_is_kept_ends_with_the_request(self, prefetch: int) -> None:
        ended = []

        async def items() -> AsyncIterator[int]:
            try:
                for number in range(LENGTH):
                    yield number
            finally:
                ended.append(sidecar.current())

        def begin() -> Any:
            stream = sidecar.stream(items, prefetch=prefetch)
            assert next(stream) == 0
            return sidecar.current(), stream

        request, stream = call(begin)
        assert ended == [request]
        with pytest.raises((asyncio.CancelledError, StopIteration)):
            for _ in range(LENGTH):
                next(stream)

    def test_one_that_reads_ahead_is_cancelled_where_it_waits(self) -> None:
        work = Work(cleanup=0.01)

        async def items() -> AsyncIterator[str]:
            yield "one"
            yield await work.run()

        def begin() -> Any:
            stream = sidecar.stream(items, prefetch=2)
            assert next(stream) == "one" and work.begun.wait(LONG)
            return stream

        stream = call(begin)
        assert work.ends == ["cancelled"]
        with pytest.raises(asyncio.CancelledError):
            next(stream)


class TestWithoutTheContext:
    """A plain thread sees no request; the request itself may be handed to it."""

    def test_run_sync_stream_and_submit_of_the_request(self) -> None:
        async def whose() -> str:
            await asyncio.sleep(0)
            request = sidecar.current()
            assert request is not None
            return request.id

        async def items() -> AsyncIterator[str]:
            yield await whose()

        def begin() -> None:
            request = sidecar.current()
            assert request is not None

            def foreign() -> list[str]:
                assert sidecar.current() is None
                ids = [request.run_sync(whose()), *request.stream(items), request.submit(whose).result(LONG)]
                ids.append(request.submit(lambda: sidecar.current().id).result(LONG))  # type: ignore[union-attr]
                assert sidecar.current() is None
                return ids

            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                assert pool.submit(foreign).result(LONG) == [request.id] * 4

        call(begin)

    def test_its_work_ends_with_the_request(self) -> None:
        works = [Work(), Work()]

        def begin() -> Any:
            request = sidecar.current()
            assert request is not None

            def foreign() -> Any:
                request.submit(works[0].run)
                return request.run_sync(works[1].leave())

            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                pool.submit(foreign).result(LONG)
            assert works[0].begun.wait(LONG)

        call(begin)
        assert [work.ends for work in works] == [["cancelled"], ["cancelled"]]
