"""stream(prefetch=N): how far it reads ahead, and that nothing is lost, doubled or out of order."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import random
import threading
import time
import weakref

import pytest
from harness import wait_for
from streaming import in_thread


class Source:
    """Counts what it has made."""

    def __init__(self, items, wait):
        self.items = items
        self.wait = wait
        self.made = 0

    async def run(self):
        while self.made < self.items:
            await self.wait()
            self.made += 1
            yield self.made


async def never():
    pass


async def always():
    await asyncio.sleep(0)


@pytest.mark.parametrize("wait", [never, always])
@pytest.mark.parametrize("prefetch", [1, 2, 3, 7, 100])
class TestHowFar:
    def test_never_more_than_asked_for(self, bridge, prefetch, wait, where):
        """The one handed over, and ``prefetch`` beyond it."""
        source = Source(50, wait)
        stream = bridge.stream(source.run(), prefetch=prefetch)
        most = []

        def consume():
            for taken in stream:
                # Whoever else drives the loop gets its chance to go too far.
                bridge.run_sync(asyncio.sleep(0.0005))
                most.append(source.made - taken)
            return most

        assert max(where(consume)) <= prefetch
        assert source.made == 50 == len(most)

    def test_it_gets_that_far_by_itself(self, bridge, prefetch, wait):
        source = Source(1000, wait)
        with bridge.stream(source.run(), prefetch=prefetch) as stream:
            assert next(stream) == 1
            wait_for(lambda: source.made == 1 + prefetch, "as many as asked for are read ahead")
            # The queue is full: it is a matter of the consumer, not of time.
            for _ in range(20):
                bridge.run_sync(asyncio.sleep(0))
            assert source.made == 1 + prefetch

    def test_all_of_them_in_order(self, bridge, prefetch, wait, where):
        source = Source(300, wait)
        assert where(lambda: list(bridge.stream(source.run(), prefetch=prefetch))) == list(range(1, 301))


def test_lockstep_makes_none_ahead(bridge, where):
    source = Source(30, always)

    def consume():
        ahead = []
        for taken in bridge.stream(source.run()):
            bridge.run_sync(asyncio.sleep(0))
            ahead.append(source.made - taken)
        return ahead

    assert where(consume) == [0] * 30


def test_it_reads_on_while_the_consumer_works(bridge):
    """Ten waits of 20 ms and ten pieces of work of 20 ms overlap."""

    async def rows():
        for number in range(10):
            await asyncio.sleep(0.02)
            yield number

    def consume(prefetch):
        began = time.monotonic()
        for _ in bridge.stream(rows(), prefetch=prefetch):
            time.sleep(0.02)  # the consumer's work
        return time.monotonic() - began

    assert consume(0) >= 0.4
    # Machines are busy at times; what holds is that some of it overlaps.
    assert min(consume(4) for _ in range(3)) < 0.38


def test_ready_items_come_without_a_thread_switch(bridge):
    async def idents():
        for _ in range(200):
            yield threading.get_ident()

    def consume():
        return {threading.get_ident(), *bridge.stream(idents(), prefetch=10)}

    assert len(in_thread(consume)) == 1


def test_an_error_comes_after_the_items_before_it(bridge, where):
    async def fail():
        yield 1
        yield 2
        raise ValueError("third")

    def consume():
        stream = bridge.stream(fail(), prefetch=5)
        assert [next(stream), next(stream)] == [1, 2]
        with pytest.raises(ValueError, match="third"):
            next(stream)
        assert list(stream) == []

    where(consume)


def test_an_error_is_told_once(bridge):
    async def fail():
        yield 1
        raise ValueError

    stream = bridge.stream(fail(), prefetch=5)
    assert next(stream) == 1
    with pytest.raises(ValueError):
        stream.close()
    assert stream.close() is None and list(stream) == []


def test_send_and_throw_are_refused(bridge):
    """The generator has gone on already: what is sent would not answer the item that the consumer has."""
    stream = bridge.stream(Source(3, never).run(), prefetch=1)
    for use in (lambda: stream.send(1), lambda: stream.send(None), lambda: stream.throw(KeyError)):
        with pytest.raises(RuntimeError, match=r"reads ahead \(prefetch=1\).*use prefetch=0"):
            use()
    assert list(stream) == [1, 2, 3]


def test_items_that_are_not_taken_are_dropped_with_it(bridge):
    class Item:
        pass

    items = weakref.WeakSet()

    async def make():
        for _ in range(100):
            item = Item()
            items.add(item)
            yield item
            del item

    for drop in (lambda stream: stream.close(), lambda stream: None):
        stream = bridge.stream(make(), prefetch=10)
        next(stream)
        assert len(items) >= 10
        drop(stream)
        del stream
        gc.collect()
        wait_for(lambda: not items, "no item is left")


def test_an_item_whose_end_runs_code(bridge):
    """``__del__`` of an item that is dropped may collect garbage, or use the bridge from another thread."""
    log = []

    class Item:
        def __del__(self):
            gc.collect()
            log.append(1)

    async def make():
        for _ in range(20):
            yield Item()

    stream = bridge.stream(make(), prefetch=10)
    next(stream)
    wait_for(lambda: log, "the first is gone")
    stream.close()
    assert len(log) == 11


def test_read_on_from_another_thread(bridge):
    stream = bridge.stream(Source(60, always).run(), prefetch=4)
    found = []
    for _ in range(20):
        found += [in_thread(next, stream), next(stream), next(stream)]
    assert found == list(range(1, 61))
    assert list(stream) == []


def test_one_more_for_each_time_a_full_one_is_cancelled(bridge):
    tasks = []

    async def stubborn():
        tasks.append(asyncio.current_task())
        for number in range(12):
            try:
                yield [number]
            except asyncio.CancelledError:
                pass

    async def cancel():
        tasks[0].cancel()
        await asyncio.sleep(0.001)

    stream = bridge.stream(stubborn(), prefetch=3)
    assert next(stream) == [0]
    for _ in range(5):
        bridge.run_sync(cancel())
    assert list(stream) == [[number] for number in range(1, 12)]
    gc.collect()


@pytest.mark.parametrize("seed", range(4))
def test_pops_while_it_is_filled(bridge, seed):
    """Consumers take from the queue while the pump, or another thread's call, fills it."""
    rng = random.Random(seed)
    stop = threading.Event()

    async def rows(number, items, naps):
        for item in range(items):
            if naps[item % len(naps)]:
                await asyncio.sleep(0)
            yield number, item

    def consume(number):
        own = random.Random(seed * 100 + number)
        naps = [own.random() < 0.3 for _ in range(17)]
        prefetch = own.choice([1, 2, 3, 8, 64])
        return list(bridge.stream(rows(number, 1500, naps), prefetch=prefetch)), number

    def disturb():
        while not stop.is_set():
            bridge.run_sync(asyncio.sleep(0))

    with concurrent.futures.ThreadPoolExecutor(6) as executor:
        noise = [executor.submit(disturb) for _ in range(rng.randint(1, 2))]
        try:
            results = list(executor.map(consume, range(4)))
        finally:
            stop.set()
        for one in noise:
            one.result()
    for found, number in results:
        assert found == [(number, item) for item in range(1500)]
