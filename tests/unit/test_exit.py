"""Exit never hangs, and says what it leaves behind."""

from __future__ import annotations

import time

import pytest

PRELUDE = """
import asyncio, os, sys, threading, time
import sidecar

async def nap(value=None, seconds=0.001):
    await asyncio.sleep(seconds)
    return value
"""


@pytest.fixture
def script(run_script):
    import textwrap

    def run(body, seconds=20.0, code=0):
        before = time.monotonic()
        done = run_script(PRELUDE + textwrap.dedent(body), seconds=seconds)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done, time.monotonic() - before

    return run


def test_at_once_where_nothing_runs(script):
    done, _ = script("assert sidecar.run_sync(nap(1)) == 1")
    assert done.stderr == ""


def test_without_a_call_nothing_is_started(script):
    done, _ = script("assert not sidecar.is_running() and threading.active_count() == 1")
    assert done.stderr == ""


def test_background_tasks_are_cancelled_and_cleaned_up(script):
    done, _ = script("""
        async def work():
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(0.01)
                print("cleaned up")
        async def spawn():
            global task
            task = asyncio.create_task(work())
            await asyncio.sleep(0)
        sidecar.run_sync(spawn())
    """)
    assert done.stdout == "cleaned up\n" and done.stderr == ""


@pytest.mark.parametrize("bridge", ["sidecar", "sidecar.Sidecar(name='own')"])
def test_threads_that_a_library_keeps_for_the_loop(script, bridge):
    """anyio's: the interpreter waits for them before it ends anything."""
    done, _ = script(f"""
        import anyio.to_thread
        bridge = {bridge}
        assert bridge.run_sync(anyio.to_thread.run_sync(int)) == 0
    """)
    assert done.stderr == ""


def test_threads_that_a_library_keeps_for_a_loop_that_starts_late(script):
    done, _ = script("""
        import anyio.to_thread
        def late():
            threading.main_thread().join()
            for bridge in (sidecar, sidecar.Sidecar(name="late")):
                assert bridge.run_sync(anyio.to_thread.run_sync(int)) == 0
            print("done")
        assert sidecar.run_sync(anyio.to_thread.run_sync(int)) == 0
        threading.Thread(target=late).start()
    """)
    assert done.stdout == "done\n" and done.stderr == ""


def test_not_daemon_waits_for_background_tasks(script):
    done, _ = script("""
        async def work():
            await asyncio.sleep(0.2)
            print("finished")
        async def spawn():
            global task
            task = asyncio.create_task(work())
        bridge = sidecar.Sidecar(daemon=False)
        bridge.run_sync(spawn())
    """)
    assert done.stdout == "finished\n" and done.stderr == ""


def test_a_task_that_refuses_is_named_and_left(script):
    done, seconds = script("""
        async def stubborn():
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    pass
        async def spawn():
            global task
            task = asyncio.create_task(stubborn())
            await asyncio.sleep(0)
        bridge = sidecar.Sidecar(shutdown_timeout=0.3)
        bridge.run_sync(spawn())
    """)
    assert "stubborn()" in done.stderr and "did not end in time" in done.stderr
    assert seconds < 15


def test_a_daemon_thread_in_a_call_is_cancelled(script):
    done, _ = script("""
        ended = threading.Event()
        begun = threading.Event()
        async def wait():
            begun.set()
            try:
                await asyncio.sleep(3600)
            finally:
                print("cancelled")
        def call():
            try:
                sidecar.run_sync(wait())
            except asyncio.CancelledError:
                pass  # printing here could meet the interpreter's end
        threading.Thread(target=call, daemon=True).start()
        begun.wait()
    """)
    assert "cancelled" in done.stdout


def test_a_thread_that_blocks_the_loop_does_not_hold_the_exit(script):
    done, seconds = script("""
        begun = threading.Event()
        async def block():
            begun.set()
            time.sleep(3600)
        bridge = sidecar.Sidecar(name="blocked", shutdown_timeout=0.3)
        threading.Thread(target=lambda: bridge.run_sync(block()), daemon=True).start()
        begun.wait()
    """)
    assert "does not turn any more" in done.stderr and "blocked" in done.stderr
    assert seconds < 15


def test_other_threads_are_served_until_the_end(script):
    done, _ = script("""
        def late():
            threading.main_thread().join()  # it has come to its end
            print(sidecar.run_sync(nap("served")))
        threading.Thread(target=late).start()
    """)
    assert done.stdout == "served\n" and done.stderr == ""


def test_a_call_during_exit_is_a_clear_error(script):
    done, _ = script("""
        import atexit
        def late():
            try:
                sidecar.run_sync(nap())
            except sidecar.BridgeClosedError as error:
                print(error)
        sidecar.run_sync(nap())
        # Handlers run last in, first out: this one after sidecar's.
        atexit._run_exitfuncs, late
        import sidecar._bridge as bridge
        atexit.unregister(bridge._shutdown_all)
        atexit.register(late)
        atexit.register(bridge._shutdown_all)
    """)
    assert "the interpreter is exiting" in done.stdout


def test_executor_jobs_do_not_hold_the_exit(script):
    done, seconds = script("""
        begun = threading.Event()
        def job():
            begun.set()
            time.sleep(3600)
        async def spawn():
            asyncio.get_running_loop().run_in_executor(None, job)
        bridge = sidecar.Sidecar(shutdown_timeout=0.3)
        bridge.run_sync(spawn())
        begun.wait()
    """)
    assert seconds < 15


def test_sys_exit_inside_a_coroutine(script):
    script(
        """
        async def leave():
            await asyncio.sleep(0)
            sys.exit(4)
        sidecar.run_sync(leave())
    """,
        code=4,
    )


def test_an_abandoned_client_object_does_not_spoil_the_exit(script):
    done, _ = script("""
        import socket
        server = socket.create_server(("127.0.0.1", 0))
        loop = sidecar.get_bridge().get_loop()
        kept = sidecar.run_sync(loop.create_connection(asyncio.Protocol, *server.getsockname()))
        kept[0].write(b"x" * (1 << 22))  # more than the kernel takes: a writer stays registered
    """)
    assert "Traceback" not in done.stderr, done.stderr
