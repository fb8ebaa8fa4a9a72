"""gevent, with its monkey patches: a bridge's life and end, and a storm of calls."""

from __future__ import annotations

import pytest

pytest.importorskip("gevent", reason="gevent is not installed (it has no wheel for free-threaded CPython)")


def test_shutdown_ends_the_waits(script):
    script(
        """
        with Sidecar() as bridge:
            started = []
            calls = [gevent.spawn(bridge.run_sync, begun(started)) for _ in range(3)]
            wait_for(lambda: len(started) == 3, "calls have begun")
        for call in calls:
            call.join(10)
            assert isinstance(call.exception, asyncio.CancelledError), call.exception
        assert done == ["cleaned"] * 3
        try:
            bridge.run_sync(asyncio.sleep(0))
        except sidecar.errors.BridgeClosedError:
            pass
        else:
            raise SystemExit("a closed bridge runs")
        """,
        logs="failed with CancelledError",
    )


def test_shutdown_with_a_call_that_does_not_end(script):
    script(
        """
        async def stubborn():
            started.append(1)
            while not over:
                try:
                    await asyncio.sleep(0.05)
                except asyncio.CancelledError:
                    pass
        started, over = [], []
        bridge = Sidecar(shutdown_timeout=0.3).start()
        call = gevent.spawn(bridge.run_sync, stubborn())
        wait_for(lambda: started, "the call has begun")
        assert not bridge.shutdown()
        call.join(10)
        assert isinstance(call.exception, sidecar.errors.BridgeClosedError), call.exception
        over.append(1)
        """,
        logs=r"stubborn\(\) at .* did not end in time",
    )


def test_exit_cleans_up(script):
    assert "cleaned at exit" in script(
        """
        async def background():
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.05)
                print("cleaned at exit", flush=True)
        kept = []
        async def start():
            kept.append(asyncio.create_task(background()))
            await asyncio.sleep(0)
        run_sync(start())
        """
    )


def test_fork(script):
    """In the child calls work, and a greenlet that waited is told; in the parent it gets its result."""
    assert "child is fine" in script(
        """
        call = gevent.spawn(run_sync, asyncio.sleep(1, "parent's"))
        gevent.sleep(0.1)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert run_sync(asyncio.sleep(0.01, "child's")) == "child's"
                call.join(5)
                assert isinstance(call.exception, sidecar.errors.ForkedError), call.exception
                print("child is fine", flush=True)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert call.get(timeout=10) == "parent's"
        """,
        logs="failed with ForkedError",
    )


def test_debug_mode(script):
    script(
        """
        with Sidecar() as bridge:
            bridge.get_loop().set_debug(True)
            bridge.get_loop().slow_callback_duration = 30
            async def waits():
                asyncio.get_running_loop().call_soon(done.append, 1)
                await asyncio.sleep(0.01)
            bridge.run_sync(waits())
            assert done == [1]
            seen, tried = [], NativeEvent()
            def off_the_loop():
                try:
                    bridge.get_loop().call_soon(print)
                except RuntimeError as error:
                    seen.append(str(error))
                tried.set()
            async def on_pool():
                # Without a pause, so that the loop has its thread all the while.
                job = asyncio.get_running_loop().run_in_executor(None, off_the_loop)
                tried.wait()
                await job
            bridge.run_sync(on_pool())
            assert "Non-thread-safe" in seen[0], seen
        """
    )


def test_patched_after_the_import(script):
    script(
        """
        begin = time.monotonic()
        gevent.joinall([gevent.spawn(run_sync, asyncio.sleep(0.3)) for _ in range(5)], raise_error=True)
        assert time.monotonic() - begin < 1
        """,
        before="import sidecar\n",
    )


def test_a_dropped_bridge_ends(script):
    script(
        """
        bridge = Sidecar().start()
        bridge.run_sync(asyncio.sleep(0))
        del bridge
        gc.collect()
        wait_for(lambda: native_threads() == 1, "its threads end")
        """,
        logs="dropped without shutdown",
        before="import warnings\nwarnings.simplefilter('always')\n",
    )


def test_without_patches_a_call_blocks_its_thread(script):
    script(
        """
        import asyncio, time
        import gevent
        from sidecar import run_sync
        order = []
        def call(number):
            order.append(("begin", number))
            run_sync(asyncio.sleep(0.05))
            order.append(("end", number))
        gevent.joinall([gevent.spawn(call, number) for number in range(2)], raise_error=True)
        assert order == [("begin", 0), ("end", 0), ("begin", 1), ("end", 1)]
        """,
        patched=False,
    )


@pytest.mark.parametrize("seed", range(3))
def test_storm(script, seed):
    """Greenlets that call, time out and are killed: each call has one outcome, and nothing is left."""
    script(
        f"""
        import random
        from collections import Counter
        logging.getLogger('sidecar').setLevel(logging.ERROR)
        from sidecar import _gevent
        choice = random.Random({seed})
        outcomes, open_calls = Counter(), []

        async def work(seconds, fails):
            open_calls.append(1)
            try:
                for _ in range(3):
                    await asyncio.sleep(seconds / 3)
                if fails:
                    raise KeyError(seconds)
                return seconds
            finally:
                try:
                    await asyncio.sleep(0)
                finally:
                    open_calls.pop()

        def call(seconds, fails, limit, patience):
            try:
                with gevent.Timeout(patience):
                    assert run_sync(work(seconds, fails), timeout=limit) == seconds
                outcomes["result"] += 1
            except KeyError:
                outcomes["error"] += 1
            except sidecar.errors.CallTimeoutError:
                outcomes["time-out"] += 1
            except gevent.Timeout:
                outcomes["gevent.Timeout"] += 1
            except gevent.GreenletExit:
                outcomes["killed"] += 1

        def some():
            return choice.choice([None, choice.random() / 20])

        calls = []
        for _ in range(400):
            arguments = choice.random() / 20, choice.random() < 0.2, some(), some()
            if choice.random() < 0.1:
                gevent.get_hub().threadpool.spawn(call, *arguments[:3], None).get()
                outcomes["of a thread"] += 1
            calls.append(gevent.spawn(call, *arguments))
            if choice.random() < 0.3:
                gevent.sleep(choice.random() / 100)
            if choice.random() < 0.3:
                choice.choice(calls).kill(block=False)
        gevent.joinall(calls, timeout=40)
        assert all(one.ready() for one in calls)
        unstarted = sum(isinstance(one.value, gevent.GreenletExit) for one in calls)
        of_threads = outcomes.pop("of a thread")
        assert sum(outcomes.values()) + unstarted == 400 + of_threads, (outcomes, unstarted)
        assert len(outcomes) == 5, outcomes
        wait_for(lambda: not open_calls, "those left behind, killed twice over, end")
        assert len(_gevent._waits) == 0
        assert run_sync(asyncio.sleep(0.01, "alive")) == "alive"
        assert sidecar.shutdown()
        """
    )
