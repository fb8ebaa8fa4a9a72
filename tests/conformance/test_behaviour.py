"""What the suites don't say, on a plain loop and on a bridge's: debug mode, handlers, factories, signals, ends."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from harness import wait_for

import sidecar

Run = Callable[..., Any]
Script = Callable[..., "subprocess.CompletedProcess[str]"]


class Driven:
    """One loop and the way to run something on it: as any loop, or by a call of its bridge."""

    def __init__(self, loop: Any, run: Run) -> None:
        self.loop, self.run = loop, run


@pytest.fixture(params=["plain", "bridge"])
def driven(request: pytest.FixtureRequest) -> Iterator[Driven]:
    if request.param == "bridge":
        with sidecar.Sidecar() as bridge:
            yield Driven(bridge.get_loop(), bridge.run_sync)
        return
    loop = sidecar.Loop()
    yield Driven(loop, loop.run_until_complete)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def in_thread(function: Callable[[], Any]) -> Any:
    """What it returns, or raises, on a thread of its own."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(function).result(20)


def block() -> None:
    time.sleep(0.02)


# -- debug mode ----------------------------------------------------------------------

HOW_TO_DEBUG = {"variable": ((), {"PYTHONASYNCIODEBUG": "1"}), "option": (("-X", "dev"), {})}


class TestDebug:
    @pytest.mark.parametrize("how", HOW_TO_DEBUG)
    def test_is_asked_for_from_outside(self, how: str) -> None:
        options, variables = HOW_TO_DEBUG[how]
        code = (
            "import sidecar; loop = sidecar.Loop(); print(loop.get_debug()); loop.close();"
            "bridge = sidecar.Sidecar(); print(bridge.get_loop().get_debug()); bridge.shutdown()"
        )
        for extra, expected in (((), "False\nFalse\n"), (options, "True\nTrue\n")):
            environment = {**os.environ, **(variables if expected.startswith("True") else {})}
            command = [sys.executable, *extra, "-c", code]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
            assert done.stdout == expected, done.stderr

    def test_coroutines_know_where_they_were_made(self, driven: Driven) -> None:
        async def depth() -> int:
            await asyncio.sleep(0)
            return sys.get_coroutine_origin_tracking_depth()

        before = sys.get_coroutine_origin_tracking_depth()
        driven.loop.set_debug(True)
        assert driven.run(depth()) > 0
        assert sys.get_coroutine_origin_tracking_depth() == before
        driven.loop.set_debug(False)
        assert driven.run(depth()) == before

    def test_switched_on_by_what_runs(self, driven: Driven) -> None:
        """The thread that drove is left as it was."""

        async def switch(on: bool) -> int:
            driven.loop.set_debug(on)
            await asyncio.sleep(0.001)
            return sys.get_coroutine_origin_tracking_depth()

        before = sys.get_coroutine_origin_tracking_depth()
        assert in_thread(lambda: (driven.run(switch(True)) > 0, sys.get_coroutine_origin_tracking_depth())) == (
            True,
            before,
        )
        assert driven.run(switch(False)) == before
        assert sys.get_coroutine_origin_tracking_depth() == before

    def test_names_slow_callbacks_and_tasks(self, driven: Driven, caplog: pytest.LogCaptureFixture) -> None:
        async def slow_coroutine() -> None:
            block()

        def slow_callback() -> None:
            block()

        async def main() -> None:
            driven.loop.call_soon(slow_callback)
            await asyncio.get_running_loop().create_task(slow_coroutine())
            await asyncio.sleep(0)

        driven.loop.set_debug(True)
        driven.loop.slow_callback_duration = 0.01
        with caplog.at_level(logging.WARNING, "asyncio"):
            driven.run(main())
        texts = [record.getMessage() for record in caplog.records if "Executing" in record.getMessage()]
        for name, kind in (("slow_coroutine", "<Task"), ("slow_callback", "<Handle")):
            found = [text for text in texts if name in text]
            assert found and kind in found[0] and " took 0.0" in found[0], texts

    def test_a_handle_says_where_it_was_made(self, driven: Driven) -> None:
        async def make() -> Any:
            return driven.loop.call_later(60, print)

        driven.loop.set_debug(True)
        handle = driven.run(make())
        assert any(__file__ in frame.filename for frame in handle._source_traceback)
        handle.cancel()


# -- exception handlers ------------------------------------------------------------------


class TestExceptionHandlers:
    def test_get_what_was_set(self, driven: Driven) -> None:
        assert driven.loop.get_exception_handler() is None

        def handler(loop: Any, context: dict[str, Any]) -> None:
            pass

        driven.loop.set_exception_handler(handler)
        assert driven.loop.get_exception_handler() is handler
        driven.loop.set_exception_handler(None)
        assert driven.loop.get_exception_handler() is None
        with pytest.raises(TypeError, match="callable"):
            driven.loop.set_exception_handler("none")

    def test_a_callback_fails(self, driven: Driven) -> None:
        seen: list[dict[str, Any]] = []

        async def main() -> None:
            driven.loop.call_soon(lambda: 1 / 0)
            driven.loop.call_later(0.001, lambda: {}[1])
            await asyncio.sleep(0.02)

        driven.loop.set_exception_handler(lambda loop, context: seen.append({"loop": loop, **context}))
        driven.run(main())
        assert [type(context["exception"]) for context in seen] == [ZeroDivisionError, KeyError]
        assert all(context["loop"] is driven.loop for context in seen)

    def test_the_default_logs(self, driven: Driven, caplog: pytest.LogCaptureFixture) -> None:
        async def main() -> None:
            driven.loop.call_soon(lambda: 1 / 0)
            await asyncio.sleep(0)

        driven.run(main())
        (record,) = [each for each in caplog.records if each.name == "asyncio"]
        assert "Exception in callback" in record.getMessage() and record.exc_info

    def test_one_that_fails_is_reported_too(self, driven: Driven, caplog: pytest.LogCaptureFixture) -> None:
        def broken(loop: Any, context: dict[str, Any]) -> None:
            raise KeyError("broken handler")

        async def main() -> int:
            driven.loop.call_soon(lambda: 1 / 0)
            await asyncio.sleep(0)
            return 1

        driven.loop.set_exception_handler(broken)
        assert driven.run(main()) == 1
        assert any("Unhandled error in exception handler" in record.getMessage() for record in caplog.records)


# -- task factories ------------------------------------------------------------------------


class TestTaskFactories:
    def test_makes_all_tasks(self, driven: Driven) -> None:
        made: list[Any] = []

        def factory(loop: Any, coro: Any, **options: Any) -> asyncio.Task[Any]:
            made.append(coro.__name__)
            return asyncio.Task(coro, loop=loop, **options)

        async def inner() -> int:
            return 1

        async def main() -> int:
            return await asyncio.get_running_loop().create_task(inner())

        driven.loop.set_task_factory(factory)
        assert driven.loop.get_task_factory() is factory
        assert driven.run(main()) == 1
        assert made == ["main", "inner"]
        driven.loop.set_task_factory(None)
        assert driven.loop.get_task_factory() is None
        with pytest.raises(TypeError, match="callable"):
            driven.loop.set_task_factory("none")

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are newer")
    def test_eager_tasks(self, driven: Driven) -> None:
        ran: list[str] = []

        async def at_once() -> str:
            ran.append("inner")
            return "done"

        async def waits() -> str:
            ran.append("begun")
            await asyncio.sleep(0.001)
            return "woken"

        async def main() -> tuple[bool, list[str], list[str]]:
            loop = asyncio.get_running_loop()
            first, second = loop.create_task(at_once()), loop.create_task(waits())
            done = first.done() and not second.done()
            before = list(ran)
            return done, before, await asyncio.gather(first, second)

        driven.loop.set_task_factory(asyncio.eager_task_factory)
        assert driven.run(main()) == (True, ["inner", "begun"], ["done", "woken"])


# -- from elsewhere ----------------------------------------------------------------------------


class TestThreadsafe:
    def test_from_many_threads(self, driven: Driven) -> None:
        count, each = 8, 200

        async def main() -> list[int]:
            loop, numbers = asyncio.get_running_loop(), []
            full = loop.create_future()

            def take(number: int) -> None:
                numbers.append(number)
                if len(numbers) == count * each:
                    full.set_result(None)

            def give(first: int) -> None:
                for number in range(first, first + each):
                    loop.call_soon_threadsafe(take, number)

            threads = [threading.Thread(target=give, args=(each * i,)) for i in range(count)]
            for thread in threads:
                thread.start()
            await asyncio.wait_for(full, 20)
            for thread in threads:
                thread.join()
            return numbers

        numbers = driven.run(main())
        assert sorted(numbers) == list(range(count * each))
        for i in range(count):  # in the order in which each thread gave them
            mine = [number for number in numbers if i * each <= number < (i + 1) * each]
            assert mine == sorted(mine)

    def test_from_a_signal_handler(self, driven: Driven) -> None:
        """It interrupts the loop's sleep, or its work."""

        async def main() -> str:
            loop = asyncio.get_running_loop()
            came: asyncio.Future[str] = loop.create_future()
            answer = came.set_result
            signal.signal(signal.SIGUSR1, lambda *_: loop.call_soon_threadsafe(answer, "came") and None)
            timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
            timer.start()
            try:
                return await asyncio.wait_for(came, 20)
            finally:
                timer.join()

        before = signal.getsignal(signal.SIGUSR1)
        try:
            assert driven.run(main()) == "came"
        finally:
            signal.signal(signal.SIGUSR1, before)

    def test_where_nobody_runs_it(self) -> None:
        """A plain loop keeps what comes until it is run; a bridge's is run by its pump."""
        loop, ran = sidecar.Loop(), threading.Event()
        in_thread(lambda: loop.call_soon_threadsafe(ran.set))
        assert not ran.is_set()
        loop.run_until_complete(asyncio.sleep(0))
        assert ran.is_set()
        loop.close()
        with sidecar.Sidecar() as bridge:
            ran = threading.Event()
            in_thread(lambda: bridge.get_loop().call_soon_threadsafe(ran.set))
            assert ran.wait(20)

    def test_refused_once_closed(self, driven: Driven) -> None:
        loop = sidecar.Loop()
        loop.close()
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            in_thread(lambda: loop.call_soon_threadsafe(print))
        bridge = sidecar.Sidecar().start()
        loop = bridge.get_loop()
        bridge.shutdown()
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            in_thread(lambda: loop.call_soon_threadsafe(print))


class TestSignalHandlers:
    def test_where_the_main_thread_drives(self, driven: Driven) -> None:
        async def main() -> tuple[str, bool, int | None]:
            loop = asyncio.get_running_loop()
            came: asyncio.Future[str] = loop.create_future()
            loop.add_signal_handler(signal.SIGUSR1, came.set_result, "came")
            os.kill(os.getpid(), signal.SIGUSR1)
            answer = await asyncio.wait_for(came, 20)
            return answer, loop.remove_signal_handler(signal.SIGUSR1), driven.loop._thread_id

        assert driven.run(main()) == ("came", True, threading.main_thread().ident)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL

    def test_while_the_pump_drives(self) -> None:
        """Added by the main thread's call; the signal comes while another thread has the loop."""
        with sidecar.Sidecar() as bridge:
            came = threading.Event()

            async def add() -> None:
                asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, came.set)

            async def remove() -> bool:
                return asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)

            bridge.run_sync(add())
            signal.raise_signal(signal.SIGUSR1)
            wait_for(came.is_set, "the handler ran")
            assert bridge.run_sync(remove())

    def test_on_another_thread_the_error_says_so(self, driven: Driven) -> None:
        async def add() -> None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)

        with pytest.raises((RuntimeError, ValueError), match="main thread"):
            in_thread(lambda: driven.run(add()))
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL

    def test_bad_ones(self, driven: Driven) -> None:
        async def add(number: Any) -> None:
            asyncio.get_running_loop().add_signal_handler(number, print)

        for number, error in ((signal.SIGKILL, RuntimeError), (9999, ValueError), ("USR1", TypeError)):
            with pytest.raises(error):
                driven.run(add(number))


# -- ends --------------------------------------------------------------------------------------


class TestEnds:
    def test_async_generators_are_closed(self, driven: Driven) -> None:
        closed: list[str] = []
        kept: list[AsyncIterator[int]] = []

        async def numbers(name: str) -> AsyncIterator[int]:
            try:
                yield 1
                yield 2
            finally:
                await asyncio.sleep(0)
                closed.append(name)

        async def begin(name: str) -> None:
            kept.append(numbers(name))
            assert await kept[-1].__anext__() == 1

        driven.run(begin("kept"))
        driven.run(begin("other"))
        assert closed == []
        driven.run(driven.loop.shutdown_asyncgens())
        assert sorted(closed) == ["kept", "other"]

    @pytest.mark.filterwarnings("ignore:asynchronous generator .* was scheduled after:ResourceWarning")
    def test_async_generators_begun_after_that_warn(self, driven: Driven) -> None:
        async def numbers() -> AsyncIterator[int]:
            yield 1

        async def main() -> None:
            await driven.loop.shutdown_asyncgens()
            generator = numbers()
            with pytest.warns(ResourceWarning, match="was scheduled after"):
                await generator.__anext__()
            await generator.aclose()

        driven.run(main())

    def test_the_executors_shutdown_waits_for_its_jobs(self) -> None:
        loop, ended = sidecar.Loop(), []

        async def main() -> None:
            job = loop.run_in_executor(None, lambda: (time.sleep(0.05), ended.append(1)))
            await loop.shutdown_default_executor()
            assert ended == [1]
            with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
                loop.run_in_executor(None, print)
            await job

        loop.run_until_complete(main())
        loop.close()

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.Runner is newer")
    def test_a_runner_ends_what_is_left(self) -> None:
        ended: list[str] = []

        async def forever() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                ended.append("task")

        async def main() -> Any:
            asyncio.get_running_loop().create_task(forever())
            await asyncio.sleep(0)
            return asyncio.get_running_loop()

        with asyncio.Runner(loop_factory=sidecar.Loop) as runner:
            loop = runner.run(main())
            assert type(loop) is sidecar.Loop and loop is runner.get_loop()
            assert runner.run(main()) is loop and ended == []
        assert ended == ["task", "task"] and loop.is_closed()


# -- tasks ----------------------------------------------------------------------------------------


class TestTasks:
    def test_current_task(self, driven: Driven) -> None:
        async def inner() -> Any:
            return asyncio.current_task()

        async def main() -> None:
            me = asyncio.current_task()
            assert me is not None and me is await inner() and asyncio.current_task(driven.loop) is me
            other = asyncio.get_running_loop().create_task(inner())
            assert await other is other
            assert asyncio.current_task() is me

        driven.run(main())
        assert asyncio.current_task(driven.loop) is None
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.current_task()

    def test_all_tasks(self, driven: Driven) -> None:
        """What a library that ends or awaits all tasks sees is what it would see on asyncio's loop."""

        async def wait(event: asyncio.Event) -> None:
            await event.wait()

        async def main() -> tuple[set[Any], set[Any]]:
            event = asyncio.Event()
            mine = {asyncio.get_running_loop().create_task(wait(event)) for _ in range(3)}
            await asyncio.sleep(0)
            seen = asyncio.all_tasks()
            event.set()
            await asyncio.gather(*mine)
            return seen, {asyncio.current_task(), *mine}

        seen, expected = driven.run(main())
        assert {task for task in seen if task.get_name() != "sidecar-root"} == expected
        assert {task for task in asyncio.all_tasks(driven.loop) if task.get_name() != "sidecar-root"} == set()

    @pytest.mark.parametrize("command", ["ps", "pstree"])
    @pytest.mark.parametrize("kind", ["plain", "bridge"])
    @pytest.mark.skipif(sys.version_info < (3, 14), reason="python -m asyncio ps is newer")
    def test_seen_from_outside(self, kind: str, command: str, run_script: Script) -> None:
        """``python -m asyncio ps PID`` finds the tasks of the loop that the main thread runs, or drives."""
        done = run_script(WATCHED, kind, command, seconds=100.0)
        if "Permission denied" in done.stderr or "Operation not permitted" in done.stderr:
            pytest.skip("this system does not let one process look into another")
        assert done.returncode == 0, done.stderr
        for name in ("sleeper", "inner-task"):
            assert name in done.stdout, done.stdout + done.stderr


WATCHED = """
import asyncio, os, subprocess, sys, threading
import sidecar

ready = threading.Event()

async def sleeper():
    task = asyncio.get_running_loop().create_task(asyncio.sleep(3600), name="inner-task")
    await asyncio.sleep(0)
    ready.set()
    await task

def look():
    assert ready.wait(20)
    command = [sys.executable, "-m", "asyncio", sys.argv[2], str(os.getpid())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    print(done.stdout, flush=True)
    print(done.stderr, file=sys.stderr, flush=True)
    os._exit(done.returncode)

threading.Thread(target=look).start()
if sys.argv[1] == "plain":
    asyncio.run(sleeper(), loop_factory=sidecar.Loop)
else:
    sidecar.run_sync(sleeper())
"""
