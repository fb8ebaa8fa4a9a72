"""Hooks at a bridge's start and stop, and the order in which a bridge ends."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import logging
import threading
import time

import pytest
from harness import wait_for

import sidecar

PRELUDE = """
import asyncio, os, signal, sys, threading, time
import sidecar

async def nap(value=None, seconds=0.001):
    await asyncio.sleep(seconds)
    return value

def say(*words):
    print(*words, flush=True)
"""

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="empty")


async def give(value):
    await asyncio.sleep(0)
    return value


@pytest.fixture
def bridge():
    made = sidecar.Sidecar(name="hooked", shutdown_timeout=5)
    yield made
    made.shutdown()


@pytest.fixture
def script(run_script):
    import textwrap

    def run(body, **options):
        done = run_script(PRELUDE + textwrap.dedent(body), **options)
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        assert done.stderr == "", done.stderr
        return done.stdout.splitlines()

    return run


class TestStart:
    def test_before_the_first_call_in_order(self, bridge):
        seen = []

        @sidecar.on_worker_start(bridge=bridge)
        async def on_the_loop():
            await asyncio.sleep(0.01)
            seen.append(asyncio.get_running_loop())

        @sidecar.on_worker_start(bridge=bridge)
        def on_this_thread():
            seen.append(threading.get_ident())

        async def call():
            seen.append("call")

        bridge.run_sync(call())
        bridge.run_sync(call())
        assert seen == [bridge.get_loop(), threading.get_ident(), "call", "call"]

    def test_by_start(self, bridge):
        seen = []
        sidecar.on_worker_start(lambda: seen.append(1), bridge=bridge)
        bridge.start()
        bridge.start()
        assert seen == [1]

    def test_it_may_call(self, bridge):
        seen = []
        sidecar.on_worker_start(lambda: seen.append(bridge.run_sync(give(2))), bridge=bridge)
        assert bridge.run_sync(give(1)) == 1
        assert seen == [2]

    def test_at_once_where_it_runs(self, bridge):
        seen = []
        bridge.start()

        @sidecar.on_worker_start(bridge=bridge)
        def plain():
            seen.append("plain")

        @sidecar.on_worker_start(bridge=bridge)
        async def coroutine():
            seen.append(asyncio.get_running_loop())

        assert seen == ["plain", bridge.get_loop()]

    def test_registered_by_a_coroutine_of_the_bridge(self, bridge, caplog):
        seen = []

        async def hook():
            seen.append(await give("hook"))

        async def failing():
            await asyncio.sleep(0)
            raise LookupError("in a task")

        async def register():
            sidecar.on_worker_start(hook, bridge=bridge)
            sidecar.on_worker_start(failing, bridge=bridge)
            assert seen == []
            while not (seen and caplog.records):
                await asyncio.sleep(0.001)

        bridge.run_sync(register(), timeout=20)
        assert seen == ["hook"]
        assert "failing() at" in caplog.text and "LookupError: in a task" in caplog.text

    def test_once_however_many_start_and_register(self):
        for _ in range(20):
            seen, barrier = [], threading.Barrier(4)
            with sidecar.Sidecar() as warm:  # the threads' own warm-up is not part of the race
                warm.run_sync(give(1))
            bridge = sidecar.Sidecar()

            def start(bridge=bridge, barrier=barrier):
                barrier.wait(20)
                bridge.run_sync(give(1))

            def register(bridge=bridge, barrier=barrier, seen=seen):
                barrier.wait(20)
                sidecar.on_worker_start(lambda: seen.append(1), bridge=bridge)

            with concurrent.futures.ThreadPoolExecutor(4) as executor:
                for job in [executor.submit(work) for work in (start, register, start, register)]:
                    job.result(20)
            bridge.shutdown()
            assert seen == [1, 1]

    def test_an_empty_context(self, bridge):
        seen = []

        async def coroutine():
            seen.append(var.get())

        sidecar.on_worker_start(lambda: seen.append(var.get()), bridge=bridge)
        sidecar.on_worker_start(coroutine, bridge=bridge)
        token = var.set("the request that came first")
        try:
            bridge.run_sync(give(1))
            sidecar.on_worker_start(lambda: seen.append(var.get()), bridge=bridge)
        finally:
            var.reset(token)
        assert seen == ["empty"] * 3

    def test_one_that_fails_is_logged_and_the_bridge_starts(self, bridge, caplog):
        seen = []

        @sidecar.on_worker_start(bridge=bridge)
        def broken():
            raise LookupError("plain")

        @sidecar.on_worker_start(bridge=bridge)
        async def broken_too():
            raise LookupError("on the loop")

        sidecar.on_worker_start(lambda: seen.append(1), bridge=bridge)
        assert bridge.run_sync(give(1)) == 1
        assert seen == [1]
        assert "broken() at" in caplog.text and "broken_too() at" in caplog.text
        assert "LookupError: plain" in caplog.text and "LookupError: on the loop" in caplog.text

    def test_no_limit_of_calls_applies(self):
        seen = []

        async def slow():
            await asyncio.sleep(0.2)
            seen.append("through")

        with sidecar.Sidecar(timeout=0.05) as bridge:
            sidecar.on_worker_start(slow, bridge=bridge)
        assert seen == ["through"]

    def test_returns_the_function(self, bridge):
        def hook():
            pass

        assert sidecar.on_worker_start(hook, bridge=bridge) is hook
        assert sidecar.on_worker_stop(bridge=bridge)(hook) is hook

    def test_methods_of_the_bridge(self, bridge):
        seen = []

        @bridge.on_worker_start
        def begin():
            seen.append("start")

        @bridge.on_worker_start()
        async def begin_too():
            seen.append(asyncio.get_running_loop())

        @bridge.on_worker_stop
        async def end():
            seen.append("stop")

        @bridge.on_worker_stop()
        def end_too():
            seen.append("stop first")

        assert all(callable(hook) for hook in (begin, begin_too, end, end_too))
        with sidecar.Sidecar():
            assert seen == []
        loop = bridge.get_loop()
        assert bridge.shutdown()
        assert seen == ["start", loop, "stop first", "stop"]

    @pytest.mark.parametrize("register", ["on_worker_start", "on_worker_stop"])
    def test_no_function(self, bridge, register):
        for function in (getattr(sidecar, register), getattr(bridge, register)):
            with pytest.raises(TypeError, match=rf"{register}\(\) takes a function, not 3"):
                function(3)


class TestStop:
    def test_the_last_first_while_calls_are_served(self, bridge):
        seen = []

        @sidecar.on_worker_stop(bridge=bridge)
        def first():
            seen.append(bridge.run_sync(give("first")))

        @sidecar.on_worker_stop(bridge=bridge)
        async def second():
            await asyncio.sleep(0)
            seen.append(asyncio.get_running_loop() is loop)

        loop = bridge.get_loop()
        assert bridge.shutdown()
        assert bridge.shutdown()
        assert seen == [True, "first"]

    def test_none_where_it_never_started(self, bridge):
        seen = []
        sidecar.on_worker_stop(lambda: seen.append(1), bridge=bridge)
        assert bridge.shutdown()
        assert seen == []

    def test_an_empty_context(self, bridge):
        seen = []

        async def coroutine():
            seen.append(var.get())

        sidecar.on_worker_stop(lambda: seen.append(var.get()), bridge=bridge)
        sidecar.on_worker_stop(coroutine, bridge=bridge)
        bridge.start()
        token = var.set("the last request")
        try:
            assert bridge.shutdown()
        finally:
            var.reset(token)
        assert seen == ["empty"] * 2

    def test_one_that_fails_is_logged_and_the_rest_run(self, bridge, caplog):
        seen = []
        sidecar.on_worker_stop(lambda: seen.append(1), bridge=bridge)

        @sidecar.on_worker_stop(bridge=bridge)
        def broken():
            raise LookupError("plain")

        @sidecar.on_worker_stop(bridge=bridge)
        async def broken_too():
            raise LookupError("on the loop")

        bridge.start()
        assert bridge.shutdown()
        assert seen == [1]
        assert "broken() at" in caplog.text and "broken_too() at" in caplog.text
        assert "LookupError: plain" in caplog.text and "LookupError: on the loop" in caplog.text

    @pytest.mark.parametrize("kind", ["blocks", "waits", "refuses"])
    def test_one_that_hangs_is_named_and_the_rest_run(self, bridge, caplog, kind):
        caplog.set_level(logging.WARNING, "sidecar")
        seen, release = [], threading.Event()

        def blocks():
            release.wait(60)

        async def waits():
            try:
                await asyncio.sleep(60)
            finally:
                seen.append("cancelled")

        async def refuses():
            while not release.is_set():
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    pass

        sidecar.on_worker_stop(lambda: seen.append("the other"), bridge=bridge)
        sidecar.on_worker_stop({"blocks": blocks, "waits": waits, "refuses": refuses}[kind], bridge=bridge)
        bridge.start()
        before = time.monotonic()
        try:
            assert not bridge.shutdown(timeout=0.6)
            assert time.monotonic() - before < 5
        finally:
            release.set()
        assert seen == (["cancelled", "the other"] if kind == "waits" else ["the other"])
        assert f"{kind}() at" in caplog.text and "did not end in time" in caplog.text and "'hooked'" in caplog.text

    def test_by_two_threads_once(self, bridge):
        entered, release, seen = threading.Event(), threading.Event(), []

        @sidecar.on_worker_stop(bridge=bridge)
        def hook():
            seen.append(1)
            entered.set()
            assert release.wait(20)

        bridge.start()
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            first = executor.submit(bridge.shutdown, 20)
            assert entered.wait(20)
            assert bridge.shutdown()  # the first is about to
            assert bridge.is_running() and not first.done()
            release.set()
            assert first.result(20)
        assert seen == [1] and not bridge.is_running()

    def test_not_before_a_start_hook_is_through(self, bridge):
        entered, release, seen = threading.Event(), threading.Event(), []

        @sidecar.on_worker_start(bridge=bridge)
        def begin():
            entered.set()
            assert release.wait(20)
            seen.append("start")

        sidecar.on_worker_start(lambda: seen.append("never begun"), bridge=bridge)
        sidecar.on_worker_stop(lambda: seen.append("stop"), bridge=bridge)
        with concurrent.futures.ThreadPoolExecutor(2) as executor:
            start = executor.submit(bridge.start)
            assert entered.wait(20)
            end = executor.submit(bridge.shutdown, 20)
            wait_for(lambda: bridge.get_loop()._lifespan._stopping, "the shutdown has begun")
            release.set()
            assert end.result(20)
            assert start.result(20) is bridge
        assert seen == ["start", "stop"]

    def test_inside_a_start_hook(self, bridge):
        seen = []
        sidecar.on_worker_start(lambda: seen.append(bridge.shutdown()), bridge=bridge)
        sidecar.on_worker_stop(lambda: seen.append("stop"), bridge=bridge)
        before = time.monotonic()
        with pytest.raises(sidecar.BridgeClosedError):
            bridge.run_sync(give(1))
        assert seen == ["stop", True] and time.monotonic() - before < 2

    def test_a_shutdown_inside_a_hook_does_nothing(self, bridge):
        seen = []
        sidecar.on_worker_stop(lambda: seen.append(bridge.shutdown()), bridge=bridge)
        bridge.start()
        assert bridge.shutdown()
        assert seen == [True]

    def test_interrupted_it_ends_all_the_same(self, script):
        assert script("""
            bridge = sidecar.Sidecar(name="mine").start()
            release = threading.Event()
            @sidecar.on_worker_stop(bridge=bridge)
            def hook():
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                release.wait(60)
            try:
                bridge.shutdown(timeout=30)
            except KeyboardInterrupt:
                say("interrupted")
            release.set()
            say(bridge)
        """) == ["interrupted", "<sidecar.Sidecar 'mine' closed>"]


class TestOrder:
    def test_of_the_end(self, bridge):
        """Stop hooks; calls and tasks; resources and what was entered, as they were made; async generators."""
        seen = []

        class Entered:
            async def __aenter__(self):
                return self

            async def __aexit__(self, *_):
                seen.append(f"entered, with {await kept}")

        @sidecar.resource(bridge=bridge)
        async def kept():
            yield "resource"
            await asyncio.sleep(0.01)
            seen.append("resource")

        async def task():
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)
                seen.append(f"task, with {await kept}")

        async def items():
            try:
                yield 1
                yield 2
            finally:
                seen.append("generator")

        async def begin():
            generator = items()
            await generator.__anext__()
            running = asyncio.create_task(task())
            await asyncio.sleep(0)
            return generator, running

        sidecar.on_worker_stop(lambda: seen.append(f"hook, with {kept.get()}"), bridge=bridge)
        assert kept.get() == "resource"
        bridge.enter_context(Entered())
        held = bridge.run_sync(begin())
        assert bridge.shutdown()
        assert seen == ["hook, with resource", "task, with resource", "entered, with resource", "resource", "generator"]
        del held


class TestDefaultBridge:
    HOOKS = """
        @sidecar.on_worker_start
        def begin():
            say("start", sidecar.run_sync(nap("call")))
        @sidecar.on_worker_start
        async def begin_too():
            say("start on the loop")
        @sidecar.on_worker_stop
        async def end_too():
            say("stop on the loop")
        @sidecar.on_worker_stop
        def end():
            say("stop", sidecar.run_sync(nap("call")))
    """
    STARTED = ["start call", "start on the loop"]
    STOPPED = ["stop call", "stop on the loop"]

    def test_at_exit(self, script):
        assert script(self.HOOKS + """
        sidecar.run_sync(nap())
        """) == self.STARTED + self.STOPPED

    def test_none_without_a_bridge(self, script):
        assert script(self.HOOKS) == []

    def test_again_with_the_next_one(self, script):
        assert script(self.HOOKS + """
        for _ in range(2):
            sidecar.run_sync(nap())
            bridge = sidecar.get_bridge()
            assert sidecar.shutdown()
            assert not sidecar.is_running() and not bridge.is_running()
        """) == 2 * (self.STARTED + self.STOPPED)

    def test_not_of_other_bridges(self, script):
        assert script(self.HOOKS + """
        with sidecar.Sidecar() as bridge:
            bridge.run_sync(nap())
        """) == []

    def test_its_own_hooks_too_in_the_order_registered(self, script):
        assert script("""
            for number in range(4):
                mine = sidecar.get_bridge() if number % 2 else None
                sidecar.on_worker_start(lambda number=number: say("start", number), bridge=mine)
                sidecar.on_worker_stop(lambda number=number: say("stop", number), bridge=mine)
            sidecar.run_sync(nap())
        """) == [f"start {n}" for n in range(4)] + [f"stop {n}" for n in reversed(range(4))]

    def test_other_bridges_stop_first_at_exit(self, script):
        assert script("""
            bridge = sidecar.Sidecar().start()
            sidecar.on_worker_stop(lambda: say("other, with", sidecar.run_sync(nap("the default"))), bridge=bridge)
            sidecar.on_worker_stop(lambda: say("default"))
            sidecar.run_sync(nap())
        """) == ["other, with the default", "default"]

    def test_in_the_child_of_a_fork_again(self, script):
        assert script(self.HOOKS + """
        import warnings
        warnings.simplefilter("ignore")
        def in_child(work):
            pid = os.fork()
            if pid == 0:
                work()
                sys.exit()
            assert os.waitpid(pid, 0)[1] == 0
        sidecar.run_sync(nap())
        say("idle child")
        in_child(lambda: None)
        say("child")
        in_child(lambda: sidecar.run_sync(nap()))
        say("parent")
        """) == [
            *self.STARTED,
            "idle child",
            *("child", *self.STARTED, *self.STOPPED),
            *("parent", *self.STOPPED),
        ]

    def test_a_hook_that_hangs_does_not_hold_the_exit(self, run_script):
        done = run_script(
            PRELUDE + "sidecar.get_bridge()._shutdown_timeout = 0.4\n"
            "sidecar.on_worker_stop(lambda: time.sleep(3600))\n"
            "sidecar.run_sync(nap())\n",
            seconds=20,
        )
        assert done.returncode == 0 and "on_worker_stop: <lambda>() at" in done.stderr

    def test_a_start_that_ctrl_c_interrupts(self, script):
        assert script("""
            sidecar.on_worker_start(lambda: signal.raise_signal(signal.SIGINT))
            try:
                sidecar.run_sync(nap())
            except KeyboardInterrupt:
                say("interrupted", sidecar.is_running(), sidecar.run_sync(nap("served")))
        """) == ["interrupted True served"]
