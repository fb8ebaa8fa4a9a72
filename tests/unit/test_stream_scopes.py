"""stream: the contexts, scopes and threads that its steps are in; streams inside coroutines and streams."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import sys
import threading

import pytest
from harness import wait_for
from streaming import count, count_slowly, in_thread, open_count

import sidecar

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


class TestContexts:
    def test_a_copy_of_the_callers_when_it_is_made(self, bridge):
        async def look():
            while True:
                yield var.get()
                var.set("changed inside")

        context = contextvars.copy_context()

        def consume():
            var.set("first")
            stream = bridge.stream(look())
            var.set("later")
            assert [next(stream), next(stream)] == ["first", "changed inside"]
            assert var.get() == "later"
            stream.close()

        context.run(consume)

    def test_reset_across_yields(self, bridge, where):
        async def tokens():
            for number in range(3):
                token = var.set(str(number))
                yield var.get()
                var.reset(token)
                await asyncio.sleep(0)
            yield var.get()

        assert where(lambda: list(bridge.stream(tokens()))) == ["0", "1", "2", "unset"]
        assert where(lambda: list(bridge.stream(tokens(), prefetch=2))) == ["0", "1", "2", "unset"]

    def test_one_context_for_cleanup_too(self, bridge):
        seen = []

        async def look():
            token = var.set("inside")
            try:
                yield
            finally:
                await asyncio.sleep(0)
                seen.append(var.get())
                var.reset(token)
                seen.append(var.get())

        stream = bridge.stream(look())
        next(stream)
        stream.close()
        stream = bridge.stream(look())
        next(stream)
        del stream
        wait_for(lambda: len(seen) == 4, "the dropped one has been closed")
        assert seen == ["inside", "unset"] * 2

    def test_a_context_given(self, bridge):
        context = contextvars.Context()
        context.run(var.set, "given")

        async def look():
            yield var.get()
            var.set("set inside")
            yield

        assert next(stream := bridge.stream(look(), context=context)) == "given"
        next(stream)
        assert var.get() == "unset"
        if sys.version_info >= (3, 11):  # before, tasks run in a copy
            assert context[var] == "set inside"
        stream.close()

    def test_a_context_that_is_entered(self, bridge):
        """No step could run in it: an error, not a wait for ever."""
        context = contextvars.copy_context()
        with pytest.raises(RuntimeError, match="is already entered"):
            context.run(lambda: list(bridge.stream(count_slowly(3), context=context)))

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="before 3.11 tasks run in a copy of the context")
    @pytest.mark.parametrize("prefetch", [0, 1])
    def test_a_context_that_is_entered_later(self, bridge, prefetch):
        context = contextvars.copy_context()
        stream = bridge.stream(count(4), context=context, prefetch=prefetch)
        assert next(stream) == 0

        def rest():
            return list(stream)

        with pytest.raises(RuntimeError, match="is already entered"):
            context.run(rest)
        assert list(stream) == [1, 2, 3][prefetch:]

    @pytest.mark.parametrize("prefetch", [0, 2])
    def test_propagate(self, bridge, prefetch):
        async def setting():
            for number in range(3):
                var.set(str(number))
                await asyncio.sleep(0)
                yield number

        def consume():
            seen = []
            for _ in bridge.stream(setting(), propagate=True, prefetch=prefetch):
                seen.append(var.get())
            return seen, var.get()

        seen, last = contextvars.Context().run(consume)
        assert last == "2"
        if not prefetch:
            assert seen == ["0", "1", "2"]
        assert var.get() == "unset"

    def test_propagate_with_an_error(self, bridge):
        async def setting():
            var.set("before it failed")
            raise ValueError
            yield

        def consume():
            with pytest.raises(ValueError):
                next(bridge.stream(setting(), propagate=True))
            return var.get()

        assert contextvars.Context().run(consume) == "before it failed"

    def test_propagate_what_comes_after_the_last_item(self, bridge):
        async def setting():
            yield
            var.set("at the end")

        def consume():
            for _ in bridge.stream(setting(), propagate=True):
                pass
            return var.get()

        assert contextvars.Context().run(consume) == "at the end"

    def test_not_propagated_by_default(self, bridge):
        async def setting():
            var.set("inside")
            yield

        list(bridge.stream(setting()))
        assert var.get() == "unset"


class TestScopesAcrossYields:
    """What is entered in one step and left in another needs one task and one context for both."""

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.TaskGroup came with CPython 3.11")
    def test_a_task_group(self, bridge, where):
        async def work(number):
            await asyncio.sleep(0.001)
            return number

        async def grouped():
            async with asyncio.TaskGroup() as group:
                tasks = []
                for number in range(3):
                    tasks.append(group.create_task(work(number)))
                    yield "begun"
            for task in tasks:
                yield task.result()

        assert where(lambda: list(bridge.stream(grouped()))) == ["begun"] * 3 + [0, 1, 2]

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.TaskGroup came with CPython 3.11")
    def test_a_task_group_that_fails_between_items(self, bridge):
        async def fail():
            raise LookupError("in the group")

        failed = threading.Event()

        async def grouped():
            async with asyncio.TaskGroup() as group:
                group.create_task(fail()).add_done_callback(lambda _: failed.set())
                yield "begun"
                yield "not reached"

        stream = bridge.stream(grouped())
        assert next(stream) == "begun"
        assert failed.wait(60), "the task has failed"
        with pytest.raises(ExceptionGroup) as caught:  # noqa: F821
            next(stream)
        assert isinstance(caught.value.exceptions[0], LookupError)
        assert list(stream) == []

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout came with CPython 3.11")
    def test_a_timeout(self, bridge):
        async def limited():
            try:
                async with asyncio.timeout(0.02):
                    yield "in time"
                    await asyncio.sleep(60)
            except TimeoutError:
                yield "timed out"
            yield asyncio.current_task().cancelling()

        assert list(bridge.stream(limited())) == ["in time", "timed out", 0]

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout came with CPython 3.11")
    def test_a_timeout_that_is_over_between_items(self, bridge):
        ended = threading.Event()

        async def limited():
            try:
                async with asyncio.timeout(0.01):
                    yield 1
            finally:
                ended.set()

        stream = bridge.stream(limited())
        assert next(stream) == 1
        assert ended.wait(20)
        with pytest.raises(TimeoutError) as caught:
            next(stream)
        assert not isinstance(caught.value, sidecar.CallTimeoutError)
        assert list(stream) == []

    def test_anyio(self, bridge, where):
        anyio = pytest.importorskip("anyio", reason="anyio is not installed")

        async def scoped():
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 0.001)
                with anyio.CancelScope() as scope:
                    yield "in the scope"
                    scope.cancel()
                    await anyio.sleep(60)
                yield scope.cancel_called
                with anyio.move_on_after(0.01) as limit:
                    yield "in time"
                    await anyio.sleep(60)
                yield limit.cancel_called
            yield "left"

        assert where(lambda: list(bridge.stream(scoped()))) == [
            "in the scope",
            True,
            "in time",
            True,
            "left",
        ]

    def test_anyio_left_early(self, bridge):
        anyio = pytest.importorskip("anyio", reason="anyio is not installed")
        log = []

        async def scoped():
            with anyio.CancelScope() as scope:
                try:
                    yield 1
                finally:
                    scope.shield = True
                    await anyio.sleep(0.001)
                    log.append("left")

        stream = bridge.stream(scoped())
        next(stream)
        stream.close()
        assert log == ["left"]
        stream = bridge.stream(scoped())
        next(stream)
        del stream
        wait_for(lambda: log == ["left"] * 2, "the dropped one has been closed")


class TestInsideCoroutines:
    def test_a_step_on_the_bridges_own_thread_is_a_deadlock(self, bridge):
        begun, fresh = bridge.stream(count(3)), bridge.stream(open_count(3))
        assert next(begun) == 0

        async def inside(stream):
            with pytest.raises(sidecar.DeadlockError, match=r"a step of the stream of .*inside") as caught:
                next(stream)
            return caught.value.code

        assert {bridge.run_sync(inside(stream)) for stream in (begun, fresh)} == {"SC0001"}
        assert list(begun) == [1, 2] and list(fresh) == [0, 1, 2]  # both can still be used

    def test_close_there_is_one_too(self, bridge):
        stream = bridge.stream(count(3))
        next(stream)

        async def inside():
            with pytest.raises(sidecar.DeadlockError):
                stream.close()

        bridge.run_sync(inside())
        assert list(stream) == [1, 2]

    def test_a_generator_that_takes_from_itself(self, bridge):
        async def snake():
            yield 1
            yield next(stream)

        stream = bridge.stream(snake())
        assert next(stream) == 1
        with pytest.raises(ValueError, match="already|being advanced"):
            next(stream)

    def test_of_another_bridge(self, bridge):
        with sidecar.Sidecar(name="other") as other:

            async def inside():
                return list(other.stream(count_slowly(3)))

            assert bridge.run_sync(inside()) == [0, 1, 2]

    @pytest.mark.parametrize("depth", [1, 20])
    def test_stream_inside_stream(self, bridge, depth):
        """A generator has a pool's thread consume another stream; with two threads, at any depth."""

        async def nested(level):
            if level == 0:
                for number in range(3):
                    await asyncio.sleep(0)
                    yield number
                return
            for item in await bridge._on_pool(None, lambda: list(bridge.stream(nested, level - 1))):
                yield item

        assert list(bridge.stream(nested, depth)) == [0, 1, 2]

    def test_stream_inside_stream_item_by_item(self, bridge):
        async def outer():
            inner = bridge.stream(count_slowly(4))
            while (item := await bridge._on_pool(None, next, inner, None)) is not None:
                yield item * 10
            await bridge._on_pool(None, inner.close)

        assert list(bridge.stream(outer())) == [0, 10, 20, 30]


class TestThreads:
    def test_two_at_once(self, bridge):
        inside, go = threading.Event(), threading.Event()

        async def wait():
            inside.set()
            while not go.is_set():
                await asyncio.sleep(0.001)
            yield 1

        stream = bridge.stream(wait())
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            first = executor.submit(next, stream)
            assert inside.wait(20)
            for use in (lambda: next(stream), stream.close, lambda: stream.send(None)):
                with pytest.raises(ValueError, match="by another thread just now"):
                    use()
            with pytest.raises(ValueError):
                stream.throw(KeyError)
            go.set()
            assert first.result() == 1
        assert list(stream) == []

    def test_one_after_the_other(self, bridge):
        stream = bridge.stream(count_slowly(20))
        found = []
        for _ in range(10):
            found.append(in_thread(next, stream))
            found.append(next(stream))
        assert found == list(range(20))

    def test_many_threads_each_their_own(self, bridge):
        def consume(number):
            return list(bridge.stream(count_slowly if number % 2 else count, 20))

        with concurrent.futures.ThreadPoolExecutor(8) as executor:
            assert list(executor.map(consume, range(16))) == [list(range(20))] * 16

    def test_its_items_do_not_wait_for_other_calls(self, bridge):
        """While one thread's coroutine waits, another's stream goes on."""
        go = threading.Event()

        async def wait():
            while not go.is_set():
                await asyncio.sleep(0.001)

        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            call = executor.submit(bridge.run_sync, wait())
            assert list(bridge.stream(count_slowly(20))) == list(range(20))
            assert not call.done()
            go.set()
            call.result()
