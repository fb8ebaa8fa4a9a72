"""stream: found by the garbage collector, its generator is closed, once all finalizers have run."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest
from harness import wait_for
from streaming import Tracked, count, here, records

import sidecar


class Reader:
    """Its generator leads to itself, and so to the stream: all of them are garbage at once."""

    def __init__(self, bridge, prefetch=0):
        self.tracked = Tracked()
        self.stream = bridge.stream(self.read(), prefetch=prefetch)

    async def read(self):
        self.tracked.begun = here()
        try:
            yield 0
            yield 1
        except BaseException as error:
            self.tracked.how = type(error)
            raise
        finally:
            try:
                await asyncio.sleep(0)
            finally:
                self.tracked.ended = here()


def in_a_list(bridge, prefetch):
    tracked = Tracked()
    holder = [bridge.stream(tracked.run(), prefetch=prefetch)]
    assert next(holder[0]) == 0
    holder.append(holder)
    return tracked


def in_its_generator(bridge, prefetch):
    reader = Reader(bridge, prefetch)
    assert next(reader.stream) == 0
    return reader.tracked


def in_a_traceback(bridge, prefetch):
    """An exception keeps the frame, which keeps the exception."""
    tracked = Tracked()

    def consume():
        stream = bridge.stream(tracked.run(), prefetch=prefetch)
        next(stream)
        error = ValueError()
        try:
            raise error
        except ValueError:
            pass
        assert stream and error.__traceback__

    consume()
    return tracked


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("make", [in_a_list, in_its_generator, in_a_traceback])
class TestFound:
    def test_then_it_is_closed(self, bridge, make, prefetch, caplog):
        tracked = make(bridge, prefetch)
        gc.collect()
        tracked.check(bridge)
        assert not caplog.records, caplog.text

    def test_in_a_closed_bridge(self, make, prefetch):
        bridge = sidecar.Sidecar()
        tracked = make(bridge, prefetch)
        assert bridge.shutdown()
        assert tracked.ended == tracked.begun
        gc.collect()


class Finalized:
    """Lets the loop turn in its finalizer, as any may, and notes whether the generator was closed."""

    def __init__(self, bridge, tracked, seen):
        self.noted = bridge, tracked, seen

    def __del__(self):
        bridge, tracked, seen = self.noted

        async def turn():
            for _ in range(5):
                await asyncio.sleep(0)

        bridge.run_sync(turn())
        seen.append(tracked.how)


class TestOrder:
    def test_nothing_is_closed_before_all_finalizers_have_run(self, bridge):
        """Some of these come before the stream's own finalizer, others after it."""
        seen = []
        reader = Reader(bridge)
        tracked = reader.tracked
        reader.kept = [Finalized(bridge, tracked, seen) for _ in range(5)]
        assert next(reader.stream) == 0
        reader.kept += [Finalized(bridge, tracked, seen) for _ in range(5)]
        del reader
        gc.collect()
        tracked.check(bridge)
        assert seen == [None] * 10 and tracked.how is GeneratorExit

    def test_while_it_is_closed_its_task_is_listed(self, bridge):
        inside, go, ended = threading.Event(), [], []

        class Slow:
            def __init__(self):
                self.stream = bridge.stream(self.read())

            async def read(self):
                try:
                    yield asyncio.current_task().get_name()
                finally:
                    inside.set()
                    while not go:
                        await asyncio.sleep(0.001)
                    ended.append(True)

        async def names():
            return {task.get_name() for task in asyncio.all_tasks()}

        name = next(Slow().stream)
        gc.collect()
        assert inside.wait(20)
        assert name in bridge.run_sync(names())
        go.append(True)
        wait_for(lambda: ended, "the cleanup")

    def test_the_end_leaves_nothing_to_the_collector(self, bridge):
        def found():
            kinds = ("Producer", "ProducerSentinel", "Stream")
            return [each for each in gc.get_objects() if type(each).__name__ in kinds]

        gc.collect()
        before = len(found())
        gc.disable()
        try:
            for prefetch in (0, 2):
                assert list(bridge.stream(count(3), prefetch=prefetch)) == [0, 1, 2]
                with bridge.stream(count(3), prefetch=prefetch) as stream:
                    next(stream)
                del stream
                bridge.run_sync(asyncio.sleep(0))
                wait_for(lambda: len(found()) == before, "all of it is gone")
        finally:
            gc.enable()


class Node:
    pass


def watched_reader(bridge, callback):
    """What to keep: ``callback()`` runs in the collection, between its weak references and its finalizers."""
    reader = Reader(bridge)
    assert next(reader.stream) == 0
    reader.node = Node()
    return weakref.ref(reader.node, lambda _: callback()), reader.tracked


class TestShutdownMeanwhile:
    """The collector has taken the task out of ``asyncio.all_tasks()``."""

    def test_inside_the_collection(self):
        clean = []
        bridge = sidecar.Sidecar(cleanup_timeout=20)
        kept, tracked = watched_reader(bridge, lambda: clean.append(bridge.shutdown()))
        gc.collect()
        assert clean == [True] and kept() is None
        assert tracked.ended is not None and tracked.ended == tracked.begun

    def test_on_another_thread(self):
        clean = []
        bridge = sidecar.Sidecar(cleanup_timeout=20)
        thread = threading.Thread(target=lambda: clean.append(bridge.shutdown()))

        def begin():
            thread.start()
            wait_for(lambda: not bridge.is_running(), "the shutdown has begun")

        kept, tracked = watched_reader(bridge, begin)
        gc.collect()
        thread.join()
        assert clean == [True] and kept() is None
        assert tracked.ended is not None and tracked.ended == tracked.begun


def test_a_cleanup_that_nothing_can_wake_is_no_task_any_more(caplog):
    """It waits for a future that it alone knows, and catches its cancellation: lost, as any such task."""

    async def lost():
        try:
            yield 1
        finally:
            for _ in range(2):
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError:
                    pass

    with sidecar.Sidecar(cleanup_timeout=0.01) as bridge:
        stream = bridge.stream(lost())
        next(stream)
        del stream
        wait_for(lambda: records(caplog, "sidecar"), "it is named")

        def is_gone():
            gc.collect()
            return bridge.stats()["tasks"] == 0

        wait_for(is_gone, "it counts no longer")
