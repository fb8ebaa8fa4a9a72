"""stream: what a shutdown, the end of the process, and a fork make of it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading

import pytest
from streaming import Tracked

import sidecar


class TestShutdown:
    @pytest.mark.parametrize("prefetch", [0, 2])
    def test_of_one_that_stands_still(self, prefetch):
        bridge = sidecar.Sidecar()
        tracked = Tracked(cleanup=0.01)
        stream = bridge.stream(tracked.run(), prefetch=prefetch)
        assert next(stream) == 0
        assert bridge.shutdown()
        assert tracked.ended == tracked.begun and tracked.how is asyncio.CancelledError
        with pytest.raises((asyncio.CancelledError, sidecar.BridgeClosedError)):
            for _ in range(prefetch + 1):
                next(stream)
        stream.close()
        assert list(stream) == []

    @pytest.mark.parametrize("prefetch", [0, 2])
    def test_of_one_that_is_waited_for(self, prefetch):
        bridge = sidecar.Sidecar()
        inside, ended = threading.Event(), []

        async def wait():
            try:
                inside.set()
                await asyncio.sleep(60)
                yield
            finally:
                await asyncio.sleep(0.01)
                ended.append("cleaned up")

        stream = bridge.stream(wait(), prefetch=prefetch)
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            step = executor.submit(next, stream)
            assert inside.wait(20)
            assert bridge.shutdown()
            with pytest.raises((asyncio.CancelledError, concurrent.futures.CancelledError)):
                step.result(20)
        assert ended == ["cleaned up"]
        del stream

    def test_dropped_after_it(self):
        bridge = sidecar.Sidecar()
        tracked = Tracked()
        stream = bridge.stream(tracked.run())
        next(stream)
        assert bridge.shutdown()
        assert tracked.ended
        del stream
        gc.collect()

    def test_dropped_just_before(self):
        for _ in range(30):
            bridge = sidecar.Sidecar()
            tracked = Tracked(cleanup=0.001)
            stream = bridge.stream(tracked.run())
            next(stream)
            del stream
            assert bridge.shutdown()
            assert tracked.ended == tracked.begun

    def test_exit_closes_it(self, run_script):
        done = run_script("""
            import asyncio, threading, sidecar
            async def rows():
                try:
                    while True:
                        yield 1
                finally:
                    await asyncio.sleep(0.001)
                    print("cleaned up", flush=True)
            kept = sidecar.get_bridge().stream(rows())
            next(kept)
            ahead = sidecar.get_bridge().stream(rows(), prefetch=3)
            next(ahead)
            own = sidecar.Sidecar().start().stream(rows())
            next(own)
            never = sidecar.get_bridge().stream(rows())
        """)
        assert (done.returncode, done.stdout, done.stderr) == (0, "cleaned up\n" * 3, "")

    def test_exit_while_a_daemon_thread_reads(self, run_script):
        done = run_script("""
            import asyncio, threading, sidecar
            inside = threading.Event()
            async def rows():
                try:
                    inside.set()
                    await asyncio.sleep(60)
                    yield
                finally:
                    print("cleaned up", flush=True)
            def read():
                try:
                    next(sidecar.get_bridge().stream(rows()))
                except asyncio.CancelledError:
                    pass
            threading.Thread(target=read, daemon=True).start()
            assert inside.wait(20)
        """)
        assert (done.returncode, done.stdout, done.stderr) == (0, "cleaned up\n", "")


FORK = """
    import asyncio, gc, os, sys, threading, warnings
    warnings.simplefilter("ignore")
    import sidecar
    from sidecar.errors import ForkedError

    log = []
    async def rows():
        try:
            for number in range(5):
                await asyncio.sleep(0)
                yield number
        finally:
            await asyncio.sleep(0)
            log.append("cleaned up")
            print("cleaned up in", "parent" if os.getpid() == parent else "child", flush=True)

    def in_child(work):
        pid = os.fork()
        if pid == 0:
            code = 9
            try:
                work()
                gc.collect()
                assert not log
                code = 0
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0

    def refused(call, *args):
        try:
            call(*args)
        except ForkedError as error:
            assert error.code == "SC0004" and "parent" in str(error), error
        else:
            raise AssertionError("no ForkedError")

    parent = os.getpid()
    bridge = sidecar.get_bridge()
"""


class TestFork:
    @pytest.fixture
    def script(self, run_script):
        def run(body):
            lines = [line[8:] for line in body.splitlines()]
            prelude = [line[4:] for line in FORK.splitlines()]
            done = run_script("\n".join(prelude + lines))
            assert (done.returncode, done.stderr) == (0, "")
            return done.stdout

        return run

    @pytest.mark.parametrize("prefetch", [0, 2])
    def test_it_stays_with_the_parent(self, script, prefetch):
        out = script(f"""
        stream = bridge.stream(rows(), prefetch={prefetch})
        assert next(stream) == 0
        def child():
            refused(next, stream)
            refused(next, stream)
            if {prefetch} == 0:
                refused(stream.send, 1)
                refused(stream.throw, KeyError)
            assert repr(stream)
            assert stream.close() is None
            assert list(stream) == []
        in_child(child)
        assert list(stream) == [1, 2, 3, 4]
        """)
        assert out == "cleaned up in parent\n"

    def test_dropped_in_the_child(self, script):
        out = script("""
        holder = [bridge.stream(rows())]
        cycle = [bridge.stream(rows(), prefetch=2)]
        cycle.append(cycle)
        assert next(holder[0]) == next(cycle[0]) == 0
        def child():
            global cycle
            holder.clear()
            del cycle
            gc.collect()
            assert list(sidecar.get_bridge().stream(rows())) == [0, 1, 2, 3, 4]
            log.clear()
        in_child(child)
        assert list(holder[0]) == list(cycle[0]) == [1, 2, 3, 4]
        """)
        assert out == "cleaned up in child\n" + "cleaned up in parent\n" * 2

    def test_one_that_was_not_begun_is_the_childs_own(self, script):
        out = script("""
        bridge.run_sync(asyncio.sleep(0))
        stream = bridge.stream(rows())
        def child():
            assert list(stream) == [0, 1, 2, 3, 4]
            log.clear()
        in_child(child)
        assert list(stream) == [0, 1, 2, 3, 4]
        """)
        assert out == "cleaned up in child\ncleaned up in parent\n"

    def test_a_fork_inside_a_step(self, script):
        out = script("""
        async def forks():
            yield os.getpid()
            pid = os.fork()
            yield pid
            print("goes on in", "parent" if os.getpid() == parent else "child", flush=True)
        stream = bridge.stream(forks())
        assert next(stream) == parent
        try:
            pid = next(stream)
        except ForkedError:
            assert os.getpid() != parent
            refused(next, stream)
            del stream
            os._exit(7)
        if pid == 0:
            os._exit(8)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert list(stream) == []
        """)
        assert out == "goes on in parent\n"
