"""Resources: made once for each worker, on its loop, in one task; closed at its end, the last made first."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import gc
import logging
import sys
import threading
import time
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
    made = sidecar.Sidecar(name="keeper", shutdown_timeout=5)
    yield made
    made.shutdown()


def await_in(bridge, kept):
    async def ask():
        return await kept

    return bridge.run_sync(ask())


class Client:
    """Notes what is done with it."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()  # as many clients do
        self.log = []

    async def __aenter__(self):
        self.log.append("entered")
        return self

    async def __aexit__(self, *_):
        self.log.append("left")

    async def aclose(self):
        await asyncio.sleep(0)
        self.log.append("aclose")

    def close(self):
        self.log.append("close")


class TestFactories:
    """Each kind, and what it has done with the object at the end."""

    async def generator():
        client = Client()
        yield client
        await client.aclose()

    @contextlib.asynccontextmanager
    async def manager():
        client = Client()
        yield client
        client.close()

    async def coroutine():
        return Client()

    KINDS = {
        "generator": (generator, {}, ["aclose"]),
        "partial": (functools.partial(generator), {}, ["aclose"]),
        "generator-object": (lambda: TestFactories.generator(), {}, ["aclose"]),
        "manager-function": (manager, {}, ["close"]),
        "class": (Client, {}, ["entered", "left"]),
        "coroutine": (coroutine, {}, []),
        "coroutine-method": (coroutine, {"close": "aclose"}, ["aclose"]),
        "coroutine-function": (coroutine, {"close": lambda client: client.close()}, ["close"]),
        "coroutine-async-function": (coroutine, {"close": Client.aclose}, ["aclose"]),
        "class-method": (Client, {"close": "close"}, ["close"]),
    }

    @pytest.mark.parametrize(("factory", "options", "log"), KINDS.values(), ids=KINDS)
    def test_kind(self, bridge, factory, options, log):
        kept = resource(factory, bridge=bridge, **options)
        client = kept.get()
        assert isinstance(client, Client) and client.loop is bridge.get_loop()
        assert client is kept.get() is await_in(bridge, kept)
        assert client.log == log[: log.count("entered")]
        assert bridge.shutdown()
        assert client.log == log

    @pytest.mark.parametrize(("factory", "options", "log"), KINDS.values(), ids=KINDS)
    def test_method_of_the_bridge(self, bridge, factory, options, log):
        for kept in (bridge.resource(factory, **options), bridge.resource(**options)(factory)):
            assert isinstance(kept, sidecar.Resource)
            client = kept.get()
            assert client.loop is bridge.get_loop() and client is await_in(bridge, kept)
        assert bridge.shutdown()
        assert client.log == log

    def test_plain(self, bridge):
        made = []

        @resource(bridge=bridge, close=lambda value: made.append(("closed", value)))
        def plain():
            made.append(asyncio.get_running_loop())

        assert plain.get() is None is plain.get()  # None is an object like any other
        assert bridge.shutdown()
        assert made == [made[0], ("closed", None)]

    @pytest.mark.parametrize("lock", [asyncio.Lock, asyncio.Condition, asyncio.BoundedSemaphore])
    def test_a_lock_is_not_taken(self, bridge, lock):
        kept = resource(lock, bridge=bridge)
        assert not kept.get().locked()

    def test_keeps_what_the_factory_says_of_itself(self):
        @resource
        async def client():
            """The client."""
            yield 1

        assert client.__name__ == "client" and client.__doc__ == "The client."
        assert repr(client).startswith("<sidecar.Resource ") and repr(client).endswith("client>")

    @pytest.mark.parametrize(
        ("factory", "options", "words"),
        [
            (3, {}, "takes a function"),
            (lambda: (yield 1), {}, "sync generator function"),
            (generator, {"close": "close"}, "after its yield"),
            (coroutine, {"close": 3}, "method's name"),
        ],
        ids=["number", "sync-generator", "generator-close", "close"],
    )
    def test_wrong(self, bridge, factory, options, words):
        for function in (resource, bridge.resource):
            with pytest.raises(TypeError, match=words):
                function(factory, **options)

    def test_a_generator_that_yields_nothing(self, bridge):
        @resource(bridge=bridge)
        async def empty():
            if False:
                yield

        with pytest.raises(RuntimeError, match="didn't yield"):
            empty.get()

    def test_a_generator_that_yields_twice(self, bridge, caplog):
        @resource(bridge=bridge)
        async def twice():
            yield 1
            yield 2

        assert twice.get() == 1
        assert bridge.shutdown()
        assert "closing resource" in caplog.text and "didn't stop" in caplog.text

    def test_stop_iteration(self, bridge):
        @resource(bridge=bridge)
        def exhausted():
            return next(iter(()))

        with pytest.raises(RuntimeError, match="raised StopIteration"):
            exhausted.get()


class TestOneInstance:
    def test_many_threads_and_coroutines_at_once(self, bridge):
        made, go = [], threading.Event()

        @resource(bridge=bridge)
        async def kept():
            made.append(object())
            while not go.is_set():
                await asyncio.sleep(0.001)
            yield made[-1]

        async def ask():
            return await asyncio.gather(*(give_kept() for _ in range(5)))

        async def give_kept():
            return await kept

        with concurrent.futures.ThreadPoolExecutor(16) as executor:
            asked = [executor.submit(kept.get) for _ in range(8)]
            asked += [executor.submit(lambda: bridge.run_sync(ask())) for _ in range(8)]
            wait_for(lambda: made, "the factory runs")
            go.set()
            answers = [job.result(20) for job in asked]
        assert len(made) == 1
        assert answers == [made[0]] * 8 + [[made[0]] * 5] * 8

    def test_what_is_there_needs_no_loop(self, bridge):
        kept = resource(lambda: 5, bridge=bridge)
        assert kept.get() == 5
        blocked, release = threading.Event(), threading.Event()

        async def block():
            blocked.set()
            assert release.wait(20)

        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            blocker = executor.submit(lambda: bridge.run_sync(block()))
            assert blocked.wait(20)
            try:
                assert kept.get() == 5
                assert not blocker.done()
            finally:
                release.set()
            blocker.result(20)

    def test_the_main_thread_still_drives_beside_it(self, bridge):
        """It drives no other's tasks; the one that keeps the object is nobody's."""

        @resource(bridge=bridge)
        async def kept():
            async with anyio.create_task_group():
                yield 1

        assert kept.get() == 1

        async def where():
            await asyncio.sleep(0)
            return threading.get_ident()

        assert threading.current_thread() is threading.main_thread()
        wait_for(lambda: bridge.run_sync(where()) == threading.get_ident(), "the main thread drives")
        assert [bridge.run_sync(where()) for _ in range(20)] == [threading.get_ident()] * 20

    def test_each_bridge_has_its_own(self, bridge):
        with sidecar.Sidecar() as other:
            one, two = resource(object, bridge=bridge), resource(object, bridge=other)
            assert one.get() is one.get() is not two.get()

    def test_a_fresh_one_after_shutdown_of_the_default_bridge(self):
        log = []

        @resource
        async def kept():
            made = object()
            yield made
            log.append(made)

        made = []
        for _ in range(2):
            made.append(kept.get())
            assert kept.get() is made[-1] is await_in(sidecar, kept)
            assert sidecar.shutdown()
        assert log == made and made[0] is not made[1]

    def test_a_closed_bridge_refuses(self, bridge):
        kept = resource(object, bridge=bridge)
        kept.get()
        bridge.shutdown()
        with pytest.raises(sidecar.BridgeClosedError):
            kept.get()


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


class TestClosing:
    def test_one_that_fails_is_logged_and_the_others_are_closed(self, bridge, caplog):
        log = []

        def make(name):
            async def factory():
                yield name
                log.append(name)
                raise LookupError(f"closing {name}")

            return resource(factory, bridge=bridge)

        for name in "abc":
            make(name).get()
        assert bridge.shutdown()
        assert log == ["c", "b", "a"]
        assert all(f"LookupError: closing {name}" in caplog.text for name in "abc")

    @pytest.mark.parametrize("stubborn", [False, True], ids=["cancelled", "left"])
    def test_one_that_hangs_is_named_and_the_others_are_closed(self, bridge, caplog, stubborn):
        caplog.set_level(logging.WARNING, "sidecar")
        log, release = [], threading.Event()

        @resource(bridge=bridge)
        async def quick():
            yield 1
            await asyncio.sleep(0.01)
            log.append("quick")

        @resource(bridge=bridge)
        async def hanging():
            yield 2
            while not release.is_set():
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    log.append("cancelled")
                    if not stubborn:
                        raise

        assert (quick.get(), hanging.get()) == (1, 2)
        before = time.monotonic()
        try:
            assert not bridge.shutdown(timeout=0.6)
            assert time.monotonic() - before < 5
        finally:
            release.set()
        assert log[0] == "cancelled" and "quick" in log
        assert "closing resource" in caplog.text and "hanging did not end in time" in caplog.text
        assert "quick did not" not in caplog.text

    def test_a_making_is_broken_off(self, bridge):
        log, begun = [], threading.Event()

        @resource(bridge=bridge)
        async def slow():
            begun.set()
            try:
                await asyncio.sleep(60)
                yield
            finally:
                log.append("broken off")

        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            asker = executor.submit(slow.get)
            assert begun.wait(20)
            assert bridge.shutdown()
            with pytest.raises((asyncio.CancelledError, concurrent.futures.CancelledError)):
                asker.result(20)
        assert log == ["broken off"]

    def test_makings_are_broken_off_at_once(self, bridge):
        """One that went on while another cleans up could be used to make a third, behind what is closed."""
        log, begun, go = [], [], threading.Event()

        @resource(bridge=bridge)
        async def quick():
            begun.append("quick")
            while not go.is_set():
                await asyncio.sleep(0.001)
            log.append("quick made")
            yield

        @resource(bridge=bridge)
        async def slow():
            begun.append("slow")
            try:
                await asyncio.sleep(60)
                yield
            finally:
                go.set()
                await asyncio.sleep(0.05)
                log.append("slow broken off")

        with concurrent.futures.ThreadPoolExecutor(2) as executor:
            askers = []
            for kept in (quick, slow):
                askers.append(executor.submit(kept.get))
                wait_for(lambda: len(begun) == len(askers), "the factory runs")
            assert bridge.shutdown()
            assert all(isinstance(asker.exception(20), asyncio.CancelledError) for asker in askers)
        assert log == ["slow broken off"]

    def test_a_making_is_broken_off_before_it_began(self, bridge):
        made = []

        async def ask():
            task = asyncio.ensure_future(give_kept())
            while not bridge.get_loop()._lifespan.makings:
                await asyncio.sleep(0)
            [making] = bridge.get_loop()._lifespan.makings.values()
            making.task.cancel()  # it has not run yet
            await asyncio.wait({task}, timeout=20)
            return task.cancelled()

        async def give_kept():
            return await kept

        kept = resource(lambda: made.append(1), bridge=bridge)
        assert bridge.run_sync(ask()) and made == []
        assert kept.get() is None and made == [1]

    def test_calls_that_end_may_use_it(self, bridge):
        """Also one that nobody had made before, as long as none is closed."""
        log, begun = [], threading.Event()

        @resource(bridge=bridge)
        async def kept():
            yield "kept"
            log.append("kept closed")

        @resource(bridge=bridge)
        async def late():
            yield "late"
            log.append("late closed")

        async def call():
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)
                log.append((await kept, kept.get(), await late))

        kept.get()
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            asker = executor.submit(lambda: bridge.run_sync(call()))
            assert begun.wait(20)
            assert bridge.shutdown()
            assert isinstance(asker.exception(20), asyncio.CancelledError)
        assert log == [("kept", "kept", "late"), "late closed", "kept closed"]

    def test_of_the_default_bridge_too(self):
        log, begun = [], threading.Event()

        @resource
        async def kept():
            yield "kept"
            log.append("closed")

        @resource
        async def late():
            yield "late"

        async def call():
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                log.append((kept.get(), await kept, await late))

        kept.get()
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            asker = executor.submit(lambda: sidecar.run_sync(call()))
            assert begun.wait(20)
            assert sidecar.shutdown()
            assert isinstance(asker.exception(20), asyncio.CancelledError)
        assert log == [("kept", "kept", "late"), "closed"]
        assert not sidecar.is_running()

    def test_none_is_made_any_more(self, bridge, caplog):
        late = resource(object, bridge=bridge)

        @resource(bridge=bridge)
        async def kept():
            yield 1
            await late

        kept.get()
        assert bridge.shutdown()
        assert "cannot be made any more" in caplog.text and "BridgeClosedError" in caplog.text

    def test_its_own_tasks_go_with_it(self, bridge):
        """What keeps a client going (a reader, a heartbeat) is not ended with the calls; nor left behind."""
        log = []

        @resource(bridge=bridge)
        async def kept():
            reader = asyncio.create_task(runs("reader"))
            forgotten.append(asyncio.create_task(runs("forgotten")))
            yield 1
            assert not reader.done()
            reader.cancel()
            await asyncio.wait({reader})
            log.append("closed")

        async def runs(name):
            try:
                await asyncio.sleep(60)
            finally:
                log.append(name)

        async def spawn():
            forgotten.append(asyncio.create_task(runs("a call's")))
            await asyncio.sleep(0)

        forgotten = []
        kept.get()
        bridge.run_sync(spawn())
        gc.collect()
        assert bridge.shutdown()
        assert log == ["a call's", "reader", "closed", "forgotten"]

    def test_not_daemon_does_not_wait_for_its_tasks(self):
        @resource
        async def kept():
            yield asyncio.create_task(asyncio.sleep(60))

        bridge = sidecar.Sidecar(daemon=False, shutdown_timeout=20)
        kept = resource(kept.__wrapped__, bridge=bridge)
        task = kept.get()
        before = time.monotonic()
        assert bridge.shutdown()
        assert time.monotonic() - before < 10 and task.cancelled()


class TestWhere:
    def test_not_made_yet_inside_a_coroutine(self, bridge):
        kept = resource(lambda: 3, bridge=bridge)

        async def ask():
            with pytest.raises(sidecar.DeadlockError, match="await the resource there"):
                kept.get()
            assert await kept == 3
            return kept.get()

        assert bridge.run_sync(ask()) == 3

    def test_on_another_loop(self, bridge):
        kept = resource(lambda: 3, bridge=bridge)

        async def ask():
            with pytest.raises(RuntimeError, match=r"lives on the loop of .*'keeper'.* in a thread of its own"):
                await kept
            return kept.get()  # sync code may: this loop waits meanwhile

        assert asyncio.run(ask()) == 3

    def test_on_another_bridge(self, bridge):
        kept = resource(lambda: 3)
        with pytest.raises(RuntimeError, match="lives on the loop of this process's own bridge"):
            await_in(bridge, kept)
        own = resource(lambda: 4, bridge=bridge)
        with pytest.raises(RuntimeError, match="lives on the loop of .*'keeper'"):
            await_in(sidecar, own)

    def test_in_a_pool_thread(self, bridge):
        kept = resource(lambda: 3, bridge=bridge)

        async def ask():
            return await asyncio.get_running_loop().run_in_executor(None, kept.get)

        assert bridge.run_sync(ask()) == 3


class TestProcess:
    SCRIPT = """
        import asyncio, os, signal, sys, threading, time, warnings
        warnings.simplefilter("ignore")
        import sidecar
        def say(*words):
            print(*words, flush=True)
        @sidecar.resource
        async def kept():
            mine = os.getpid()
            yield mine
            say("closed, its own" if mine == os.getpid() else "closed, another's")
    """

    def check(self, run_script, body):
        import textwrap

        done = run_script(textwrap.dedent(self.SCRIPT) + textwrap.dedent(body))
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    def test_at_exit(self, run_script):
        assert self.check(run_script, "assert kept.get() == os.getpid()") == ["closed, its own"]

    def test_after_a_fork_the_child_makes_its_own(self, run_script):
        assert self.check(run_script, """
            def in_child(work):
                pid = os.fork()
                if pid == 0:
                    work()
                    sys.exit()
                assert os.waitpid(pid, 0)[1] == 0
            assert kept.get() == os.getpid()
            def child():
                assert kept.get() == os.getpid() != os.getppid()
                say("child")
            in_child(child)
            say("idle child")
            in_child(lambda: None)
            say("parent")
            assert kept.get() == os.getpid()
        """) == ["child", "closed, its own", "idle child", "parent", "closed, its own"]

    def test_a_signal_in_the_midst_of_the_making(self, run_script):
        assert self.check(run_script, """
            class Alarm(Exception):
                pass
            def ring(*_):
                raise Alarm
            signal.signal(signal.SIGALRM, ring)
            tries = []
            @sidecar.resource
            async def slow():
                tries.append(1)
                if len(tries) == 1:
                    signal.setitimer(signal.ITIMER_REAL, 0.05)
                    deadline = time.monotonic() + 20
                    while time.monotonic() < deadline:  # in Python, where the handler can raise
                        pass
                yield len(tries)
            try:
                slow.get()
            except Alarm:
                say("alarm")
            say(slow.get(), sidecar.run_sync(asyncio.sleep(0, "served")))
        """) == ["alarm", "2 served"]
