"""Resources: what factories may be, one object for each bridge, and where it can be had."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import threading

import anyio
import pytest
from harness import wait_for

import sidecar
from sidecar import resource


@pytest.fixture
def bridge():
    with sidecar.Sidecar(name="keeper", shutdown_timeout=5) as made:
        yield made


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
