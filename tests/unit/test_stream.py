"""stream: what it takes, and how it steps."""

from __future__ import annotations

import asyncio
import functools
import gc
import sys
import threading

import pytest
from streaming import Countdown, count, count_slowly, in_thread, open_count

import sidecar
from sidecar import _core


class Iterable:
    def __aiter__(self):
        return count(3)


class Plain(Countdown):
    """``__anext__`` is a plain function, as in extensions: what it raises comes before anything is awaited."""

    def __anext__(self):
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        future = asyncio.get_running_loop().create_future()
        future.set_result(self.left)
        return future


class Later:
    """An awaitable of an async iterable."""

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return count(3)


class TestSources:
    @pytest.mark.parametrize(
        "source",
        [
            lambda: count_slowly(3),
            lambda: count(3),
            lambda: functools.partial(count, 3),
            lambda: functools.partial(open_count, 3),
            lambda: Iterable(),
            lambda: Iterable,
            lambda: Later(),
            lambda: Later,
            lambda: lambda: open_count(3),
        ],
    )
    def test_what_it_takes(self, bridge, source, where):
        assert where(lambda: list(bridge.stream(source()))) == [0, 1, 2]

    def test_arguments_of_a_function(self, bridge):
        assert list(bridge.stream(count, 5)) == [0, 1, 2, 3, 4]
        assert list(bridge.stream(count, 5, start=3)) == [3, 4]
        assert list(bridge.stream(count, to=2)) == [0, 1]

    def test_a_coroutine_and_its_function(self, bridge):
        assert list(bridge.stream(open_count(3))) == [0, 1, 2]
        assert list(bridge.stream(open_count, 3)) == [0, 1, 2]

    def test_an_iterator_that_is_no_generator(self, bridge):
        assert list(bridge.stream(Countdown(3))) == [2, 1, 0]
        assert list(bridge.stream(Countdown, 3)) == [2, 1, 0]
        assert not hasattr(Countdown, "aclose") and not hasattr(Countdown, "asend")

    def test_an_iterator_whose_anext_raises_at_once(self, bridge):
        assert list(bridge.stream(Plain(3))) == [2, 1, 0]
        assert list(bridge.stream(Plain(0))) == []

    def test_a_method(self, bridge):
        class Table:
            rows = [1, 2]

            async def read(self):
                for row in self.rows:
                    yield row

        assert list(bridge.stream(Table().read)) == [1, 2]

    def test_a_future_of_the_bridge(self, bridge):
        async def make():
            future = asyncio.get_running_loop().create_future()
            future.set_result(count(2))
            return future

        assert list(bridge.stream(bridge.run_sync(make()))) == [0, 1]

    def test_nothing_runs_before_the_first_step(self, bridge):
        stream = bridge.stream(count(1))
        assert not bridge.is_running()
        assert next(stream) == 0
        assert bridge.is_running()

    def test_an_empty_one(self, bridge):
        stream = bridge.stream(count(0))
        assert list(stream) == list(stream) == []

    def test_a_generator_that_was_begun(self, bridge):
        generator = count(4)
        assert bridge.run_sync(generator.__anext__()) == 0
        assert list(bridge.stream(generator)) == [1, 2, 3]


class TestBadSources:
    @pytest.mark.parametrize("bad", [3, None, object()])
    def test_neither_iterable_nor_function(self, bridge, bad):
        with pytest.raises(TypeError, match="takes an async iterable, an awaitable of one, or") as caught:
            bridge.stream(bad)
        assert repr(bad) in str(caught.value)

    def test_a_plain_iterable_gets_a_hint(self, bridge):
        with pytest.raises(TypeError, match=r"not \[1, 2\]; a plain iterable needs no bridge"):
            bridge.stream([1, 2])
        with pytest.raises(TypeError, match="a plain iterable needs no bridge"):
            bridge.stream(iter, [1])

    def test_a_function_that_returns_none(self, bridge):
        with pytest.raises(TypeError, match=r"not 3 \(returned by <built-in function abs>\)"):
            bridge.stream(abs, -3)

    def test_arguments_for_what_takes_none(self, bridge):
        with pytest.raises(TypeError, match="takes no arguments"):
            bridge.stream(count(3), 1)
        with pytest.raises(TypeError, match="takes no arguments"):
            bridge.stream(open_count(3), to=1)
        gc.collect()

    def test_an_awaitable_of_something_else(self, bridge):
        async def give(value):
            return value

        stream = bridge.stream(give([1, 2]))
        with pytest.raises(TypeError, match=r"it awaited \[1, 2\], which is none"):
            next(stream)
        assert list(stream) == []

    def test_an_iterator_without_anext(self, bridge):
        class Odd:
            def __aiter__(self):
                return 3

        with pytest.raises(TypeError, match=r"__aiter__\(\) returned 3, which has no __anext__"):
            next(bridge.stream(Odd()))

    def test_items_that_cannot_be_awaited(self, bridge):
        class Odd(Countdown):
            def __anext__(self):
                return 3

        with pytest.raises(TypeError, match="object int can't be used in 'await' expression"):
            next(bridge.stream(Odd(1)))

    def test_what_the_function_raises(self, bridge):
        with pytest.raises(ZeroDivisionError):
            bridge.stream(lambda: 1 // 0)

    def test_what_the_awaitable_raises(self, bridge):
        async def fail():
            await asyncio.sleep(0)
            raise LookupError("no such table")

        stream = bridge.stream(fail())
        with pytest.raises(LookupError):
            next(stream)
        assert list(stream) == []

    def test_a_wrong_prefetch_or_context(self, bridge):
        with pytest.raises(ValueError, match="from 0 on, not -1"):
            bridge.stream(open_count(3), prefetch=-1)
        with pytest.raises(TypeError, match="must be a contextvars.Context, not {}"):
            bridge.stream(open_count(3), context={})
        with pytest.raises(TypeError):
            bridge.stream(count(3), prefetch="2")
        gc.collect()  # a coroutine "never awaited" would be told here

    def test_never_begun_ones_leave_no_warning(self, bridge):
        for source in (open_count(1), count(1), Countdown(1)):
            bridge.stream(source)
        closed = bridge.stream(open_count(1))
        closed.close()
        gc.collect()
        assert list(closed) == []

    def test_a_closed_bridge(self):
        closed = sidecar.Sidecar()
        closed.start().shutdown()
        for source in (count(1), open_count(1)):
            with pytest.raises(sidecar.BridgeClosedError):
                next(closed.stream(source))
        gc.collect()


class TestSteps:
    def test_the_generator_stands_still_between_items(self, bridge):
        log = []

        async def steps():
            for number in range(3):
                log.append(f"make {number}")
                yield number

        for number in bridge.stream(steps()):
            bridge.run_sync(asyncio.sleep(0.002))  # it would go on now, if it could
            log.append(f"take {number}")
        assert log == ["make 0", "take 0", "make 1", "take 1", "make 2", "take 2"]

    def test_ready_items_come_without_a_thread_switch(self, bridge):
        async def idents():
            for _ in range(200):
                yield threading.get_ident()

        def consume():
            return {threading.get_ident(), *bridge.stream(idents())}

        assert len(in_thread(consume)) == 1
        assert set(bridge.stream(idents())) == {threading.get_ident()}

    @pytest.mark.parametrize("prefetch", [0, 3])
    def test_one_task_for_all_steps(self, bridge, prefetch):
        made = []

        def factory(loop, coro, **kwargs):
            made.append(asyncio.Task(coro, loop=loop, **kwargs))
            return made[-1]

        async def tasks():
            for number in range(50):
                if number % 3 == 0:
                    await asyncio.sleep(0)
                yield asyncio.current_task()

        bridge.get_loop().set_task_factory(factory)
        assert set(bridge.stream(tasks(), prefetch=prefetch)) == set(made)
        assert len(made) == 1
        bridge.get_loop().set_task_factory(None)
        plain = list(bridge.stream(tasks(), prefetch=prefetch))
        assert len(plain) == 50 and len(set(plain)) == 1

    def test_the_task_is_listed_and_named(self, bridge):
        async def look():
            yield asyncio.current_task(), asyncio.all_tasks()
            yield

        stream = bridge.stream(look())
        task, tasks = next(stream)
        assert task in tasks and task.get_coro().__name__ == f"{look.__qualname__}"
        next(stream)

        async def others():
            return asyncio.all_tasks() - {asyncio.current_task()}

        assert bridge.run_sync(others()) >= {task}
        stream.close()
        assert task.done()

    def test_iter_repr_and_type(self, bridge):
        stream = bridge.stream(count(2))
        assert iter(stream) is stream and isinstance(stream, _core.Stream)
        assert "not begun" in repr(stream)
        next(stream)
        assert "begun" in repr(stream) and "count" in repr(stream)
        stream.close()
        assert repr(stream) == "<sidecar.Stream over>"
        assert _core.Stream[int].__origin__ is _core.Stream
        with pytest.raises(TypeError):
            _core.Stream(None, count(1))

    def test_falsy_items(self, bridge):
        async def falsy():
            for item in (None, 0, False, (), StopIteration):
                yield item

        assert list(bridge.stream(falsy())) == [None, 0, False, (), StopIteration]

    def test_many_streams_side_by_side(self, bridge):
        streams = [bridge.stream(count_slowly(5)) for _ in range(5)]
        assert [items for items in zip(*streams)] == [(number,) * 5 for number in range(5)]

    def test_a_call_between_items(self, bridge):
        queue: list[int] = []

        async def read():
            while len(queue) < 3:
                yield len(queue)

        async def put():
            queue.append(1)

        for _ in bridge.stream(read()):
            bridge.run_sync(put())
        assert len(queue) == 3

    def test_debug_mode(self, bridge, where):
        loop = bridge.get_loop()
        loop.set_debug(True)
        assert where(lambda: list(bridge.stream(count_slowly(3)))) == [0, 1, 2]
        assert where(lambda: list(bridge.stream(count(9), prefetch=2))) == list(range(9))
        stream = bridge.stream(count(3))
        next(stream)
        where(stream.close)

    def test_an_eager_task_factory(self, bridge):
        if sys.version_info < (3, 12):
            pytest.skip("eager task factories came with CPython 3.12")
        bridge.get_loop().set_task_factory(asyncio.eager_task_factory)
        assert list(bridge.stream(count_slowly(3))) == list(bridge.stream(count(3))) == [0, 1, 2]


def test_the_default_bridge_has_it_too():
    assert list(sidecar.get_bridge().stream(count(3))) == [0, 1, 2]
