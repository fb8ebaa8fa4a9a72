"""``to_caller``: sync code on the thread that waits, from wherever its coroutine is, and where nobody waits."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import wait_for

import sidecar
from sidecar import to_caller
from sidecar.errors import ForkedError, NoCallerError

ident = threading.get_ident

LONG = 30.0
PACKAGE = str(Path(sidecar.__file__).parent)
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture
def bridge() -> Iterator[sidecar.Sidecar]:
    with sidecar.Sidecar(workers=2, name="callers", cleanup_timeout=0.1) as bridge:
        yield bridge


Where = Callable[[Callable[[], Any]], Any]


@pytest.fixture(params=["main", "thread", "pool", "foreign loop"])
def where(request: pytest.FixtureRequest, bridge: sidecar.Sidecar) -> Where:
    """Runs a function on a thread of that kind."""

    def run(function: Callable[[], Any]) -> Any:
        if request.param == "main":
            return function()
        if request.param == "pool":
            return bridge.submit(function).result(LONG)
        if request.param == "foreign loop":

            async def main() -> Any:
                return function()

            return asyncio.run(main())
        outcome: list[Any] = []
        thread = threading.Thread(target=lambda: outcome.append(function()))
        thread.start()
        thread.join(LONG)
        return outcome[0]

    return run


async def whose() -> int:
    await asyncio.sleep(0)
    found: int = await to_caller(ident)
    return found


class TestWhere:
    def test_on_the_thread_that_waits(self, bridge: sidecar.Sidecar, where: Where) -> None:
        assert where(lambda: bridge.run_sync(whose()) == ident())

    def test_its_arguments_and_result(self, bridge: sidecar.Sidecar, where: Where) -> None:
        def show(*args: int, **kwargs: int) -> object:
            return args, kwargs

        assert where(lambda: bridge.run_sync(to_caller(show, 1, 2, key=3))) == ((1, 2), {"key": 3})

    def test_in_the_first_step_and_in_later_ones(self, bridge: sidecar.Sidecar, where: Where) -> None:
        async def main() -> list[int]:
            found = [await to_caller(ident)]
            found.append(await to_caller(ident))
            await asyncio.sleep(0.001)
            found.append(await to_caller(ident))
            return found

        assert where(lambda: set(bridge.run_sync(main())) == {ident()})

    def test_in_child_tasks(self, bridge: sidecar.Sidecar, where: Where) -> None:
        async def grandchildren() -> list[int]:
            return [*(await asyncio.gather(whose(), whose())), await asyncio.create_task(whose(), name="named")]

        async def main() -> list[Any]:
            loop = asyncio.get_running_loop()
            found = await asyncio.gather(whose(), grandchildren(), asyncio.wait_for(whose(), LONG))
            return [found[0], *found[1], found[2], await loop.create_task(whose(), name="by hand")]

        assert where(lambda: set(bridge.run_sync(main())) == {ident()})

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup came with 3.11")
    def test_in_a_task_group(self, bridge: sidecar.Sidecar, where: Where) -> None:
        async def main() -> set[int]:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(whose()) for _ in range(3)]
            return {task.result() for task in tasks}

        assert where(lambda: bridge.run_sync(main()) == {ident()})

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
    def test_with_eager_tasks(self, bridge: sidecar.Sidecar, where: Where) -> None:
        bridge.get_loop().set_task_factory(asyncio.eager_task_factory)

        async def child() -> int:
            found: int = await to_caller(ident)
            return found

        async def main() -> set[int]:
            return {await to_caller(ident), *(await asyncio.gather(child(), child(), whose())), await child()}

        assert where(lambda: bridge.run_sync(main()) == {ident()})

    def test_with_a_task_factory(self, bridge: sidecar.Sidecar, where: Where) -> None:
        bridge.get_loop().set_task_factory(lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options))

        async def main() -> set[int]:
            return {await to_caller(ident), *(await asyncio.gather(whose(), whose()))}

        assert where(lambda: bridge.run_sync(main()) == {ident()})

    def test_in_a_stream(self, bridge: sidecar.Sidecar, where: Where) -> None:
        async def items() -> AsyncIterator[int]:
            for _ in range(3):
                yield await to_caller(ident)
                yield await asyncio.create_task(whose())

        assert where(lambda: set(bridge.stream(items)) == {ident()})

    def test_a_stream_runs_it_on_the_thread_of_each_step(self, bridge: sidecar.Sidecar) -> None:
        async def items() -> AsyncIterator[int]:
            while True:
                yield await to_caller(ident)

        with bridge.stream(items) as stream:
            assert next(stream) == ident()
            assert bridge.submit(lambda: next(stream) == ident()).result(LONG)
            assert next(stream) == ident()

    def test_in_a_gather(self, bridge: sidecar.Sidecar, where: Where) -> None:
        async def main() -> set[int]:
            return set(await bridge.gather(whose(), whose(), timeout=LONG))

        assert where(lambda: bridge.run_sync(main()) == {ident()})
        assert set(bridge.gather(whose(), whose())) == {ident()}

    def test_of_the_innermost_call(self, bridge: sidecar.Sidecar) -> None:
        """A pool's job that calls back waits itself: what it waits for goes to it, not to the outer caller."""

        def job() -> tuple[int, int]:
            return bridge.run_sync(whose()), ident()

        async def main() -> tuple[int, int, int]:
            found, pool = await bridge._on_pool(None, job)
            return found, pool, await to_caller(ident)

        found, pool, outer = bridge.run_sync(main())
        assert found == pool != outer == ident()


class TestMeanwhile:
    def test_the_loop_goes_on(self, bridge: sidecar.Sidecar, where: Where) -> None:
        """The function waits for what only the loop can do."""
        ticks = threading.Semaphore(0)

        async def tick() -> None:
            while True:
                ticks.release()
                await asyncio.sleep(0.001)

        def wait_for_ticks() -> bool:
            return all(ticks.acquire(timeout=LONG) for _ in range(5))

        async def main() -> bool:
            task = asyncio.create_task(tick())
            await asyncio.sleep(0)
            while ticks.acquire(blocking=False):
                pass
            through: bool = await to_caller(wait_for_ticks)
            task.cancel()
            return through

        assert where(lambda: bridge.run_sync(main())) is True

    def test_other_calls_go_on(self, bridge: sidecar.Sidecar, where: Where) -> None:
        def call_from_another_thread() -> Any:
            return bridge.submit(lambda: bridge.run_sync(asyncio.sleep(0.001, "other"))).result(LONG)

        assert where(lambda: bridge.run_sync(to_caller(call_from_another_thread))) == "other"

    def test_nested(self, bridge: sidecar.Sidecar, where: Where) -> None:
        async def level(depth: int) -> list[int]:
            await asyncio.sleep(0)
            if depth == 0:
                return [await to_caller(ident)]
            inner: list[int] = await to_caller(lambda: bridge.run_sync(level(depth - 1)))
            return [await to_caller(ident), *inner]

        def run() -> bool:
            found = bridge.run_sync(level(20))
            return len(found) == 21 and set(found) == {ident()}

        assert where(run)

    def test_many_at_once_run_one_by_one(self, bridge: sidecar.Sidecar, where: Where) -> None:
        inside, most, seen = 0, 0, []

        def count(i: int) -> int:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            seen.append(i)
            inside -= 1
            return ident()

        async def main() -> list[int]:
            return list(await asyncio.gather(*(to_caller(count, i) for i in range(200))))

        assert where(lambda: set(bridge.run_sync(main())) == {ident()})
        assert most == 1 and sorted(seen) == list(range(200))

    def test_from_many_threads(self, bridge: sidecar.Sidecar) -> None:
        wrong: list[object] = []

        async def main() -> set[int]:
            return {*(await asyncio.gather(*(whose() for _ in range(5)))), await to_caller(ident)}

        def call() -> None:
            for _ in range(20):
                found = bridge.run_sync(main())
                if found != {ident()}:
                    wrong.append(found)

        threads = [threading.Thread(target=call) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong and not any(thread.is_alive() for thread in threads)


class TestErrorsAndContexts:
    @pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError, MemoryError])
    def test_come_back_as_raised(self, bridge: sidecar.Sidecar, where: Where, kind: type[BaseException]) -> None:
        error = kind("as it is")

        def fail() -> None:
            raise error

        async def main() -> object:
            with pytest.raises(kind) as caught:
                await to_caller(fail)
            names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
            assert names == ["main", "fail"]
            return caught.value

        assert where(lambda: bridge.run_sync(main())) is error
        with pytest.raises(kind):
            bridge.run_sync(to_caller(fail))
        assert bridge.run_sync(asyncio.sleep(0, 1)) == 1

    def test_stop_iteration_cannot(self, bridge: sidecar.Sidecar) -> None:
        def stop() -> None:
            raise StopIteration(3)

        with pytest.raises(RuntimeError) as caught:
            bridge.run_sync(to_caller(stop))
        assert isinstance(caught.value.__cause__, StopIteration)

    def test_what_is_not_callable(self) -> None:
        for arguments in ((), (3,), (None, 1)):
            with pytest.raises(TypeError, match="takes a function and its arguments"):
                to_caller(*arguments)

    def test_it_sees_the_coroutines_context_and_changes_it(self, bridge: sidecar.Sidecar, where: Where) -> None:
        def change() -> str:
            seen = variable.get()
            variable.set("by the function")
            return seen

        async def child() -> tuple[str, str]:
            variable.set("by the child")
            return await to_caller(change), variable.get()

        async def main() -> tuple[object, ...]:
            variable.set("by the coroutine")
            return await to_caller(change), variable.get(), await asyncio.create_task(child()), variable.get()

        def run() -> tuple[object, ...]:
            return bridge.run_sync(main()), variable.get()

        found = where(lambda: contextvars.copy_context().run(run))
        inner = ("by the child", "by the function")
        assert found == (("by the coroutine", "by the function", inner, "by the function"), "unset")

    def test_changes_come_back_with_an_error_too(self, bridge: sidecar.Sidecar) -> None:
        def change() -> None:
            variable.set("before it failed")
            raise ValueError

        async def main() -> str:
            with pytest.raises(ValueError):
                await to_caller(change)
            return variable.get()

        assert bridge.run_sync(main()) == "before it failed"

    def test_no_loop_runs_there_and_the_foreign_one_still_does(self, bridge: sidecar.Sidecar, where: Where) -> None:
        def look() -> bool:
            return bridge.run_sync(to_caller(asyncio._get_running_loop)) is asyncio._get_running_loop()

        assert where(look)

    def test_whose_task_it_is_stays_known(self, bridge: sidecar.Sidecar) -> None:
        """Calls inside the function that write their changes back do not make it their own."""

        async def inner() -> None:
            await asyncio.create_task(asyncio.sleep(0))
            variable.set("by the inner one")

        async def child() -> tuple[int, str, int]:
            await to_caller(lambda: bridge.run_sync(inner(), propagate=True))
            seen = variable.get()
            return await to_caller(ident), seen, await asyncio.create_task(whose())

        async def main() -> tuple[int, str, int]:
            return await asyncio.create_task(child())

        assert bridge.run_sync(main()) == (ident(), "by the inner one", ident())


class TestCancelled:
    def test_while_it_runs(self, bridge: sidecar.Sidecar, where: Where) -> None:
        """The coroutine goes on; the function runs to its end, and its result is dropped."""
        running, go, over = threading.Event(), threading.Event(), threading.Event()

        def block() -> None:
            running.set()
            assert go.wait(LONG)
            over.set()

        async def main() -> str:
            task = asyncio.create_task(to_caller(block))
            while not running.is_set():
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not over.is_set()
            go.set()
            await to_caller(over.is_set)
            return "on"

        assert where(lambda: bridge.run_sync(main())) == "on" and over.is_set()

    def test_while_it_is_queued(self, bridge: sidecar.Sidecar, where: Where) -> None:
        running, go = threading.Event(), threading.Event()
        ran: list[int] = []

        def block() -> None:
            running.set()
            assert go.wait(LONG)

        async def main() -> None:
            first = asyncio.create_task(to_caller(block))
            while not running.is_set():
                await asyncio.sleep(0.001)
            queued = asyncio.create_task(to_caller(ran.append, 1))
            await asyncio.sleep(0.002)
            queued.cancel()
            with pytest.raises(asyncio.CancelledError):
                await queued
            go.set()
            await first
            await to_caller(len, ())

        where(lambda: bridge.run_sync(main()))
        assert not ran

    def test_before_it_was_begun(self, bridge: sidecar.Sidecar) -> None:
        async def main() -> None:
            task = asyncio.create_task(to_caller(ident))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            to_caller(ident).close()

        bridge.run_sync(main())
        gc.collect()

    def test_never_awaited_it_warns(self) -> None:
        with pytest.warns(RuntimeWarning, match="'get_ident' was never awaited"):
            to_caller(ident)
            gc.collect()

    def test_awaited_twice(self, bridge: sidecar.Sidecar) -> None:
        async def main() -> None:
            call = to_caller(ident)
            await call
            with pytest.raises(RuntimeError, match="already awaited"):
                await call

        bridge.run_sync(main())

    def test_the_calls_time_is_up_while_it_runs(self, bridge: sidecar.Sidecar, where: Where) -> None:
        """The coroutine is cancelled in time, the thread comes back when the function ends."""
        cleaned = threading.Event()

        async def main() -> None:
            try:
                await to_caller(cleaned.wait, LONG)
            finally:
                cleaned.set()

        def run() -> None:
            with pytest.raises(sidecar.CallTimeoutError):
                bridge.run_sync(main(), timeout=0.02)

        where(run)
        assert cleaned.is_set()

    def test_and_its_cleanup_takes_too_long(self, bridge: sidecar.Sidecar, where: Where) -> None:
        go, over = threading.Event(), threading.Event()

        async def main() -> None:
            try:
                await to_caller(go.wait, LONG)
            finally:
                await asyncio.sleep(0.3)
                go.set()
                over.set()

        def run() -> None:
            with pytest.raises(sidecar.CallTimeoutError, match="orphan"):
                bridge.run_sync(main(), timeout=0.02)

        where(run)
        assert over.wait(LONG)


class TestSignals:
    def test_a_handler_raises_inside_it(self, bridge: sidecar.Sidecar) -> None:
        """It lands in the function, so in the coroutine that awaits it."""

        class Limit(Exception):
            pass

        def strike(*_: object) -> None:
            raise Limit

        async def main() -> str:
            with pytest.raises(Limit):
                await to_caller(self.until_signalled)
            return "cleaned up"

        before = signal.signal(signal.SIGALRM, strike)
        try:
            assert bridge.run_sync(main()) == "cleaned up"
            with pytest.raises(Limit):
                bridge.run_sync(to_caller(self.until_signalled))
        finally:
            signal.signal(signal.SIGALRM, before)
        assert bridge.run_sync(whose()) == ident()

    @staticmethod
    def until_signalled() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        assert not threading.Event().wait(LONG)


class TestForks:
    def test_a_fork_inside_it(self, bridge: sidecar.Sidecar) -> None:
        """The child's way back leads to a coroutine that stayed with the parent."""

        async def main() -> int:
            child: int = await to_caller(os.fork)
            return child

        parent, child = os.getpid(), 0
        try:
            child = bridge.run_sync(main())
        except ForkedError:
            os._exit(7)
        finally:
            if os.getpid() != parent:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert bridge.run_sync(whose()) == ident()

    def test_a_child_that_calls_before_it_goes_back(self, bridge: sidecar.Sidecar) -> None:
        def fork() -> int:
            child = os.fork()
            if child == 0:
                os._exit(8 if bridge.run_sync(whose()) == ident() else 1)
            return child

        child = bridge.run_sync(to_caller(fork))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 8


class TestNobodyWaits:
    MATCH = r"in a coroutine for which no thread waits.*\[SC0006\]"

    def test_a_background_task_after_its_call(self, bridge: sidecar.Sidecar) -> None:
        events: list[asyncio.Event] = []

        async def background() -> tuple[int, NoCallerError]:
            first = await to_caller(ident)
            events[0].set()
            await events[1].wait()
            with pytest.raises(NoCallerError, match=self.MATCH) as caught:
                await to_caller(ident)
            return first, caught.value

        async def main() -> asyncio.Task[Any]:
            events.extend((asyncio.Event(), asyncio.Event()))
            task = asyncio.create_task(background())
            await events[0].wait()
            return task

        async def end(task: asyncio.Task[Any]) -> Any:
            events[1].set()
            return await task

        task = bridge.run_sync(main())
        # Another call waits now, for another coroutine.
        first, error = bridge.run_sync(end(task))
        assert first == ident() and isinstance(error, NoCallerError)

    @pytest.mark.parametrize("with_task", [False, True])
    def test_what_was_submitted(self, bridge: sidecar.Sidecar, with_task: bool) -> None:
        with pytest.raises(NoCallerError, match=self.MATCH):
            bridge.submit(whose).result(LONG)

        async def main() -> Any:
            if with_task:
                await asyncio.create_task(asyncio.sleep(0))
            return await asyncio.wrap_future(bridge.submit(whose))

        async def in_function() -> Any:
            if with_task:
                await asyncio.create_task(asyncio.sleep(0))
            return await asyncio.wrap_future(await to_caller(bridge.submit, whose))

        for coro in (main(), in_function()):
            with pytest.raises(NoCallerError, match=self.MATCH):
                bridge.run_sync(coro)

    def test_a_task_of_what_was_submitted(self, bridge: sidecar.Sidecar) -> None:
        async def parent() -> int:
            return await asyncio.create_task(whose())

        async def main() -> Any:
            await asyncio.create_task(asyncio.sleep(0))
            return await asyncio.wrap_future(bridge.submit(parent))

        with pytest.raises(NoCallerError):
            bridge.run_sync(main())

    def test_a_foreign_loop(self, bridge: sidecar.Sidecar) -> None:
        with pytest.raises(NoCallerError, match=self.MATCH):
            asyncio.run(whose())
        loop = sidecar.Loop()
        try:
            with pytest.raises(NoCallerError):
                loop.run_until_complete(whose())
        finally:
            loop.close()

        async def in_a_job() -> Any:
            await asyncio.create_task(asyncio.sleep(0))
            return await bridge._on_pool(None, asyncio.run, whose())

        with pytest.raises(NoCallerError):
            bridge.run_sync(in_a_job())

    def test_another_bridges_loop(self, bridge: sidecar.Sidecar) -> None:
        """Its own callers wait there."""

        async def main(other: sidecar.Sidecar) -> Any:
            await asyncio.create_task(asyncio.sleep(0))
            return other.run_sync(asyncio.wait_for(whose(), LONG))

        with sidecar.Sidecar(name="other") as other:
            assert bridge.run_sync(main(other)) == ident()

    def test_no_loop_at_all(self) -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            to_caller(ident).send(None)

    def test_the_call_ends_first(self, bridge: sidecar.Sidecar, where: Where) -> None:
        """What it still had queued for its thread is refused."""
        outcome: list[BaseException] = []
        told = threading.Event()
        running, go = threading.Event(), threading.Event()

        async def ask() -> None:
            try:
                await to_caller(ident)
            except NoCallerError as error:
                outcome.append(error)
                told.set()

        def block() -> None:
            running.set()
            assert go.wait(LONG)

        async def main() -> None:
            asyncio.create_task(to_caller(block))
            while not running.is_set():
                await asyncio.sleep(0.001)
            tasks.append(asyncio.create_task(ask()))
            await asyncio.sleep(0.002)
            asyncio.get_running_loop().call_later(0.01, go.set)

        tasks: list[asyncio.Task[None]] = []
        where(lambda: bridge.run_sync(main()))
        wait_for(told.is_set, "it is told")
        assert "waits no more" in str(outcome[0])

    def test_a_stream_that_reads_ahead(self, bridge: sidecar.Sidecar) -> None:
        """Between the steps nobody waits for it."""
        refused: list[BaseException] = []
        ahead = threading.Event()

        async def items() -> AsyncIterator[str]:
            yield "first"
            await asyncio.get_running_loop().run_in_executor(None, left.wait, LONG)
            with pytest.raises(NoCallerError) as caught:
                await to_caller(ident)
            refused.append(caught.value)
            ahead.set()
            yield "second"

        left = threading.Event()
        with bridge.stream(items, prefetch=4) as stream:
            assert next(stream) == "first"
            left.set()
            assert ahead.wait(LONG)
            assert list(stream) == ["second"]
        assert refused
