"""sidecar.Loop by itself: an asyncio loop. What it does otherwise than a bridge's is tested here too."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
import weakref

import pytest
from harness import wait_for

import sidecar
from sidecar.errors import LoopOwnedError

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


@pytest.fixture
def loop():
    loop = sidecar.Loop()
    yield loop
    loop.close()


class TestPlain:
    def test_runs_a_coroutine(self, loop):
        async def work():
            await asyncio.sleep(0.001)
            return asyncio.get_running_loop()

        assert loop.run_until_complete(work()) is loop
        assert not loop.is_running()

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio.Runner takes loop_factory by asyncio.run from 3.12")
    def test_as_a_loop_factory(self):
        async def kind():
            return type(asyncio.get_running_loop())

        assert asyncio.run(kind(), loop_factory=sidecar.Loop) is sidecar.Loop

    def test_callbacks_run_in_order(self, loop):
        ran = []
        for number in range(200):
            loop.call_soon(ran.append, number)
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert ran == list(range(200))

    def test_stop_and_run_again(self, loop):
        for _ in range(3):
            loop.call_soon(loop.stop)
            loop.run_forever()

    def test_a_thread_wakes_it(self, loop):
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(loop.stop))
        loop.call_soon(thread.start)
        loop.run_forever()
        thread.join()

    def test_close_twice_and_then_refuse(self):
        loop = sidecar.Loop()
        loop.close()
        loop.close()
        assert loop.is_closed()
        for call in (loop.call_soon, loop.call_soon_threadsafe):
            with pytest.raises(RuntimeError, match="Event loop is closed"):
                call(print)
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            loop.call_later(1, print)

    def test_not_closed_while_it_runs(self, loop):
        async def close():
            loop.close()

        with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
            loop.run_until_complete(close())

    def test_streams(self, loop):
        async def talk():
            async def echo(reader, writer):
                writer.write(await reader.readline())
                await writer.drain()
                writer.close()

            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            async with server:
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                writer.write(b"hello\n")
                answer = await reader.readline()
                writer.close()
                await writer.wait_closed()
            return answer

        assert loop.run_until_complete(talk()) == b"hello\n"

    def test_reads_do_not_map_memory(self, loop):
        """One recv() asks for less than malloc's mmap threshold; what is larger comes in parts."""
        size = 1_000_000

        async def receive():
            ours, theirs = socket.socketpair()
            reader, writer = await asyncio.open_connection(sock=ours)
            sender = threading.Thread(target=lambda: (theirs.sendall(b"x" * size), theirs.close()))
            sender.start()
            data = await reader.read()
            sender.join()
            asked = writer.transport.max_size
            writer.close()
            await writer.wait_closed()
            return len(data), asked

        length, asked = loop.run_until_complete(receive())
        assert length == size and asked < 128 * 1024

    def test_subprocess(self, loop):
        async def run():
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(6 * 7)", stdout=-1)
            out, _ = await process.communicate()
            return out.strip(), process.returncode

        if sys.version_info < (3, 12):
            asyncio.set_event_loop(loop)  # the child watcher of those versions looks there
        try:
            assert loop.run_until_complete(run()) == (b"42", 0)
        finally:
            asyncio.set_event_loop(None)

    def test_executor(self, loop):
        async def run():
            return await loop.run_in_executor(None, threading.get_ident)

        assert loop.run_until_complete(run()) != threading.get_ident()
        loop.run_until_complete(loop.shutdown_default_executor())

    def test_debug_mode_refuses_foreign_threads(self, loop):
        loop.set_debug(True)
        errors = []

        def foreign():
            try:
                loop.call_soon(print)
            except RuntimeError as error:
                errors.append(str(error))
            loop.call_soon_threadsafe(loop.stop)

        thread = threading.Thread(target=foreign)
        loop.call_soon(thread.start)
        loop.run_forever()
        thread.join()
        assert errors and "Non-thread-safe operation" in errors[0]

    def test_debug_mode_names_slow_callbacks(self, loop, caplog):
        loop.set_debug(True)
        loop.slow_callback_duration = 0.001
        loop.call_soon(time.sleep, 0.01)
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert any("Executing" in record.message and "sleep" in record.message for record in caplog.records)

    def test_a_failing_callback_goes_to_the_exception_handler(self, loop):
        seen = []
        loop.set_exception_handler(lambda _, context: seen.append(context))

        def fail():
            raise ValueError("in a callback")

        handle = loop.call_soon(fail)
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert str(seen[0]["exception"]) == "in a callback"
        assert seen[0]["handle"] is handle
        assert "fail" in seen[0]["message"]


class TestArguments:
    @pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
    def test_any_number(self, loop, count):
        seen = []
        loop.call_soon(lambda *args: seen.append(args), *range(count))
        loop.call_later(0, lambda *args: (seen.append(args), loop.stop()), *range(count))
        loop.run_forever()
        assert seen == [tuple(range(count))] * 2

    @pytest.mark.parametrize(
        "call", [lambda loop: loop.call_soon(), lambda loop: loop.call_later(1), lambda loop: loop.call_at(1)]
    )
    def test_too_few(self, loop, call):
        with pytest.raises(TypeError, match="positional arguments"):
            call(loop)

    def test_unknown_keywords(self, loop):
        with pytest.raises(TypeError, match="unexpected keyword argument 'contxt'"):
            loop.call_soon(print, contxt=None)

    def test_no_delay(self, loop):
        with pytest.raises(TypeError, match="delay must not be None"):
            loop.call_later(None, print)
        with pytest.raises(TypeError, match="when cannot be None"):
            loop.call_at(None, print)

    def test_the_context_given_or_a_copy(self, loop):
        seen = []
        given = contextvars.Context()
        token = var.set("current")
        try:
            loop.call_soon(lambda: seen.append(var.get()))
            loop.call_soon(lambda: seen.append(var.get()), context=given)
        finally:
            var.reset(token)
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert seen == ["current", "unset"]


class TestHandles:
    def test_are_asyncios(self, loop):
        soon, later = loop.call_soon(print), loop.call_later(10, print)
        assert isinstance(soon, asyncio.Handle) and not isinstance(soon, asyncio.TimerHandle)
        assert isinstance(later, asyncio.TimerHandle)
        assert repr(soon).startswith("<Handle print()") and "TimerHandle when=" in repr(later)
        assert later.when() == pytest.approx(loop.time() + 10, abs=1)

    def test_cancelled_ones_do_not_run(self, loop):
        ran = []
        soon, later = loop.call_soon(ran.append, 1), loop.call_later(0.001, ran.append, 2)
        assert not soon.cancelled()
        soon.cancel()
        later.cancel()
        later.cancel()
        assert soon.cancelled() and later.cancelled()
        loop.call_later(0.005, loop.stop)
        loop.run_forever()
        assert ran == []

    def test_cancel_lets_the_callback_go(self, loop):
        class Thing:
            def method(self):
                pass

        thing = Thing()
        reference = weakref.ref(thing)
        handle = loop.call_later(3600, thing.method)
        del thing
        assert reference() is not None
        handle.cancel()
        assert reference() is None
        assert not handle._scheduled

    def test_weak_references_and_cycles(self, loop):
        handle = loop.call_later(3600, print)
        reference = weakref.ref(handle)
        handle.cancel()
        del handle
        gc.collect()
        assert reference() is None

    def test_order(self, loop):
        first, second = loop.call_at(1, print), loop.call_at(2, print)
        assert first < second and second > first and first <= first and first != second
        assert hash(first) == hash(1.0)

    def test_a_callback_that_cancels_its_own_handle(self, loop):
        handles = []
        handles.append(loop.call_soon(lambda: handles[0].cancel()))
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert handles[0].cancelled()


class TestTimers:
    def test_finer_than_a_millisecond(self, loop):
        async def measure():
            best = 1.0
            for _ in range(20):
                before = loop.time()
                await asyncio.sleep(0.0002)
                took = loop.time() - before
                assert took >= 0.0002
                best = min(best, took)
            return best

        # A selector rounds up to a whole millisecond; a loaded machine may be late, but not each time.
        assert loop.run_until_complete(measure()) < 0.001

    def test_equal_moments_keep_their_order(self, loop):
        ran, when = [], loop.time() + 0.01
        for number in range(50):
            loop.call_at(when, ran.append, number)
        loop.call_at(when, loop.stop)
        loop.run_forever()
        assert ran == list(range(50))

    def test_endless_ones_wait_for_good(self, loop):
        loop.call_later(float("inf"), pytest.fail)
        loop.call_later(0.001, loop.stop)
        loop.run_forever()


class TestDescriptors:
    def test_readers_and_writers(self, loop):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            got = []
            loop.add_writer(ours, lambda: (ours.send(b"out"), loop.remove_writer(ours)))
            loop.add_reader(ours, lambda: (got.append(ours.recv(10)), loop.stop()))
            loop.call_later(0.01, lambda: theirs.send(theirs.recv(10)))
            loop.run_forever()
            assert got == [b"out"]
            assert loop.remove_reader(ours) and not loop.remove_reader(ours)

    def test_a_new_reader_replaces_the_old(self, loop):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            loop.add_reader(ours, pytest.fail)
            loop.add_reader(ours, loop.stop)
            theirs.send(b"x")
            loop.run_forever()
            loop.remove_reader(ours)

    def test_a_number_used_again(self, loop):
        """Closed without remove_reader, as a careless library does; the number's next owner is watched."""
        ours, theirs = socket.socketpair()
        loop.add_reader(ours, pytest.fail)
        number = ours.fileno()
        ours.close()
        theirs.close()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            if ours.fileno() != number:
                os.dup2(ours.fileno(), number)
            loop.add_reader(number, loop.stop)
            theirs.send(b"x")
            loop.run_forever()
            loop.remove_reader(number)

    def test_a_number_by_way_of_int(self, loop):
        """As the selectors module takes it."""

        class Number:
            def __int__(self):
                return ours.fileno()

        class File:
            def fileno(self):
                return Number()

        ours, theirs = socket.socketpair()
        with ours, theirs:
            loop.add_reader(File(), loop.stop)
            theirs.send(b"x")
            loop.run_forever()
            assert loop.remove_reader(ours)

    def test_taken_out_after_it_was_closed(self, loop):
        ours, theirs = socket.socketpair()
        with theirs:
            loop.add_reader(ours, print)
            loop.add_writer(ours, print)
            held = weakref.ref(ours)
            ours.close()
            assert loop.remove_reader(ours) and loop.remove_writer(ours)
            with pytest.raises(ValueError):
                loop.remove_reader(ours)
            del ours
            assert held() is None

    def test_what_is_no_descriptor(self, loop):
        for given in ("no descriptor", None, -1, 1 << 40):
            with pytest.raises(ValueError):
                loop.add_reader(given, print)
            with pytest.raises(ValueError):
                loop.remove_writer(given)
        with pytest.raises(OSError):
            loop.add_reader(10_000, print)

    def test_a_regular_file_is_refused_as_by_epoll(self, loop, tmp_path):
        with open(tmp_path / "file", "w") as file, pytest.raises(PermissionError):
            loop.add_reader(file, print)


class TestTasks:
    def test_names_and_contexts(self, loop):
        async def work():
            return asyncio.current_task().get_name(), var.get()

        context = contextvars.Context()
        context.run(var.set, "given")

        async def main():
            options = {"context": context} if sys.version_info >= (3, 11) else {}
            return await loop.create_task(work(), name="mine", **options)

        expected = ("mine", "given") if sys.version_info >= (3, 11) else ("mine", "unset")
        assert loop.run_until_complete(main()) == expected

    def test_a_task_factory(self, loop):
        made = []

        def factory(loop, coro, **options):
            made.append(coro)
            return asyncio.Task(coro, loop=loop, **options)

        async def work():
            return 1

        loop.set_task_factory(factory)
        assert loop.get_task_factory() is factory
        assert loop.run_until_complete(work()) == 1
        assert len(made) == 1
        loop.set_task_factory(None)
        assert loop.get_task_factory() is None

    def test_futures(self, loop):
        future = loop.create_future()
        assert isinstance(future, asyncio.Future) and future.get_loop() is loop
        loop.call_soon(future.set_result, 3)
        assert loop.run_until_complete(future) == 3

    def test_what_is_no_coroutine(self, loop):
        with pytest.raises(TypeError):
            loop.create_task(3)
        with pytest.raises(TypeError):
            loop.create_task()


class TestSignals:
    def test_handlers(self, loop):
        loop.add_signal_handler(signal.SIGUSR1, loop.stop)
        loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        loop.run_forever()
        assert loop.remove_signal_handler(signal.SIGUSR1)


class TestBridgesLoop:
    @pytest.mark.parametrize("what", ["run_forever", "stop", "close"])
    def test_only_its_bridge_ends_it(self, what):
        loop = sidecar.get_bridge().get_loop()
        with pytest.raises(LoopOwnedError, match=what):
            getattr(loop, what)()

    def test_run_until_complete_leaves_no_coroutine_behind(self):
        async def work():
            pass

        with pytest.raises(LoopOwnedError):
            sidecar.get_bridge().get_loop().run_until_complete(work())

    def test_it_says_who_drives(self):
        loop = sidecar.get_bridge().get_loop()

        async def look():
            return loop.is_running(), loop._thread_id

        wait_for(lambda: not loop.is_running(), "nobody drives")
        assert loop._thread_id is None
        assert sidecar.run_sync(look()) == (True, threading.get_ident())

    @pytest.mark.filterwarnings("ignore::ResourceWarning")
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_streams_dropped_on_a_foreign_thread(self):
        """Their finalizers close them anywhere, and must not touch what the owner has."""
        server = socket.create_server(("127.0.0.1", 0))

        async def connect():
            return await asyncio.open_connection(*server.getsockname())

        async def churn(stop):
            while not stop.is_set():
                await asyncio.sleep(0)

        stop = threading.Event()
        owner = threading.Thread(target=lambda: sidecar.run_sync(churn(stop)))
        owner.start()
        try:
            for _ in range(30):
                streams = sidecar.run_sync(connect())
                peer = server.accept()[0]
                with peer:
                    streams[1].close() if sys.version_info < (3, 11, 5) else None  # its finalizer is newer
                    del streams
                    gc.collect()
                    peer.settimeout(20)
                    assert peer.recv(1) == b""
        finally:
            stop.set()
            owner.join()
            server.close()

    def test_debug_mode(self, caplog):
        caplog.set_level(logging.WARNING)
        with sidecar.Sidecar() as bridge:
            loop = bridge.get_loop()
            loop.set_debug(True)

            async def work():
                await asyncio.sleep(0.001)
                return await asyncio.gather(*(asyncio.sleep(0, n) for n in range(3)))

            assert bridge.run_sync(work()) == [0, 1, 2]
