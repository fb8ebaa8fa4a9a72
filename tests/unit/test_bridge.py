"""Bridges: instances, this process's own one, start and shutdown."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import logging
import threading
import warnings

import pytest
from harness import wait_for

import sidecar

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


async def give(value):
    await asyncio.sleep(0)
    return value


async def running_loop():
    return asyncio.get_running_loop()


class TestInstances:
    def test_each_has_its_own_loop(self):
        with sidecar.Sidecar(name="one") as one, sidecar.Sidecar(name="two") as two:
            loops = {one.run_sync(running_loop()), two.run_sync(running_loop()), sidecar.run_sync(running_loop())}
            assert len(loops) == 3

    def test_starts_with_its_first_call(self):
        bridge = sidecar.Sidecar()
        assert not bridge.is_running() and "not started" in repr(bridge)
        assert bridge.run_sync(give(1)) == 1
        assert bridge.is_running() and "running" in repr(bridge)
        assert bridge.shutdown()
        assert not bridge.is_running() and "closed" in repr(bridge)

    def test_start_is_idempotent(self):
        bridge = sidecar.Sidecar()
        assert bridge.start() is bridge
        loop = bridge.get_loop()
        assert bridge.start().get_loop() is loop
        bridge.close()

    def test_a_closed_one_refuses(self, recwarn):
        bridge = sidecar.Sidecar(name="over")
        bridge.shutdown()
        for call in (lambda: bridge.run_sync(give(1)), bridge.start, bridge.get_loop):
            with pytest.raises(sidecar.BridgeClosedError, match="'over'") as caught:
                call()
            assert caught.value.code == "SC0002"
        gc.collect()
        assert not recwarn.list  # no coroutine "was never awaited"

    def test_shutdown_twice(self):
        bridge = sidecar.Sidecar().start()
        assert bridge.shutdown() and bridge.shutdown()

    @pytest.mark.parametrize("workers", [0, -1, 1.5, "two", True])
    def test_workers(self, workers):
        with pytest.raises(ValueError, match="workers must be a whole number"):
            sidecar.Sidecar(workers)

    @pytest.mark.parametrize("name", ["", None, 3])
    def test_name(self, name):
        with pytest.raises(ValueError, match="name must be a string"):
            sidecar.Sidecar(name=name)

    @pytest.mark.parametrize("option", ["timeout", "cleanup_timeout", "shutdown_timeout"])
    @pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
    def test_seconds(self, option, value):
        with pytest.raises(ValueError, match=f"{option} must be a number of seconds"):
            sidecar.Sidecar(**{option: value})

    def test_many_threads_start_it_once(self):
        bridge = sidecar.Sidecar()
        barrier = threading.Barrier(16)

        def first():
            barrier.wait(20)
            return bridge.run_sync(running_loop())

        with concurrent.futures.ThreadPoolExecutor(16) as executor:
            assert len(set(executor.map(lambda _: first(), range(16)))) == 1
        bridge.shutdown()

    def test_dropped_without_shutdown_warns_and_ends(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            bridge = sidecar.Sidecar(name="dropped").start()
            del bridge
            gc.collect()
        assert any("'dropped'" in str(warning.message) for warning in caught)
        # nothing_left waits for its thread and its descriptors to be gone
        wait_for(lambda: not any("dropped" in thread.name for thread in threading.enumerate()), "its closing")
        gc.collect()


class TestOwn:
    def test_one_a_process(self):
        bridge = sidecar.get_bridge()
        assert bridge is sidecar.get_bridge() and isinstance(bridge, sidecar.Sidecar)
        assert not sidecar.is_running()
        sidecar.run_sync(give(1))
        assert sidecar.is_running()

    def test_a_fresh_one_after_shutdown(self):
        before = sidecar.run_sync(running_loop())
        assert sidecar.shutdown()
        assert before.is_closed() and not sidecar.is_running()
        assert sidecar.run_sync(running_loop()) is not before

    def test_a_wrong_timeout_leaves_it_alone(self):
        bridge = sidecar.get_bridge().start()
        with pytest.raises(ValueError, match="timeout must be"):
            sidecar.shutdown(timeout=-1)
        assert sidecar.get_bridge() is bridge and bridge.is_running()

    def test_shutdown_without_one(self):
        assert sidecar.shutdown() and sidecar.shutdown(timeout=0)


class TestShutdown:
    def test_cancels_calls_and_tasks_and_waits_for_their_cleanup(self):
        cleaned = []
        begun = threading.Event()

        async def work(name):
            begun.set()
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(0.01)
                cleaned.append(name)

        async def spawn():
            return asyncio.create_task(work("task"))

        bridge = sidecar.Sidecar()
        task = bridge.run_sync(spawn())
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            answer = executor.submit(lambda: bridge.run_sync(work("call")))
            assert begun.wait(20)
            wait_for(lambda: len(asyncio.all_tasks(bridge.get_loop())) >= 3, "call and task have begun")
            assert bridge.shutdown()
            with pytest.raises(asyncio.CancelledError):
                answer.result(20)
        assert sorted(cleaned) == ["call", "task"]
        assert task.cancelled()

    def test_leaves_the_main_threads_call_to_the_main_thread(self, caplog):
        # The pump has ended, and nobody but the main thread is left to run what will not be cancelled.
        caplog.set_level(logging.ERROR, "sidecar")
        begun, stop = threading.Event(), threading.Event()

        async def stubborn():
            begun.set()
            while not stop.is_set():
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    pass
            return "done"

        def end():
            assert begun.wait(20)
            clean = bridge.shutdown(timeout=0.2)
            stop.set()
            return clean

        bridge = sidecar.Sidecar()
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            clean = executor.submit(end)
            assert bridge.run_sync(stubborn()) == "done"
            assert not clean.result(20)

    def test_names_what_is_stuck(self, caplog):
        caplog.set_level(logging.WARNING, "sidecar")
        stop = threading.Event()

        async def stubborn():
            while not stop.is_set():
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    pass

        async def spawn():
            task = asyncio.create_task(stubborn())
            await asyncio.sleep(0)
            return task

        bridge = sidecar.Sidecar(name="stuck")
        bridge.run_sync(spawn())
        assert not bridge.shutdown(timeout=0.1)
        assert "stubborn()" in caplog.text and "'stuck'" in caplog.text

    def test_async_generators_are_closed(self):
        closed = []

        async def items():
            try:
                yield 1
                yield 2
            finally:
                closed.append(True)

        async def begin(generator):
            return await generator.__anext__()

        bridge = sidecar.Sidecar()
        generator = items()
        bridge.run_sync(begin(generator))
        assert bridge.shutdown()
        assert closed == [True]

    def test_inside_itself_is_a_deadlock_error(self):
        with sidecar.Sidecar() as bridge:

            async def suicide():
                bridge.shutdown()

            with pytest.raises(sidecar.DeadlockError, match="inside a coroutine"):
                bridge.run_sync(suicide())
            assert bridge.run_sync(give(1)) == 1

    def test_while_another_thread_starts_it(self):
        """It waits for the start, and ends what that made (nothing_left sees to that)."""
        entered, release = threading.Event(), threading.Event()

        class Slow(sidecar.Sidecar):
            def _make_loop(self):
                entered.set()
                assert release.wait(20)
                return super()._make_loop()

        bridge = Slow()
        with concurrent.futures.ThreadPoolExecutor(2) as executor:
            call = executor.submit(lambda: bridge.run_sync(give(1)))
            assert entered.wait(20)
            end = executor.submit(bridge.shutdown)
            wait_for(lambda: end.running(), "the shutdown has begun")
            release.set()
            assert end.result(20)
            error = call.exception(20)
        assert error is None or isinstance(error, (asyncio.CancelledError, sidecar.BridgeClosedError))
        assert not bridge.is_running()

    def test_while_other_threads_call(self):
        """Each call ends: with its answer, cancelled, or refused."""
        for _ in range(10):
            bridge = sidecar.Sidecar()
            barrier = threading.Barrier(5)

            def caller(bridge=bridge, barrier=barrier):
                barrier.wait(20)
                for _ in range(10_000):
                    try:
                        assert bridge.run_sync(give(1)) == 1
                    except (asyncio.CancelledError, sidecar.BridgeClosedError) as error:
                        return type(error)

            with concurrent.futures.ThreadPoolExecutor(4) as executor:
                answers = [executor.submit(caller) for _ in range(4)]
                barrier.wait(20)
                assert bridge.shutdown()
                assert {answer.result(20) for answer in answers} <= {
                    asyncio.CancelledError,
                    sidecar.BridgeClosedError,
                }


class TestWorkerPool:
    def test_run_in_executor_uses_it_with_the_submitters_context(self):
        async def work():
            loop = asyncio.get_running_loop()
            return await asyncio.gather(*(loop.run_in_executor(None, look) for _ in range(4)))

        def look():
            return var.get(), threading.get_ident()

        token = var.set("submitter")
        try:
            with sidecar.Sidecar(workers=2) as bridge:
                seen = bridge.run_sync(work())
        finally:
            var.reset(token)
        assert {value for value, _ in seen} == {"submitter"}
        assert threading.get_ident() not in {ident for _, ident in seen} and len({i for _, i in seen}) <= 2

    def test_a_pool_thread_may_call_back(self):
        with sidecar.Sidecar(workers=2) as bridge:

            async def outer():
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(None, lambda: bridge.run_sync(give("inner")))

            assert bridge.run_sync(outer()) == "inner"
