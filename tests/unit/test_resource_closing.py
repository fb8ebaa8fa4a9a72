"""Resources: closed at the end, the last made first; of a bridge that is dropped, of a process."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import textwrap
import threading
import time
import weakref

import pytest
from harness import wait_for

import sidecar
from sidecar import resource


@pytest.fixture
def bridge():
    with sidecar.Sidecar(name="keeper", shutdown_timeout=5) as made:
        yield made


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


class TestDropped:
    """A resource that is kept does not keep its bridge."""

    def is_gone(self, bridge):
        """Nobody else has it; the cyclic collector may have to find that out."""
        gc.collect()
        return bridge() is None

    def test_one_that_runs_is_closed(self):
        log = []
        bridge = sidecar.Sidecar(name="dropped")

        @bridge.resource
        async def kept():
            yield "kept"
            log.append("closed")

        assert kept.get() == "kept"
        gone = weakref.ref(bridge)
        with pytest.warns(ResourceWarning, match="'dropped' .* was dropped without shutdown"):
            del bridge
            gc.collect()
        wait_for(lambda: log == ["closed"], "the object is closed")
        wait_for(lambda: self.is_gone(gone), "the bridge is gone")
        with pytest.raises(sidecar.BridgeClosedError, match=r"resource .*kept lives on a bridge that was dropped"):
            kept.get()

    @pytest.mark.parametrize("used", [True, False], ids=["used", "not-used"])
    def test_one_that_was_closed(self, used):
        with sidecar.Sidecar() as bridge:
            kept = resource(object, bridge=bridge)
            if used:
                kept.get()
        with pytest.raises(sidecar.BridgeClosedError, match="shut down"):
            kept.get()
        gone = weakref.ref(bridge)
        del bridge
        wait_for(lambda: self.is_gone(gone), "the bridge is gone")
        with pytest.raises(sidecar.BridgeClosedError, match="was dropped"):
            kept.get()

    def test_one_that_never_started(self):
        kept = resource(object, bridge=sidecar.Sidecar())
        gc.collect()
        with pytest.raises(sidecar.BridgeClosedError, match="was dropped.*keep the bridge"):
            kept.get()

    def test_in_a_cycle_with_what_uses_it(self):
        """The collector ends it; coroutines that end with it may still use what is there."""
        log, begun = [], threading.Event()

        class Service:
            def __init__(self):
                self.bridge = sidecar.Sidecar()
                self.kept = self.bridge.resource(lambda: "kept")
                self.itself = self

        async def user(kept):
            try:
                begun.set()
                await asyncio.sleep(60)
            finally:
                log.append(await kept)

        service = Service()
        assert service.kept.get() == "kept"
        service.bridge.submit(user, service.kept)
        assert begun.wait(20)
        gone = weakref.ref(service.bridge)
        with pytest.warns(ResourceWarning, match="was dropped without shutdown"):
            del service
            gc.collect()
        wait_for(lambda: self.is_gone(gone), "the bridge is gone")
        assert log == ["kept"]

    def test_awaited_elsewhere(self):
        kept = resource(object, bridge=sidecar.Sidecar())
        gc.collect()

        async def ask():
            return await kept

        with pytest.raises(sidecar.BridgeClosedError, match="was dropped"):
            sidecar.run_sync(ask())

    def test_what_is_no_bridge(self):
        with pytest.raises(TypeError, match=r"resource\(..., bridge=3\): a sidecar.Sidecar is wanted"):
            resource(object, bridge=3)


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
