"""After os.fork: the child starts afresh, the parent goes on undisturbed."""

from __future__ import annotations

import pytest

PRELUDE = """
    import asyncio, os, socket, sys, threading, time, warnings
    warnings.simplefilter("ignore")
    import sidecar

    async def nap(value=None, seconds=0.001):
        await asyncio.sleep(seconds)
        return value

    def in_child(work):
        pid = os.fork()
        if pid == 0:
            try:
                work()
                sys.stdout.flush()
                sys.stderr.flush()
            except BaseException:
                import traceback
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(9)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert status == 0, status
"""


@pytest.fixture
def script(run_script):
    def run(body, **options):
        import textwrap

        done = run_script(textwrap.dedent(PRELUDE) + textwrap.dedent(body), **options)
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        assert done.stderr == "", done.stderr
        return done.stdout

    return run


def test_a_call_in_the_child_just_works(script):
    assert script("""
        assert sidecar.run_sync(nap("parent")) == "parent"
        loop = sidecar.get_bridge().get_loop()
        def child():
            assert not sidecar.is_running()
            assert sidecar.run_sync(nap("child")) == "child"
            assert sidecar.get_bridge().get_loop() is not loop
            assert loop.is_closed() and not loop.is_running()
        in_child(child)
        assert sidecar.get_bridge().get_loop() is loop
        assert sidecar.run_sync(nap("parent again")) == "parent again"
        print("fine")
    """) == "fine\n"


def test_the_child_sees_none_of_the_parents_tasks(script):
    assert script("""
        ticks = []
        async def tick():
            while True:
                ticks.append(os.getpid())
                await asyncio.sleep(0.001)
        async def spawn():
            return asyncio.create_task(tick())
        task = sidecar.run_sync(spawn())
        def child():
            ticks.clear()
            sidecar.run_sync(nap(seconds=0.05))
            assert ticks == []
            async def tasks():
                return [t.get_name() for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            assert sidecar.run_sync(tasks()) == ["sidecar-root"], sidecar.run_sync(tasks())
        in_child(child)
        count = len(ticks)
        deadline = time.monotonic() + 20
        while len(ticks) < count + 5:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        print("fine")
    """) == "fine\n"


def test_the_childs_finalizers_leave_the_parents_descriptors_watched(script):
    """An inherited epoll is shared: a removal in the child would blind the parent."""
    assert script("""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        got = threading.Event()
        async def watch():
            asyncio.get_running_loop().add_reader(ours, lambda: (ours.recv(10), got.set()))
            return asyncio.get_running_loop()
        loop = sidecar.run_sync(watch())
        def child():
            assert loop._remove_reader(ours) is False
            loop.call_soon(print, "never")
            loop.call_soon_threadsafe(print, "never")
            loop.call_later(0, print, "never").cancel()
            ours.close()
            sidecar.run_sync(nap(seconds=0.02))
        in_child(child)
        theirs.send(b"x")
        assert got.wait(20)
        print("fine")
    """) == "fine\n"


def test_a_first_call_imports_nothing(script):
    """A child that is forked during an import finds that module's lock held for good."""
    assert script("""
        before = {name for name in sys.modules if name.startswith("sidecar")}

        async def ticks():
            yield 1

        def application(environ, start_response):
            start_response("200 OK", [])
            return [b"%d" % sidecar.run_sync(nap(1, 0))]

        sidecar.run_sync(nap(seconds=0))
        sidecar.submit(os.getpid).result()
        sidecar.gather(nap(seconds=0))
        list(sidecar.stream(ticks()))
        list(sidecar.WSGIMiddleware(application)({"REQUEST_METHOD": "GET"}, lambda *args: None))
        print({name for name in sys.modules if name.startswith("sidecar")} - before)
    """) == "set()\n"


def test_a_fork_while_other_threads_call(script):
    assert script("""
        stop = threading.Event()
        def caller():
            while not stop.is_set():
                sidecar.run_sync(nap(seconds=0))
        threads = [threading.Thread(target=caller) for _ in range(4)]
        for thread in threads: thread.start()
        for _ in range(20):
            in_child(lambda: [sidecar.run_sync(nap()) for _ in range(5)])
        stop.set()
        for thread in threads: thread.join()
        print("fine")
    """) == "fine\n"


def test_a_fork_from_a_thread(script):
    assert script("""
        sidecar.run_sync(nap())
        thread = threading.Thread(target=in_child, args=(lambda: sidecar.run_sync(nap()),))
        thread.start()
        thread.join()
        print("fine")
    """) == "fine\n"


def test_a_fork_inside_a_coroutine_is_an_error_in_the_child(script):
    assert script("""
        async def fork():
            await asyncio.sleep(0)
            pid = os.fork()
            if pid:
                await asyncio.sleep(0.001)
                return pid
            await asyncio.sleep(0.001)
            print("never reached")
        try:
            pid = sidecar.run_sync(fork())
        except sidecar.errors.ForkedError:
            assert sidecar.run_sync(nap("new loop")) == "new loop"
            os._exit(7)
        _, status = os.waitpid(pid, 0)
        assert os.WEXITSTATUS(status) == 7, status
        assert sidecar.run_sync(nap("parent")) == "parent"
        print("fine")
    """) == "fine\n"


def test_children_of_children(script):
    assert script("""
        sidecar.run_sync(nap())
        def child():
            assert sidecar.run_sync(nap(1)) == 1
            in_child(lambda: sidecar.run_sync(nap(2)))
            assert sidecar.run_sync(nap(3)) == 3
        in_child(child)
        print("fine")
    """) == "fine\n"


def test_instances_and_their_pools_are_fresh_too(script):
    assert script("""
        bridge = sidecar.Sidecar(name="mine")
        closed = sidecar.Sidecar(name="closed").start()
        closed.shutdown()
        async def work():
            return await asyncio.get_running_loop().run_in_executor(None, os.getpid)
        assert bridge.run_sync(work()) == os.getpid()
        def child():
            assert bridge.run_sync(work()) == os.getpid()
            try:
                closed.run_sync(nap())
            except sidecar.BridgeClosedError:
                pass
            else:
                raise AssertionError("a closed bridge came back to life")
        in_child(child)
        bridge.shutdown()
        print("fine")
    """) == "fine\n"


def test_a_child_that_leaves_by_sys_exit_ends(script):
    assert script("""
        sidecar.run_sync(nap())
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            sidecar.run_sync(nap())
            sys.exit(5)
        _, status = os.waitpid(pid, 0)
        assert os.WEXITSTATUS(status) == 5
        print("fine")
    """) == "fine\n"


def test_multiprocessing_by_fork(script):
    assert script("""
        import multiprocessing
        def work(number):
            return sidecar.run_sync(nap(number))
        sidecar.run_sync(nap())
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(work, range(20)) == list(range(20))
        print("fine")
    """) == "fine\n"


def test_subprocess_is_not_a_fork_of_ours(script):
    assert script("""
        import subprocess
        loop = sidecar.get_bridge().get_loop()
        subprocess.run([sys.executable, "-c", "pass"], check=True, preexec_fn=lambda: None)
        assert sidecar.get_bridge().get_loop() is loop
        async def spawn():
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(6 * 7)", stdout=-1)
            out, _ = await process.communicate()
            return out, process.returncode
        def from_thread(out):
            out.append(sidecar.run_sync(spawn()))
        for _ in range(3):
            out = []
            thread = threading.Thread(target=from_thread, args=(out,))
            thread.start()
            thread.join()
            assert out == [(b"42\\n", 0)], out
        print("fine")
    """) == "fine\n"


def test_a_fork_while_another_thread_has_the_list_of_threads(script):
    # What Thread.start() and threading.enumerate() do for a moment; the pool's thread has a stand-in there.
    assert script("""
        import threading
        async def on_the_pool():
            await asyncio.get_running_loop().run_in_executor(None, threading.current_thread)
        sidecar.run_sync(on_the_pool())
        held = threading.Event()
        def hold():
            with threading._active_limbo_lock:
                held.set()
                time.sleep(0.5)  # into the fork, which waits for it
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        in_child(lambda: None)
        holder.join()
        print("fine")
    """, seconds=20) == "fine\n"
