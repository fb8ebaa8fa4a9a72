"""gevent, with its monkey patches: greenlets wait in calls, the hub runs on, and coroutines run on native threads.

Each script patches an interpreter of its own.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import sidecar

pytest.importorskip("gevent", reason="gevent is not installed (it has no wheel for free-threaded CPython)")

PATCHED = """\
from gevent import monkey
monkey.patch_all()

import asyncio, contextvars, gc, logging, os, signal, socket, sys, threading, time
import gevent
from gevent._hub_local import get_hub_if_exists
from harness import native_threads, open_descriptors, wait_for
import sidecar
from sidecar import Sidecar, run_sync

class NativeEvent:
    def __init__(self):
        self.lock = monkey.get_original("_thread", "allocate_lock")()
        self.lock.acquire()
    def set(self):
        self.lock.release()
    def is_set(self):
        return not self.lock.locked()
    def wait(self):
        assert self.lock.acquire(timeout=20)

done = []

async def tracked(seconds=60, cleanup=0.05, value=None):
    try:
        await asyncio.sleep(seconds)
    finally:
        await asyncio.sleep(cleanup)
        done.append("cleaned")
    return value

async def begun(started, *args):
    started.append(1)
    return await tracked(*args)

"""

Script = Callable[..., str]

# The package that is tested, wherever it is, and the tests' own helpers.
PYTHON_PATH = os.pathsep.join([str(Path(sidecar.__file__).parents[1]), str(Path(__file__).parents[1])])


@pytest.fixture
def script(run_script) -> Script:
    """Run a script in a patched interpreter; what it prints. It may log nothing but ``logs``."""

    def run(source: str, logs: str = "", prelude: str = PATCHED) -> str:
        environment = {**os.environ, "PYTHONPATH": PYTHON_PATH}
        ended = run_script(prelude + textwrap.dedent(source), env=environment)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        if logs:
            assert re.search(logs, ended.stderr, re.MULTILINE), ended.stderr
        else:
            assert ended.stderr == ""
        return ended.stdout

    return run


# -- waiting ---------------------------------------------------------------------


def test_three_calls_of_a_second_take_a_second(script):
    script(
        """
        ticks = []
        def tick():
            while True:
                gevent.sleep(0.05)
                ticks.append(1)
        ticking = gevent.spawn(tick)
        begin = time.monotonic()
        calls = [gevent.spawn(run_sync, asyncio.sleep(1, number)) for number in range(3)]
        gevent.joinall(calls)
        took = time.monotonic() - begin
        assert [call.value for call in calls] == [0, 1, 2]
        assert 1 <= took < 2, took
        assert len(ticks) >= 10, len(ticks)
        ticking.kill()
        """
    )


def test_hundreds_at_once(script):
    script(
        """
        from sidecar import _gevent
        begin = time.monotonic()
        calls = [gevent.spawn(run_sync, asyncio.sleep(0.5, number)) for number in range(400)]
        gevent.joinall(calls, raise_error=True)
        assert [call.value for call in calls] == list(range(400))
        assert time.monotonic() - begin < 10
        assert len(_gevent._waits) == 0
        """
    )


def test_coroutines_run_on_a_native_thread_without_a_hub(script):
    script(
        """
        async def where():
            await asyncio.sleep(0.01)
            return threading.get_native_id(), get_hub_if_exists()
        for _ in range(5):
            thread, hub = run_sync(where())
            assert thread != threading.get_native_id()
            assert hub is None
        """
    )


def test_exceptions_and_context_variables(script):
    script(
        """
        var = contextvars.ContextVar("var", default="none")
        async def show():
            seen = var.get()
            var.set("changed")
            await asyncio.sleep(0.05)
            return seen
        def greenlet(value):
            var.set(value)
            return run_sync(show()), var.get()
        calls = [gevent.spawn(greenlet, number) for number in range(5)]
        gevent.joinall(calls, raise_error=True)
        assert [call.value for call in calls] == [(number, number) for number in range(5)]
        assert var.get() == "none"

        context = contextvars.Context()
        assert run_sync(show(), context=context) == "none"

        async def fail():
            await asyncio.sleep(0.01)
            raise KeyError("mine")
        try:
            run_sync(fail())
        except KeyError as error:
            names = []
            entry = error.__traceback__
            while entry:
                names.append(entry.tb_frame.f_code.co_name)
                entry = entry.tb_next
            assert names == ["<module>", "fail"], names
        else:
            raise SystemExit("nothing raised")
        """
    )


def test_stream_steps_let_the_hub_run(script):
    script(
        """
        async def numbers():
            for number in range(3):
                await asyncio.sleep(0.2)
                yield number
        begin = time.monotonic()
        calls = [gevent.spawn(lambda: list(sidecar.get_bridge().stream(numbers))) for _ in range(5)]
        gevent.joinall(calls, raise_error=True)
        assert [call.value for call in calls] == [[0, 1, 2]] * 5
        assert time.monotonic() - begin < 2
        """
    )


def test_a_coroutine_talks_to_a_greenlet_of_the_same_process(script):
    script(
        """
        from gevent.server import StreamServer

        def answer(connection, address):
            lines = connection.makefile("rb")
            for line in lines:
                connection.sendall(line.upper())
            lines.close()
            connection.close()

        async def ask(port):
            reader, writer = await asyncio.open_connection("localhost", port)
            writer.write(b"hello\\n")
            line = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return line

        server = StreamServer(("127.0.0.1", 0), answer)
        server.start()
        assert run_sync(ask(server.server_port), timeout=10) == b"HELLO\\n"
        server.stop()
        """
    )


# -- ends ------------------------------------------------------------------------


def test_time_out(script):
    script(
        """
        ticks = []
        ticking = gevent.spawn(lambda: [(gevent.sleep(0.02), ticks.append(1)) for _ in range(5)])
        try:
            run_sync(tracked(), timeout=0.2)
        except sidecar.errors.CallTimeoutError as error:
            assert "tracked() at" in str(error)
        else:
            raise SystemExit("no time-out")
        assert done == ["cleaned"]
        assert len(ticks) == 5
        assert run_sync(asyncio.sleep(0.01, "next"), timeout=5) == "next"
        """
    )


def test_an_orphan_after_the_time_for_cleanup(script):
    script(
        """
        with Sidecar(cleanup_timeout=0.1) as bridge:
            try:
                bridge.run_sync(tracked(cleanup=1.0), timeout=0.1)
            except sidecar.errors.CallTimeoutError as error:
                assert "left behind as an orphan" in str(error)
            else:
                raise SystemExit("no time-out")
            assert done == []
            assert bridge.run_sync(asyncio.sleep(0.01, "next")) == "next"
            wait_for(lambda: done, "the orphan cleans up")
        """,
        logs=r"orphan: tracked\(\) at .* goes on",
    )


def test_a_timeout_of_gevents_cancels_and_waits_for_the_cleanup(script):
    script(
        """
        try:
            with gevent.Timeout(0.1):
                run_sync(tracked())
        except gevent.Timeout:
            assert done == ["cleaned"]
        else:
            raise SystemExit("no time-out")
        """
    )


def test_kill_cancels_and_waits_for_the_cleanup(script):
    script(
        """
        started = []
        call = gevent.spawn(run_sync, begun(started))
        wait_for(lambda: started, "the call has begun")
        call.kill()
        assert done == ["cleaned"]
        assert isinstance(call.value, gevent.GreenletExit)

        # Of a greenlet whose call has not begun yet.
        with Sidecar() as bridge:
            def block():
                entered.set()
                free.wait()
            async def blocking():
                block()
            entered, free = NativeEvent(), NativeEvent()
            first = gevent.spawn(bridge.run_sync, blocking())
            wait_for(entered.is_set, "the loop is blocked")
            waiting = gevent.spawn(bridge.run_sync, begun(started))
            gevent.sleep(0)
            waiting.kill(block=False)
            gevent.sleep(0)
            assert not waiting.dead
            free.set()
            waiting.join(20)
            first.get(timeout=20)
            assert isinstance(waiting.value, gevent.GreenletExit)
        """
    )


def test_a_second_kill_ends_the_wait_for_the_cleanup(script):
    script(
        """
        started = []
        call = gevent.spawn(run_sync, begun(started, 60, 0.5))
        wait_for(lambda: started, "the call has begun")
        begin = time.monotonic()
        call.kill(block=False)
        gevent.sleep(0.05)
        assert not call.dead
        call.kill(block=False)
        call.join(0.4)
        assert call.dead and done == []
        wait_for(lambda: done, "the orphan cleans up")
        """,
        logs=r"orphan: begun\(\) at .* goes on",
    )


def test_ctrl_c_in_the_main_greenlet(script):
    script(
        """
        # Another process sends it, so that it arrives while the hub sleeps.
        killer = os.spawnlp(os.P_NOWAIT, "sh", "sh", "-c", f"sleep 0.3; kill -INT {os.getpid()}")
        try:
            run_sync(tracked(20))
        except KeyboardInterrupt:
            assert done == ["cleaned"]
        else:
            raise SystemExit("no interrupt")
        assert run_sync(asyncio.sleep(0.01, "next")) == "next"
        os.waitpid(killer, 0)
        """,
        logs="^KeyboardInterrupt$",  # gevent's own line
    )


def test_where_nobody_may_wait(script):
    script(
        """
        import warnings
        warnings.simplefilter("error")
        seen = []
        def callback():
            try:
                run_sync(asyncio.sleep(0))
            except sidecar.errors.DeadlockError as error:
                seen.append(str(error))
        gevent.get_hub().loop.run_callback(callback)
        gevent.sleep(0.05)
        assert "hub" in seen[0] and "gevent.spawn" in seen[0], seen

        async def inside():
            return run_sync(asyncio.sleep(0))
        try:
            run_sync(inside())
        except sidecar.errors.DeadlockError as error:
            assert "inside()" in str(error)
        else:
            raise SystemExit("no error")
        gc.collect()
        """
    )


# -- native threads ----------------------------------------------------------------


def test_the_pool_is_native(script):
    script(
        """
        import concurrent.futures
        pool_of = lambda bridge: bridge.get_loop()._default_executor

        async def resolve():
            return await asyncio.get_running_loop().getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
        async def name():
            return await asyncio.get_running_loop().getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST)
        async def on_pool(function, *args):
            return await asyncio.get_running_loop().run_in_executor(None, function, *args)
        async def many(count):
            return sum(await asyncio.gather(*(on_pool(int, 1) for _ in range(count))))

        def where():
            return threading.get_native_id(), get_hub_if_exists()

        assert {"127.0.0.1", "::1"} & {entry[4][0] for entry in run_sync(resolve(), timeout=20)}
        assert run_sync(name(), timeout=20) == ("127.0.0.1", "80") or run_sync(name())[0] == "127.0.0.1"
        thread, hub = run_sync(on_pool(where))
        assert thread != threading.get_native_id() and hub is None
        assert run_sync(many(2000), timeout=30) == 2000

        # Two blocking functions at once, and the hub goes on.
        begin = time.monotonic()
        native_sleep = monkey.get_original("time", "sleep")
        calls = [gevent.spawn(run_sync, on_pool(native_sleep, 0.5)) for _ in range(4)]
        gevent.joinall(calls, raise_error=True)
        assert time.monotonic() - begin < 1.5

        # A job may call back, from its thread without a hub and after it has got one.
        assert run_sync(on_pool(lambda: run_sync(asyncio.sleep(0.01, 1)))) == 1
        assert run_sync(on_pool(lambda: (time.sleep(0.01), run_sync(asyncio.sleep(0.01, 2)))[1])) == 2

        # Greenlets wait for its futures, the main one too.
        pool = pool_of(sidecar.get_bridge())
        assert pool.submit(lambda: (native_sleep(0.05), 3)[1]).result() == 3
        late = [pool.submit(native_sleep, 0.05) for _ in range(3)]
        assert len(concurrent.futures.wait(late).done) == 3
        assert {f.result() for f in concurrent.futures.as_completed(late)} == {None}
        failing = pool.submit(int, "no number")
        assert isinstance(failing.exception(timeout=20), ValueError)

        # One that is cancelled while others keep the threads busy.
        with Sidecar(workers=1) as small:
            pool = pool_of(small)
            busy, cancelled = pool.submit(native_sleep, 0.2), pool.submit(native_sleep, 0)
            assert cancelled.cancel()
            assert concurrent.futures.wait([busy, cancelled], timeout=20).done == {busy, cancelled}
        """
    )


def test_to_caller_runs_in_the_greenlet_that_waits(script):
    script(
        """
        def errand(number):
            gevent.sleep(0.3)
            return gevent.getcurrent(), number

        async def back(number):
            greenlet, number = await sidecar.to_caller(errand, number)
            await asyncio.sleep(0.01)
            return greenlet, await sidecar.to_caller(errand, number)

        begin = time.monotonic()
        calls = [gevent.spawn(run_sync, back(number)) for number in range(5)]
        gevent.joinall(calls, raise_error=True)
        assert [call.value for call in calls] == [(call, (call, number)) for number, call in enumerate(calls)]
        assert time.monotonic() - begin < 2

        # A kill in the middle of an errand ends the coroutine as well.
        entered = []
        async def sends():
            try:
                await sidecar.to_caller(lambda: (entered.append(1), gevent.sleep(60)))
            finally:
                done.append("cleaned")
        call = gevent.spawn(run_sync, sends())
        wait_for(lambda: gevent.sleep(0) or entered, "the errand has begun")
        call.kill(timeout=20)
        assert call.dead
        wait_for(lambda: done, "the coroutine has ended")
        assert run_sync(asyncio.sleep(0.01, "next")) == "next"
        """
    )


def test_submit_and_gather(script):
    script(
        """
        native_sleep = monkey.get_original("time", "sleep")
        async def value(number):
            await asyncio.sleep(0.3)
            return number
        # Nothing else is there that keeps the hub going.
        assert sidecar.submit(lambda: (native_sleep(0.05), 1)[1]).result() == 1
        assert sidecar.submit(value(2)).result() == 2
        late = sidecar.submit(value(3))
        assert late.cancel() and not late.running()
        begin = time.monotonic()
        calls = [gevent.spawn(lambda n=n: sidecar.submit(value(n)).result()) for n in range(10)]
        calls += [gevent.spawn(lambda n=n: sidecar.gather(value(n), value(n + 1))) for n in range(10)]
        gevent.joinall(calls, raise_error=True)
        assert [call.value for call in calls] == [*range(10), *([n, n + 1] for n in range(10))]
        assert time.monotonic() - begin < 2
        """
    )


def test_futures_of_the_pool_under_contention(script):
    """Pool threads settle futures that greenlets and the loop look at: nobody is stuck, no thread gets a hub."""
    script(
        """
        async def on_pool(function, *args):
            return await asyncio.get_running_loop().run_in_executor(None, function, *args)
        sys.setswitchinterval(1e-5)
        pool = sidecar.get_bridge().start().get_loop()._default_executor
        hubs = []
        def job(number):
            hubs.append(get_hub_if_exists())
            return number
        def direct(number):
            return sum(pool.submit(job, 1).result() for _ in range(50))
        async def on_loop():
            return sum(await asyncio.gather(*(on_pool(job, 1) for _ in range(50))))
        calls = [gevent.spawn(direct, number) for number in range(20)]
        calls += [gevent.spawn(run_sync, on_loop()) for number in range(20)]
        gevent.joinall(calls, timeout=40, raise_error=True)
        assert [call.value for call in calls] == [50] * 40
        assert hubs == [None] * 2000
        """
    )


def test_sockets(script):
    script(
        """
        class Echo(asyncio.DatagramProtocol):
            def connection_made(self, transport):
                self.transport = transport
            def datagram_received(self, data, address):
                self.transport.sendto(data, address)

        async def echo(reader, writer):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()

        async def streams(server, connect):
            reader, writer = await connect()
            data = bytes(500_000)
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()

        async def tcp():
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            await streams(server, lambda: asyncio.open_connection(*server.sockets[0].getsockname()))

        async def unix():
            server = await asyncio.start_unix_server(echo, "socket")
            await streams(server, lambda: asyncio.open_unix_connection("socket"))

        async def udp():
            loop = asyncio.get_running_loop()
            served, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
            got = loop.create_future()
            class Ask(asyncio.DatagramProtocol):
                def datagram_received(self, data, address):
                    got.set_result(data)
            asking, _ = await loop.create_datagram_endpoint(Ask, remote_addr=served.get_extra_info("sockname"))
            asking.sendto(b"ping")
            assert await got == b"ping"
            asking.close()
            served.close()

        async def no_hub(coroutine):
            await coroutine
            assert get_hub_if_exists() is None

        for kind in (tcp, unix, udp):
            run_sync(no_hub(kind()), timeout=20)

        # Patched ones, made by the application: on the loop and handed in from a greenlet.
        async def patched(listener):
            loop = asyncio.get_running_loop()
            client = socket.socket()
            client.setblocking(False)
            accepting = loop.create_task(loop.sock_accept(listener))
            await loop.sock_connect(client, listener.getsockname())
            server, _ = await accepting
            await loop.sock_sendall(server, b"x" * 10)
            assert await loop.sock_recv(client, 100) == b"x" * 10
            reader, writer = await asyncio.open_connection(sock=client)
            await loop.sock_sendall(server, b"y")
            assert await reader.readexactly(1) == b"y"
            writer.close()
            await writer.wait_closed()
            server.close()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        run_sync(patched(listener), timeout=20)
        listener.close()
        """
    )


def test_subprocesses_are_refused_with_the_fix(script):
    script(
        """
        async def start():
            await asyncio.create_subprocess_exec("true")
        try:
            run_sync(start())
        except NotImplementedError as error:
            assert "in a greenlet" in str(error)
        else:
            raise SystemExit("no error")
        import subprocess
        assert subprocess.run(["true"]).returncode == 0
        """
    )


def test_nothing_is_left(script):
    """Hubs that patched code makes on threads of ours go with them."""
    script(
        """
        async def patched_code():
            time.sleep(0.01)
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(None, time.sleep, 0.05) for _ in range(4)))
            assert get_hub_if_exists() is not None
        def life():
            gevent.spawn(run_sync, asyncio.sleep(0.01)).get()
            run_sync(patched_code())
            assert sidecar.shutdown()
            gc.collect()
        life()
        descriptors, threads = open_descriptors(), native_threads()
        assert threads == 1, threads
        for _ in range(3):
            life()
        wait_for(lambda: native_threads() == threads, "threads end")
        assert open_descriptors() == descriptors
        """
    )


# -- life and end of a bridge ------------------------------------------------------------


def test_shutdown_ends_the_waits(script):
    script(
        """
        with Sidecar() as bridge:
            started = []
            calls = [gevent.spawn(bridge.run_sync, begun(started)) for _ in range(3)]
            wait_for(lambda: len(started) == 3, "calls have begun")
        for call in calls:
            call.join(10)
            assert isinstance(call.exception, asyncio.CancelledError), call.exception
        assert done == ["cleaned"] * 3
        try:
            bridge.run_sync(asyncio.sleep(0))
        except sidecar.errors.BridgeClosedError:
            pass
        else:
            raise SystemExit("a closed bridge runs")
        """,
        logs="failed with CancelledError",
    )


def test_shutdown_with_a_call_that_does_not_end(script):
    script(
        """
        async def stubborn():
            started.append(1)
            while not over:
                try:
                    await asyncio.sleep(0.05)
                except asyncio.CancelledError:
                    pass
        started, over = [], []
        bridge = Sidecar(shutdown_timeout=0.3).start()
        call = gevent.spawn(bridge.run_sync, stubborn())
        wait_for(lambda: started, "the call has begun")
        assert not bridge.shutdown()
        call.join(10)
        assert isinstance(call.exception, sidecar.errors.BridgeClosedError), call.exception
        over.append(1)
        """,
        logs=r"stubborn\(\) at .* did not end in time",
    )


def test_exit_cleans_up(script):
    assert "cleaned at exit" in script(
        """
        async def background():
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.05)
                print("cleaned at exit", flush=True)
        kept = []
        async def start():
            kept.append(asyncio.create_task(background()))
            await asyncio.sleep(0)
        run_sync(start())
        """
    )


def test_fork(script):
    """In the child calls work, and a greenlet that waited is told; in the parent it gets its result."""
    assert "child is fine" in script(
        """
        call = gevent.spawn(run_sync, asyncio.sleep(1, "parent's"))
        gevent.sleep(0.1)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert run_sync(asyncio.sleep(0.01, "child's")) == "child's"
                call.join(5)
                assert isinstance(call.exception, sidecar.errors.ForkedError), call.exception
                print("child is fine", flush=True)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert call.get(timeout=10) == "parent's"
        """,
        logs="failed with ForkedError",
    )


def test_debug_mode(script):
    script(
        """
        with Sidecar() as bridge:
            bridge.get_loop().set_debug(True)
            bridge.get_loop().slow_callback_duration = 30
            async def waits():
                asyncio.get_running_loop().call_soon(done.append, 1)
                await asyncio.sleep(0.01)
            bridge.run_sync(waits())
            assert done == [1]
            seen, tried = [], NativeEvent()
            def off_the_loop():
                try:
                    bridge.get_loop().call_soon(print)
                except RuntimeError as error:
                    seen.append(str(error))
                tried.set()
            async def on_pool():
                # Without a pause, so that the loop has its thread all the while.
                job = asyncio.get_running_loop().run_in_executor(None, off_the_loop)
                tried.wait()
                await job
            bridge.run_sync(on_pool())
            assert "Non-thread-safe" in seen[0], seen
        """
    )


def test_patched_after_the_import(script):
    script(
        """
        begin = time.monotonic()
        gevent.joinall([gevent.spawn(run_sync, asyncio.sleep(0.3)) for _ in range(5)], raise_error=True)
        assert time.monotonic() - begin < 1
        """,
        prelude="import sidecar\n" + PATCHED,
    )


def test_a_dropped_bridge_ends(script):
    script(
        """
        bridge = Sidecar().start()
        bridge.run_sync(asyncio.sleep(0))
        del bridge
        gc.collect()
        wait_for(lambda: native_threads() == 1, "its threads end")
        """,
        logs="dropped without shutdown",
        prelude="import warnings\nwarnings.simplefilter('always')\n" + PATCHED,
    )


def test_without_patches_a_call_blocks_its_thread(script):
    script(
        """
        import asyncio, time
        import gevent
        from sidecar import run_sync
        order = []
        def call(number):
            order.append(("begin", number))
            run_sync(asyncio.sleep(0.05))
            order.append(("end", number))
        gevent.joinall([gevent.spawn(call, number) for number in range(2)], raise_error=True)
        assert order == [("begin", 0), ("end", 0), ("begin", 1), ("end", 1)]
        """,
        prelude="",
    )


@pytest.mark.parametrize("seed", range(3))
def test_storm(script, seed):
    """Greenlets that call, time out and are killed: each call has one outcome, and nothing is left."""
    script(
        f"""
        import random
        from collections import Counter
        from sidecar import _gevent
        choice = random.Random({seed})
        outcomes, open_calls = Counter(), []

        async def work(seconds, fails):
            open_calls.append(1)
            try:
                for _ in range(3):
                    await asyncio.sleep(seconds / 3)
                if fails:
                    raise KeyError(seconds)
                return seconds
            finally:
                try:
                    await asyncio.sleep(0)
                finally:
                    open_calls.pop()

        def call(seconds, fails, limit, patience):
            try:
                with gevent.Timeout(patience):
                    assert run_sync(work(seconds, fails), timeout=limit) == seconds
                outcomes["result"] += 1
            except KeyError:
                outcomes["error"] += 1
            except sidecar.errors.CallTimeoutError:
                outcomes["time-out"] += 1
            except gevent.Timeout:
                outcomes["gevent.Timeout"] += 1
            except gevent.GreenletExit:
                outcomes["killed"] += 1

        def some():
            return choice.choice([None, choice.random() / 20])

        calls = []
        for _ in range(400):
            arguments = choice.random() / 20, choice.random() < 0.2, some(), some()
            if choice.random() < 0.1:
                gevent.get_hub().threadpool.spawn(call, *arguments[:3], None).get()
                outcomes["of a thread"] += 1
            calls.append(gevent.spawn(call, *arguments))
            if choice.random() < 0.3:
                gevent.sleep(choice.random() / 100)
            if choice.random() < 0.3:
                choice.choice(calls).kill(block=False)
        gevent.joinall(calls, timeout=40)
        assert all(one.ready() for one in calls)
        unstarted = sum(isinstance(one.value, gevent.GreenletExit) for one in calls)
        of_threads = outcomes.pop("of a thread")
        assert sum(outcomes.values()) + unstarted == 400 + of_threads, (outcomes, unstarted)
        assert len(outcomes) == 5, outcomes
        wait_for(lambda: not open_calls, "those left behind, killed twice over, end")
        assert len(_gevent._waits) == 0
        assert run_sync(asyncio.sleep(0.01, "alive")) == "alive"
        assert sidecar.shutdown()
        """,
        prelude=PATCHED + "logging.getLogger('sidecar').setLevel(logging.ERROR)\n",
    )
