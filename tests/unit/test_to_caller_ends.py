"""``to_caller`` cut short: by a cancellation, a time-out, a signal, a fork; and where nobody waits."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import AsyncIterator
from typing import Any

import callers
import pytest
from callers import LONG, Where, whose
from harness import wait_for

import sidecar
from sidecar import to_caller
from sidecar.errors import ForkedError, NoCallerError

ident = threading.get_ident
# Imported by their names, they would be imports that no code uses.
bridge, where = callers.bridge, callers.where


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


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
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
