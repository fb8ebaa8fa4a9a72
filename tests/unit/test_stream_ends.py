"""stream: closed, or dropped in whatever way, its generator is closed."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import threading
import time

import pytest
from harness import wait_for
from streaming import Tracked, in_thread, records

import sidecar


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
