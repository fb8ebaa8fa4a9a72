"""stream: however it ends - closed, dropped, cut short by a limit, a signal, a shutdown - its generator is closed."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import os
import signal
import threading
import time

import pytest
from harness import wait_for

import sidecar


@pytest.fixture
def bridge():
    made = sidecar.Sidecar(name="streams", cleanup_timeout=20)
    yield made
    assert made.shutdown()


@pytest.fixture
def hasty():
    """A bridge whose limits are soon over."""
    made = sidecar.Sidecar(name="hasty", timeout=0.05, cleanup_timeout=0.05)
    yield made
    assert made.shutdown()


def in_thread(function, *args):
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(function, *args).result()


def here():
    """The task by its name: held, it would keep its stream's generator from being garbage."""
    return asyncio.current_task().get_name(), asyncio.get_running_loop()


class Tracked:
    """A generator that says how it was: which task began it, which one cleaned up, and where."""

    def __init__(self, items=1000, cleanup=0.0):
        self.items = items
        self.cleanup = cleanup
        self.begun = self.ended = None
        self.how = None

    async def run(self):
        self.begun = here()
        try:
            for number in range(self.items):
                yield number
        except BaseException as error:
            self.how = type(error)
            raise
        finally:
            try:
                await asyncio.sleep(self.cleanup)
            finally:
                self.ended = here()

    def check(self, bridge, seconds=20.0):
        """Cleaned up, on the loop, in the task that began it."""
        wait_for(lambda: self.ended, "the generator's cleanup", seconds)
        assert self.ended == self.begun and self.ended[1] is bridge.get_loop()


def records(caplog, name):
    return [record.getMessage() for record in caplog.records if record.name == name]


class TestClose:
    @pytest.mark.parametrize("prefetch", [0, 3])
    def test_waits_for_the_cleanup(self, bridge, prefetch):
        tracked = Tracked(cleanup=0.01)
        stream = bridge.stream(tracked.run(), prefetch=prefetch)
        assert next(stream) == 0
        assert stream.close() is None
        assert tracked.ended == tracked.begun and tracked.how is GeneratorExit
        assert list(stream) == [] and stream.close() is None

    def test_of_one_that_reads_ahead_just_now(self, bridge):
        """It may be waiting for its next item: that wait is cancelled."""
        ended = []

        async def wait():
            try:
                yield 1
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            finally:
                await asyncio.sleep(0.001)
                ended.append("cleaned up")

        stream = bridge.stream(wait(), prefetch=2)
        assert next(stream) == 1
        stream.close()
        assert ended == ["cancelled", "cleaned up"] and list(stream) == []

    def test_what_the_cleanup_raises(self, bridge):
        async def fail():
            try:
                yield
            finally:
                raise ValueError("in the cleanup")

        stream = bridge.stream(fail())
        next(stream)
        with pytest.raises(ValueError, match="in the cleanup"):
            stream.close()
        assert stream.close() is None and list(stream) == []

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the interpreter's own word
    def test_a_generator_that_ignores_it(self, bridge):
        async def ignore():
            while True:
                try:
                    yield
                except GeneratorExit:
                    pass

        stream = bridge.stream(ignore())
        next(stream)
        with pytest.raises(RuntimeError, match="async generator ignored GeneratorExit"):
            stream.close()
        assert list(stream) == []
        stream = bridge.stream(ignore())
        next(stream)
        del stream
        gc.collect()

    def test_an_iterator_with_aclose(self, bridge):
        closed = []

        class Rows:
            def __aiter__(self):
                return self

            async def __anext__(self):
                return 1

            async def aclose(self):
                await asyncio.sleep(0)
                closed.append(asyncio.get_running_loop())

        stream = bridge.stream(Rows())
        next(stream)
        stream.close()
        stream = bridge.stream(Rows())
        next(stream)
        del stream
        wait_for(lambda: len(closed) == 2, "the dropped one has been closed")
        assert closed == [bridge.get_loop()] * 2

    def test_on_another_thread(self, bridge):
        tracked = Tracked()
        stream = bridge.stream(tracked.run())
        next(stream)
        in_thread(stream.close)
        tracked.check(bridge)


class TestDropped:
    """Each way in which nobody reads on; the cleanup takes place on the loop, in the generator's own task."""

    @pytest.fixture(autouse=True)
    def nothing_said(self, caplog):
        yield
        assert not caplog.records, caplog.text

    @pytest.fixture(params=[0, 2], ids=["lockstep", "ahead"])
    def begun(self, bridge, request):
        tracked = Tracked()
        stream = bridge.stream(tracked.run(), prefetch=request.param)
        assert next(stream) == 0
        return tracked, [stream]

    def test_left_early(self, bridge):
        tracked = Tracked()
        for number in bridge.stream(tracked.run()):
            if number == 3:
                break
        tracked.check(bridge)
        assert tracked.how is GeneratorExit

    def test_by_the_last_reference(self, bridge, begun):
        tracked, holder = begun
        holder.clear()
        tracked.check(bridge)

    @pytest.mark.parametrize("prefetch", [0, 2])
    def test_by_the_garbage_collector(self, bridge, prefetch):
        tracked = Tracked()
        holder = [bridge.stream(tracked.run(), prefetch=prefetch)]
        assert next(holder[0]) == 0
        holder.append(holder)
        del holder
        gc.collect()
        tracked.check(bridge)

    def test_in_the_traceback_of_an_error(self, bridge):
        tracked = Tracked()

        def consume():
            stream = bridge.stream(tracked.run())
            next(stream)
            error = ValueError()
            try:
                raise error
            except ValueError:
                pass
            assert stream and error.__traceback__  # the frame, which the error keeps, keeps the error

        consume()
        gc.collect()
        tracked.check(bridge)

    def test_by_the_garbage_collector_with_its_generator(self, bridge):
        """The generator itself leads to the stream: both are garbage at once."""

        class Reader:
            def __init__(self):
                self.tracked = Tracked()
                self.stream = bridge.stream(self.read())

            async def read(self):
                self.tracked.begun = here()
                try:
                    yield 0
                finally:
                    await asyncio.sleep(0)
                    self.tracked.ended = here()

        reader = Reader()
        assert next(reader.stream) == 0
        tracked = reader.tracked
        del reader
        gc.collect()
        tracked.check(bridge)

    def test_on_another_thread(self, bridge, begun):
        tracked, holder = begun
        thread = threading.Thread(target=holder.clear)
        thread.start()
        thread.join()
        tracked.check(bridge)

    def test_its_thread_is_gone(self, bridge):
        tracked, local = Tracked(), threading.local()

        def consume():
            local.stream = bridge.stream(tracked.run())
            next(local.stream)

        thread = threading.Thread(target=consume)
        thread.start()
        thread.join()
        tracked.check(bridge)

    def test_inside_a_coroutine_of_the_bridge(self, bridge, begun):
        tracked, holder = begun

        async def drop():
            holder.clear()

        bridge.run_sync(drop())
        tracked.check(bridge)

    def test_while_a_coroutine_blocks_the_loop(self, bridge, begun):
        tracked, holder = begun
        inside, go = threading.Event(), threading.Event()

        async def block():
            inside.set()
            go.wait(20)

        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            call = executor.submit(bridge.run_sync, block())
            assert inside.wait(20)
            holder.clear()  # does not wait
            assert tracked.ended is None
            go.set()
            call.result()
        tracked.check(bridge)

    def test_while_it_reads_ahead(self, bridge):
        log = []

        async def wait():
            try:
                yield 1
                await asyncio.sleep(60)
            finally:
                log.append("cleaned up")

        stream = bridge.stream(wait(), prefetch=1)
        next(stream)
        del stream
        wait_for(lambda: log, "the generator's cleanup")

    def test_after_its_end(self, bridge):
        tracked = Tracked(2)
        stream = bridge.stream(tracked.run())
        assert list(stream) == [0, 1]
        tracked.check(bridge)
        del stream
        gc.collect()
        assert bridge.run_sync(asyncio.sleep(0, "goes on")) == "goes on"


class TestDroppedWithTrouble:
    def test_what_the_cleanup_raises_is_logged(self, bridge, caplog):
        async def fail():
            try:
                yield
            finally:
                raise ValueError("in the cleanup")

        stream = bridge.stream(fail())
        next(stream)
        del stream
        wait_for(lambda: caplog.records, "a word in the log")
        (record,) = caplog.records
        assert record.name == "asyncio" and record.levelno == logging.ERROR
        assert "fail" in record.getMessage() and "its consumer is gone" in record.getMessage()
        assert record.exc_info[1].args == ("in the cleanup",)

    def test_what_it_has_raised_ahead_is_logged(self, bridge, caplog):
        failed = threading.Event()

        async def fail():
            yield 1
            failed.set()
            raise ValueError("ahead")

        stream = bridge.stream(fail(), prefetch=2)
        next(stream)
        assert failed.wait(20)
        del stream
        wait_for(lambda: caplog.records, "a word in the log")
        assert caplog.records[0].exc_info[1].args == ("ahead",)

    def test_a_cleanup_that_hangs_is_cancelled_and_named(self, caplog):
        ended = []

        async def hang():
            try:
                yield
            finally:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    ended.append("cancelled")
                    raise

        with sidecar.Sidecar(cleanup_timeout=0.02) as bridge:
            stream = bridge.stream(hang())
            next(stream)
            began = time.monotonic()
            del stream
            wait_for(lambda: ended, "the cleanup is cancelled")
            assert 0.02 <= time.monotonic() - began < 10
        (text,) = records(caplog, "sidecar")
        assert "hang() at " in text and __file__ in text and "does not close within 0.02 s" in text

    def test_one_that_catches_even_that_ends_with_the_bridge(self, caplog):
        free = threading.Event()

        async def hang():
            try:
                yield
            finally:
                while not free.is_set():
                    try:
                        await asyncio.sleep(0.05)
                    except asyncio.CancelledError:
                        pass

        bridge = sidecar.Sidecar(cleanup_timeout=0.01, shutdown_timeout=0.2)
        stream = bridge.stream(hang())
        next(stream)
        del stream
        wait_for(lambda: records(caplog, "sidecar"), "it is named")
        assert bridge.run_sync(asyncio.sleep(0, "goes on")) == "goes on"
        free.set()
        assert bridge.shutdown()


class TestLimits:
    def test_of_a_step(self, hasty):
        tracked = Tracked()

        async def slow():
            async for item in tracked.run():
                yield item
                await asyncio.sleep(60)

        stream = hasty.stream(slow())
        assert next(stream) == 0
        with pytest.raises(sidecar.CallTimeoutError, match=r"slow\(\) at .*did not finish within") as caught:
            next(stream)
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
        assert list(stream) == []

    def test_each_step_has_its_own(self):
        async def steps():
            for number in range(8):
                await asyncio.sleep(0.1)
                yield number

        with sidecar.Sidecar(timeout=0.6) as bridge:
            assert list(bridge.stream(steps())) == list(range(8))

    @pytest.mark.parametrize("prefetch", [0, 2])
    def test_of_close(self, hasty, prefetch):
        async def hang():
            try:
                yield 1
                yield 2
                yield 3
                yield 4
            finally:
                await asyncio.sleep(60)

        stream = hasty.stream(hang(), prefetch=prefetch)
        next(stream)
        with pytest.raises(sidecar.CallTimeoutError, match=r"hang\(\) at .*was cancelled"):
            stream.close()
        assert stream.close() is None and list(stream) == []

    @pytest.mark.parametrize("prefetch", [0, 2])
    def test_of_a_close_that_cannot_be_cancelled(self, hasty, caplog, prefetch):
        caplog.set_level(logging.INFO, "sidecar")
        free = threading.Event()

        async def hang():
            try:
                for number in range(4):
                    yield number
            finally:
                while not free.is_set():
                    try:
                        await asyncio.sleep(0.01)
                    except asyncio.CancelledError:
                        pass

        stream = hasty.stream(hang(), prefetch=prefetch)
        next(stream)
        with pytest.raises(sidecar.CallTimeoutError, match=r"hang\(\) at .*left behind as an orphan"):
            stream.close()
        assert records(caplog, "sidecar")[0].startswith("orphan: ") and "hang() at " in caplog.text
        assert stream.close() is None and list(stream) == []
        del stream
        free.set()
        wait_for(lambda: "has ended" in caplog.text, "the orphan's end is told")

    @pytest.mark.parametrize("prefetch", [0, 2])
    def test_an_orphan_is_closed_where_it_yields(self, hasty, caplog, prefetch):
        free, ended, made = threading.Event(), [], []

        async def deaf():
            try:
                while not free.is_set():
                    try:
                        await asyncio.sleep(0.01)
                    except asyncio.CancelledError:
                        pass
                while True:
                    made.append(1)
                    yield 1
            except GeneratorExit:
                ended.append("closed")

        stream = hasty.stream(deaf(), prefetch=prefetch)
        with pytest.raises(sidecar.CallTimeoutError, match="orphan"):
            next(stream)
        assert list(stream) == []  # no second wait
        free.set()
        wait_for(lambda: ended, "the orphan has been closed")
        assert made == [1]

    def test_of_a_loop_that_stands_still(self, hasty):
        """The generator has begun an item when another thread's coroutine blocks the loop for too long."""
        begun, blocked, go, ended = threading.Event(), threading.Event(), threading.Event(), []

        async def slow():
            try:
                begun.set()
                while not blocked.is_set():
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0.001)
                yield 1
                yield 2
            finally:
                ended.append("closed")

        async def block():
            while not begun.is_set():
                await asyncio.sleep(0.001)
            blocked.set()
            go.wait(20)

        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            call = executor.submit(hasty.run_sync, block(), timeout=60)
            stream = hasty.stream(slow())
            with pytest.raises(sidecar.CallTimeoutError):
                next(stream)
            go.set()
            call.result()
        assert list(stream) == []
        wait_for(lambda: ended, "the generator has been closed")


class Soft(Exception):
    pass


@pytest.fixture
def soft_limit():
    """``soft_limit(event)``: when it is set, the main thread gets a signal whose handler raises."""

    def raise_it(signum, frame):
        raise Soft

    before = signal.signal(signal.SIGUSR1, raise_it)
    threads = []

    def arm(event):
        def send():
            if event.wait(20):
                os.kill(os.getpid(), signal.SIGUSR1)

        threads.append(threading.Thread(target=send))
        threads[-1].start()

    yield arm
    for thread in threads:
        thread.join()
    signal.signal(signal.SIGUSR1, before)


class TestSignals:
    @pytest.mark.parametrize("prefetch", [0, 1])
    def test_a_handler_that_raises_in_a_step(self, bridge, soft_limit, prefetch):
        inside, ended = threading.Event(), []

        async def wait():
            try:
                yield 1
                asyncio.get_running_loop().call_later(0.01, inside.set)
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(0.01)
                ended.append("cancelled")
                raise

        stream = bridge.stream(wait(), prefetch=prefetch)
        assert next(stream) == 1
        soft_limit(inside)
        with pytest.raises(Soft):
            next(stream)
        assert ended == ["cancelled"]  # its cleanup was waited for
        assert list(stream) == []
        assert bridge.run_sync(asyncio.sleep(0, "lives")) == "lives"

    def test_in_close(self, bridge, soft_limit):
        inside, ended = threading.Event(), []

        async def hang():
            try:
                yield 1
            finally:
                asyncio.get_running_loop().call_later(0.01, inside.set)
                try:
                    await asyncio.sleep(60)
                finally:
                    ended.append("cut short")

        stream = bridge.stream(hang())
        next(stream)
        soft_limit(inside)
        with pytest.raises(Soft):
            stream.close()
        assert ended == ["cut short"] and list(stream) == []

    def test_a_second_one_ends_the_wait(self, bridge, soft_limit, caplog):
        first, second, free, ended = (threading.Event() for _ in range(4))

        async def deaf():
            asyncio.get_running_loop().call_later(0.01, first.set)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                asyncio.get_running_loop().call_later(0.01, second.set)
                while not free.is_set():
                    await asyncio.sleep(0.005)
            try:
                yield 1
            finally:
                ended.set()

        stream = bridge.stream(deaf())
        soft_limit(first)
        soft_limit(second)
        with pytest.raises(Soft):
            next(stream)
        assert "orphan" in caplog.text and "deaf" in caplog.text
        assert list(stream) == []
        free.set()
        assert ended.wait(20)


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


def test_thousands_that_are_left_leave_nothing(bridge):
    ended = []

    async def rows():
        try:
            yield 1
            yield 2
        finally:
            ended.append(1)

    for _ in range(2000):
        for _ in bridge.stream(rows()):
            break
    wait_for(lambda: len(ended) == 2000, "all of them are closed")

    async def tasks():
        return len(asyncio.all_tasks())

    wait_for(lambda: bridge.run_sync(tasks()) == 2, "their tasks are gone")  # its own, and the root's
