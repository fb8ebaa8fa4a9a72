"""Resources: the making of one, in one task; when it fails; what it needs itself."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import sys
import threading
import traceback

import anyio
import pytest
from harness import wait_for

import sidecar
from sidecar import resource

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="empty")


async def give(value):
    await asyncio.sleep(0)
    return value


@pytest.fixture
def bridge():
    with sidecar.Sidecar(name="keeper", shutdown_timeout=5) as made:
        yield made


class TestFailing:
    def test_for_all_who_asked_and_again_for_the_next(self, bridge):
        tries, go = [], threading.Event()

        @resource(bridge=bridge)
        async def kept():
            tries.append(1)
            while not go.is_set():
                await asyncio.sleep(0.001)
            if len(tries) == 1:
                raise LookupError("not yet")
            yield len(tries)

        def asked():
            return next(iter(bridge.get_loop()._lifespan.makings.values())).askers

        with concurrent.futures.ThreadPoolExecutor(4) as executor:
            first = [executor.submit(kept.get) for _ in range(4)]
            wait_for(lambda: tries and asked() == 4, "all four wait")
            go.set()
            errors = [job.exception(20) for job in first]
        assert [str(error) for error in errors] == ["not yet"] * 4
        assert kept.get() == 2 == kept.get()

    def test_the_traceback_has_the_callers_and_the_factorys_frames(self, bridge):
        @resource(bridge=bridge)
        async def kept():
            raise LookupError("here")
            yield

        with pytest.raises(LookupError) as caught:
            kept.get()
        frames = traceback.extract_tb(caught.value.__traceback__)
        assert {frame.filename for frame in frames} == {__file__}
        assert [frame.name for frame in frames][-1] == "kept"

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="before, a frame that raises again is always added")
    def test_the_traceback_of_one_awaited(self, bridge):
        @bridge.resource
        async def kept():
            raise LookupError("here")
            yield

        async def ask():
            with pytest.raises(LookupError) as caught:
                await kept
            return traceback.extract_tb(caught.value.__traceback__)

        frames = bridge.run_sync(ask())
        assert [(frame.filename, frame.name) for frame in frames] == [(__file__, "ask"), (__file__, "kept")]

    def test_no_asker_ends_the_making(self, bridge):
        tries, go = [], threading.Event()

        @resource(bridge=bridge)
        async def kept():
            tries.append(1)
            while not go.is_set():
                await asyncio.sleep(0.001)
            yield "made"

        async def ask_and_cancel():
            task = asyncio.ensure_future(give_kept())
            await asyncio.sleep(0.005)
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()

        async def give_kept():
            return await kept

        with pytest.raises(sidecar.CallTimeoutError, match="resource .*kept did not finish within"):
            kept.get(timeout=0.01)
        bridge.run_sync(ask_and_cancel())
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            last = executor.submit(kept.get)
            go.set()
            assert last.result(20) == "made"
        assert len(tries) == 1

    def test_with_nobody_left_to_tell_it_is_logged(self, bridge, caplog):
        go = threading.Event()

        @resource(bridge=bridge)
        async def kept():
            while not go.is_set():
                await asyncio.sleep(0.001)
            raise LookupError("lost")
            yield

        with pytest.raises(sidecar.CallTimeoutError):
            kept.get(timeout=0.01)
        go.set()
        wait_for(lambda: "LookupError: lost" in caplog.text, "it is logged")
        assert "nobody waits" in caplog.text

    def test_one_that_exits_does_so_for_one_caller(self, bridge):
        """Each caller that began a making gets its own SystemExit; none gets another's."""
        made = []

        @resource(bridge=bridge)
        async def kept():
            made.append(1)
            await asyncio.sleep(0.01)
            if len(made) <= 2:
                raise SystemExit(len(made))
            yield "made"

        def ask():
            try:
                return kept.get()
            except SystemExit as error:
                return error.code

        with concurrent.futures.ThreadPoolExecutor(4) as executor:
            answers = [job.result(20) for job in [executor.submit(ask) for _ in range(4)]]
        assert sorted(map(str, answers)) == ["1", "2", "made", "made"]


class TestOneTask:
    def test_one_context_empty_at_first(self, bridge):
        seen = []

        @resource(bridge=bridge)
        async def kept():
            seen.append((var.get(), asyncio.current_task()))
            token = var.set("the resource's")
            yield 1
            seen.append((var.get(), asyncio.current_task()))
            var.reset(token)
            seen.append((var.get(), asyncio.current_task()))

        token = var.set("the request that asked first")
        try:
            assert kept.get() == 1
            assert var.get() == "the request that asked first"
            assert bridge.shutdown()
        finally:
            var.reset(token)
        assert [value for value, _ in seen] == ["empty", "the resource's", "empty"]
        assert len({task for _, task in seen}) == 1

    def test_cancel_scopes_and_task_groups(self, bridge):
        log = []

        @resource(bridge=bridge)
        async def kept():
            async with anyio.create_task_group() as group:
                with anyio.CancelScope() as scope:
                    group.start_soon(beat)
                    yield 1
                log.append(scope.cancel_called)
                group.cancel_scope.cancel()

        async def beat():
            try:
                await anyio.sleep_forever()
            finally:
                log.append("beat ended")

        assert kept.get() == 1
        assert bridge.shutdown()
        assert log == [False, "beat ended"]

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups are of 3.11")
    def test_one_that_ends_by_itself_is_made_anew(self, bridge, caplog):
        made, fail = [], threading.Event()

        @resource(bridge=bridge)
        async def kept():
            made.append(1)
            async with asyncio.TaskGroup() as group:
                group.create_task(breaks() if len(made) == 1 else give(1))
                yield len(made)

        async def breaks():
            while not fail.is_set():
                await asyncio.sleep(0.001)
            raise LookupError("the connection is gone")

        assert kept.get() == 1
        fail.set()
        wait_for(lambda: kept.get() == 2, "it is made anew")
        assert "has ended by itself" in caplog.text and "the connection is gone" in caplog.text

    def test_cancelled_by_somebody_it_is_closed_and_made_anew(self, bridge, caplog):
        log = []

        @resource(bridge=bridge)
        async def kept():
            log.append("made")
            try:
                yield len(log)
            finally:
                log.append("closed")

        async def cancel_everything():
            for task in asyncio.all_tasks() - {asyncio.current_task(), asyncio.get_running_loop()._root}:
                task.cancel()

        assert kept.get() == 1
        bridge.run_sync(cancel_everything())
        wait_for(lambda: "closed" in log, "it is closed")
        assert kept.get() == 3
        wait_for(lambda: caplog.text, "it is logged")
        assert "has ended by itself" in caplog.text


class TestDependencies:
    def test_closed_in_reverse(self, bridge):
        log = []

        @resource(bridge=bridge)
        async def pool():
            yield "pool"
            log.append("pool")

        @resource(bridge=bridge)
        async def store():
            inner = await pool
            yield f"store on {inner}"
            log.append(f"store on {await pool} {pool.get()}")

        @resource(bridge=bridge)
        async def other():
            yield f"other on {await pool} and {await store}"
            log.append("other")

        assert other.get() == "other on pool and store on pool"
        assert bridge.shutdown()
        assert log == ["other", "store on pool pool", "pool"]

    def chain(self, bridge, *asks):
        """Resources that ask each for the next one, in the ways named; the last one for the first."""
        kept = []

        def make(at, how):
            def following():
                return kept[(at + 1) % len(asks)]

            async def task():
                return await following()

            async def factory():
                if how == "await":
                    await following()
                elif how == "tasks":
                    await asyncio.gather(give(1), task())
                else:
                    await asyncio.get_running_loop().run_in_executor(None, following().get)
                yield at

            factory.__qualname__ = f"r{at}"
            return resource(factory, bridge=bridge)

        kept += [make(at, how) for at, how in enumerate(asks)]
        return kept

    @pytest.mark.parametrize(
        "asks",
        [["await"], ["await"] * 2, ["await"] * 5, ["tasks", "await"], ["thread", "await", "tasks"]],
        ids=lambda asks: "-".join(asks),
    )
    def test_a_cycle_is_an_error_with_the_chain(self, bridge, asks):
        first = self.chain(bridge, *asks)[0]
        with pytest.raises(sidecar.DeadlockError) as caught:
            first.get(timeout=20)
        names = [f"resource r{at}" for at in range(len(asks))]
        # It is told to the one that closed the circle.
        closed = [*names[-1:], *names]
        assert f": {' -> '.join(closed)}. " in str(caught.value) and "[SC0001]" in str(caught.value)

    def test_a_cycle_begun_from_two_ends(self, bridge):
        one, two = self.chain(bridge, "tasks", "tasks")
        with concurrent.futures.ThreadPoolExecutor(2) as executor:
            errors = [job.exception(20) for job in [executor.submit(one.get), executor.submit(two.get)]]
        assert [type(error) for error in errors] == [sidecar.DeadlockError] * 2

    def test_a_diamond_is_none(self, bridge):
        base = resource(lambda: give("base"), bridge=bridge)

        def above(name):
            async def factory():
                await asyncio.sleep(0.005)
                return f"{name} on {await base}"

            return resource(factory, bridge=bridge)

        left, right = above("left"), above("right")

        @resource(bridge=bridge)
        async def top():
            async def ask(kept):
                return await kept

            return await asyncio.gather(ask(left), ask(right), ask(base))

        assert top.get() == ["left on base", "right on base", "base"]
