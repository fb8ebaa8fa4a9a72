"""A plain loop's run: its marks, how it ends, and the wake-up descriptor that it keeps from sleep to sleep."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from harness import wait_for

import sidecar

WhenAsleep = Callable[..., "concurrent.futures.Future[None]"]


@pytest.fixture
def loop() -> Iterator[sidecar.Loop]:
    loop = sidecar.Loop()
    yield loop
    loop.close()


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGUSR1, signal.SIGINT)}
    descriptor = wakeup_descriptor()
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
    signal.set_wakeup_fd(descriptor)


@pytest.fixture
def executor() -> Iterator[concurrent.futures.Executor]:
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
def when_asleep(loop: sidecar.Loop, executor: concurrent.futures.Executor) -> WhenAsleep:
    """Once the thread that asks sleeps in the loop's epoll, ``act`` on another; ``until`` must then come true.

    Where it does not, the loop is stopped all the same and the future has the failure.
    """

    def start(act: Callable[[], object], until: Callable[[], object]) -> concurrent.futures.Future[None]:
        sleeper = threading.get_native_id()

        def watch() -> None:
            try:
                wait_for(lambda: sleeps_in_epoll(sleeper), "the loop sleeps", seconds=10)
                act()
                wait_for(until, "the sleeping loop has noticed", seconds=10)
            except BaseException:
                loop.call_soon_threadsafe(loop.stop)
                raise

        return executor.submit(watch)

    return start


@pytest.fixture
def foreign_wakeup() -> Iterator[tuple[socket.socket, int]]:
    """A wake-up descriptor of somebody else's, not yet set, and the socket that gets what is written to it."""
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        yield reader, writer.fileno()
        signal.set_wakeup_fd(-1)


def sleeps_in_epoll(native_id: int) -> bool:
    """The kernel says in which system call a thread sleeps, and its arguments: here the first one counts."""
    words = Path(f"/proc/self/task/{native_id}/syscall").read_text().split()
    try:
        return os.readlink(f"/proc/self/fd/{int(words[1], 16)}") == "anon_inode:[eventpoll]"
    except (IndexError, OSError):
        return False


def wakeup_descriptor() -> int:
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    return descriptor


def send_usr1() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def send_usr1_to_myself() -> None:
    """The system call in which another thread sleeps is not interrupted."""
    signal.raise_signal(signal.SIGUSR1)


def marks(loop: sidecar.Loop) -> tuple[Any, bool, int | None, int]:
    depth = sys.get_coroutine_origin_tracking_depth()
    return asyncio._get_running_loop(), loop.is_running(), loop._thread_id, depth


class TestMarks:
    @pytest.mark.parametrize("debug", [False, True])
    @pytest.mark.parametrize("method", ["run_forever", "run_until_complete"])
    def test_a_refused_run_leaves_those_of_the_outer_one(self, loop, method, debug):
        loop.set_debug(debug)
        other = sidecar.Loop()
        coroutine = asyncio.sleep(0)
        arguments = (coroutine,) if method == "run_until_complete" else ()

        async def again():
            before = marks(loop)
            assert before[:3] == (loop, True, threading.get_ident()) and bool(before[3]) == debug
            for inner, text in ((loop, "already running"), (other, "another loop is running")):
                with pytest.raises(RuntimeError, match=text):
                    getattr(inner, method)(*arguments)
                assert marks(loop) == before
                assert marks(other)[1:3] == (False, None)
            await asyncio.sleep(0.001)
            return "went on"

        try:
            assert loop.run_until_complete(again()) == "went on"
        finally:
            coroutine.close()
            other.close()
        assert marks(loop) == (None, False, None, 0)

    @pytest.mark.parametrize("error", [None, KeyboardInterrupt])
    def test_hooks_of_async_generators_are_the_loops_for_the_run(self, loop, error):
        first, final = (lambda _: None), (lambda _: None)
        seen = []

        def look():
            seen.append(sys.get_asyncgen_hooks())
            loop.stop()
            if error:
                raise error

        before = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(first, final)
        try:
            loop.call_soon(look)
            with pytest.raises(error) if error else contextlib.nullcontext():
                loop.run_forever()
            assert tuple(sys.get_asyncgen_hooks()) == (first, final)
        finally:
            sys.set_asyncgen_hooks(*before)
        assert tuple(seen[0]) == (loop._asyncgen_firstiter_hook, loop._asyncgen_finalizer_hook)

    def test_debug_mode_tracks_origins_for_the_run_only(self, loop):
        depths = []

        async def switch_on():
            loop.set_debug(True)
            await asyncio.sleep(0)
            depths.append(sys.get_coroutine_origin_tracking_depth())

        for _ in range(2):
            loop.run_until_complete(switch_on())
            depths.append(sys.get_coroutine_origin_tracking_depth())
        assert [depth > 0 for depth in depths] == [True, False] * 2


class TestTheEnd:
    def test_stop_before_the_run_lets_one_round_pass(self, loop):
        ran = []

        def first():
            ran.append("first round")
            loop.call_soon(ran.append, "second round")

        loop.call_soon(first)
        loop.stop()
        loop.run_forever()
        assert ran == ["first round"]

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
    def test_an_exit_from_a_callback_leaves_the_loop_usable(self, loop, kind):
        def leave():
            loop.stop()
            raise kind("out of here")

        ran = []
        loop.call_soon(leave)
        loop.call_soon(ran.append, "what was ready")
        with pytest.raises(kind, match="out of here"):
            loop.run_forever()
        assert marks(loop) == (None, False, None, 0) and not loop.is_closed()
        assert loop.run_until_complete(asyncio.sleep(0.001, "still works")) == "still works"
        assert ran == ["what was ready"]

    def test_stopped_before_the_future_is_done(self, loop):
        loop.call_soon(loop.stop)
        with pytest.raises(RuntimeError, match="Event loop stopped before Future completed"):
            loop.run_until_complete(loop.create_future())
        assert marks(loop)[:2] == (None, False)

    def test_rounds_of_a_subclass_are_called(self):
        class Counting(sidecar.Loop):
            rounds = 0

            def _run_once(self):
                self.rounds += 1
                super()._run_once()

        loop = Counting()
        try:
            assert loop.run_until_complete(asyncio.sleep(0, 3)) == 3
            assert loop.rounds >= 2
        finally:
            loop.close()


class TestWakeupDescriptor:
    def test_stays_from_sleep_to_sleep_and_is_gone_after_the_run(self, loop):
        seen = []

        async def look():
            seen.append(wakeup_descriptor())
            for _ in range(2):
                await asyncio.sleep(0.001)
                seen.append(wakeup_descriptor())

        for _ in range(2):
            loop.run_until_complete(look())
            assert wakeup_descriptor() == -1
        assert seen[0] == seen[3] == -1, "set by the first sleep of a run, not before"
        assert len(set(seen) - {-1}) == 1 and len(set(seen[1:3])) == 1

    def test_a_run_on_another_thread_sets_none(self, loop, executor):
        runner = executor.submit(threading.get_native_id).result()
        run = executor.submit(loop.run_forever)
        wait_for(lambda: sleeps_in_epoll(runner), "the loop sleeps")
        descriptor = wakeup_descriptor()
        loop.call_soon_threadsafe(loop.stop)
        run.result(20)
        assert descriptor == -1

    @pytest.mark.parametrize("send", [send_usr1, send_usr1_to_myself])
    def test_a_signal_wakes_the_sleeping_loop_whatever_thread_gets_it(self, loop, when_asleep, send):
        for _ in range(2):
            handled = threading.Event()
            signal.signal(signal.SIGUSR1, lambda *_, handled=handled: (handled.set(), loop.stop()))
            sender = when_asleep(send, handled.is_set)
            loop.run_forever()
            sender.result()

    def test_interrupts_a_sleeping_run(self, loop, when_asleep):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sender = when_asleep(lambda: os.kill(os.getpid(), signal.SIGINT), lambda: not loop.is_running())
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
        sender.result()
        assert wakeup_descriptor() == -1
        assert loop.run_until_complete(asyncio.sleep(0.001, "still works")) == "still works"

    def test_somebody_elses_gets_its_bytes_while_the_loop_runs(self, loop, when_asleep, foreign_wakeup):
        reader, writer = foreign_wakeup
        signal.set_wakeup_fd(writer)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        received = []
        loop.add_reader(reader, lambda: (received.append(reader.recv(10)), loop.stop()))
        sender = when_asleep(send_usr1, lambda: received)
        loop.run_forever()
        sender.result()
        loop.remove_reader(reader)
        assert received == [bytes([signal.SIGUSR1])]
        assert wakeup_descriptor() == writer

    def test_somebody_elses_gets_the_rest_when_the_run_ends(self, loop, foreign_wakeup):
        reader, writer = foreign_wakeup
        signal.set_wakeup_fd(writer)
        signal.signal(signal.SIGUSR1, lambda *_: None)

        async def end_with_a_signal():
            await asyncio.sleep(0.001)
            signal.raise_signal(signal.SIGUSR1)

        loop.run_until_complete(end_with_a_signal())
        assert reader.recv(10) == bytes([signal.SIGUSR1])
        assert wakeup_descriptor() == writer

    @pytest.mark.parametrize("sleeps_after", [False, True])
    def test_one_that_is_set_in_the_run_stays(self, loop, foreign_wakeup, sleeps_after):
        async def set_theirs():
            await asyncio.sleep(0.001)
            signal.set_wakeup_fd(foreign_wakeup[1])
            await asyncio.sleep(0.001 if sleeps_after else 0)

        loop.run_until_complete(set_theirs())
        assert wakeup_descriptor() == foreign_wakeup[1]

    def test_signal_handlers_of_the_loop_come_and_go(self, loop, when_asleep):
        """With the last one asyncio resets the descriptor: the next sleep must set the loop's own again."""
        came, sender = [], []

        async def add_and_remove():
            for _ in range(3):
                event = asyncio.Event()
                await asyncio.sleep(0.001)
                loop.add_signal_handler(signal.SIGUSR1, event.set)
                await asyncio.sleep(0.001)
                send_usr1()
                await asyncio.wait_for(event.wait(), 20)
                loop.remove_signal_handler(signal.SIGUSR1)

        async def then_a_plain_handler():
            await add_and_remove()
            signal.signal(signal.SIGUSR1, lambda *_: (came.append(True), loop.stop()))
            sender.append(when_asleep(send_usr1_to_myself, lambda: came))

        task = loop.create_task(then_a_plain_handler())
        loop.run_forever()
        task.result()
        sender[0].result()
        assert wakeup_descriptor() == -1

    def test_a_signal_handler_of_the_loop_that_is_left_in_place_keeps_its_own(self, loop):
        async def add():
            await asyncio.sleep(0.001)
            loop.add_signal_handler(signal.SIGUSR1, print)
            await asyncio.sleep(0.001)

        loop.run_until_complete(add())
        assert wakeup_descriptor() == loop._csock.fileno()
        assert loop.remove_signal_handler(signal.SIGUSR1)
        assert wakeup_descriptor() == -1

    def test_a_bridges_wait_nested_in_the_run(self, loop, when_asleep, foreign_wakeup):
        """It finds the run's pipe as the wake-up descriptor and puts it back; the bytes go to whom they belong."""
        reader, writer = foreign_wakeup
        signal.set_wakeup_fd(writer)
        came, sender = [], []

        async def interrupted():
            asyncio.get_running_loop().call_later(0.001, send_usr1)
            while not came:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.001)  # a wait that finds the byte in the pipe
            return "nested"

        async def outer():
            await asyncio.sleep(0.001)
            before = wakeup_descriptor()
            signal.signal(signal.SIGUSR1, lambda *_: came.append("in the nested wait"))
            assert sidecar.run_sync(interrupted(), timeout=20) == "nested"
            assert wakeup_descriptor() == before != writer
            signal.signal(signal.SIGUSR1, lambda *_: (came.append("in the run"), loop.stop()))
            sender.append(when_asleep(send_usr1_to_myself, lambda: len(came) > 1))

        task = loop.create_task(outer())
        loop.run_forever()
        task.result()
        sender[0].result()
        assert came == ["in the nested wait", "in the run"]
        assert reader.recv(10) == bytes([signal.SIGUSR1] * 2)
        assert wakeup_descriptor() == writer
