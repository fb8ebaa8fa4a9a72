"""stream: cut short by a time limit, or by a signal's handler, its generator is closed."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import signal
import threading

import pytest
from harness import wait_for
from streaming import Tracked, records

import sidecar


@pytest.fixture
def hasty():
    """A bridge whose limits are soon over."""
    made = sidecar.Sidecar(name="hasty", timeout=0.05, cleanup_timeout=0.05)
    yield made
    assert made.shutdown()


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
def soft_limit(bridge):
    """``soft_limit(event)``: once it is set, a signal's handler raises in the main thread's step."""

    def raise_it(signum, frame):
        raise Soft

    before = signal.signal(signal.SIGUSR1, raise_it)
    threads = []

    def arm(event):
        def send():
            if event.wait(20):
                # It may be set by what reads ahead, before anybody waits.
                wait_for(lambda: bridge.stats()["calls"], "a step has begun")
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
