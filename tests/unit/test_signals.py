"""Ctrl-C and what signal handlers raise: the main thread's alone, never lost, never another's."""

from __future__ import annotations

import pytest

PRELUDE = """
import asyncio, os, signal, sys, threading, time
import sidecar

async def nap(seconds):
    await asyncio.sleep(seconds)

def send_soon(signum=signal.SIGINT, seconds=0.1, count=1):
    def send():
        for _ in range(count):
            time.sleep(seconds)
            os.kill(os.getpid(), signum)
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread
"""


@pytest.fixture
def script(run_script):
    import textwrap

    def run(body, code=0):
        done = run_script(PRELUDE + textwrap.dedent(body), seconds=30)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    return run


def test_ctrl_c_cancels_waits_for_the_cleanup_then_raises(script):
    done = script("""
        async def work():
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)
                print("cleaned up")
                raise
        send_soon()
        try:
            sidecar.run_sync(work())
        except KeyboardInterrupt:
            print("interrupted")
        sidecar.run_sync(nap(0))
    """)
    assert done.stdout == "cleaned up\ninterrupted\n" and done.stderr == ""


def test_ctrl_c_in_a_step_lands_there(script):
    done = script("""
        async def spin():
            try:
                while True:
                    pass
            except KeyboardInterrupt:
                print("landed")
                raise
        send_soon()
        try:
            sidecar.run_sync(spin())
        except KeyboardInterrupt:
            print("interrupted")
    """)
    assert done.stdout == "landed\ninterrupted\n" and done.stderr == ""


def test_ctrl_c_while_another_thread_drives(script):
    done = script("""
        begun = threading.Event()
        async def hold():
            begun.set()
            await asyncio.sleep(1.5)
            return "unharmed"
        answers = []
        other = threading.Thread(target=lambda: answers.append(sidecar.run_sync(hold())))
        other.start()
        begun.wait()
        async def work():
            try:
                await asyncio.sleep(3600)
            finally:
                print("cleaned up")
        send_soon()
        try:
            sidecar.run_sync(work())
        except KeyboardInterrupt:
            print("interrupted")
        other.join()
        print(answers)
    """)
    assert done.stdout == "cleaned up\ninterrupted\n['unharmed']\n" and done.stderr == ""


def test_a_second_ctrl_c_ends_the_wait_for_the_cleanup(script):
    done = script("""
        async def clingy():
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    print("not yet", flush=True)
        send_soon(count=2, seconds=0.2)
        bridge = sidecar.Sidecar(shutdown_timeout=0.2)
        try:
            bridge.run_sync(clingy())
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """)
    assert done.stdout.startswith("not yet\ninterrupted\n")
    assert "orphan: clingy()" in done.stderr


def test_handlers_run_while_the_main_thread_waits(script):
    done = script("""
        seen = []
        signal.signal(signal.SIGUSR1, lambda *_: seen.append(time.monotonic()))
        async def until_seen():
            while not seen:
                await asyncio.sleep(3600 if os.environ.get("never") else 0.01)
        begun = time.monotonic()
        send_soon(signal.SIGUSR1)
        sidecar.run_sync(until_seen(), timeout=20)
        assert seen
        print("ran")
    """)
    assert done.stdout == "ran\n"


@pytest.mark.parametrize("other_drives", [False, True])
def test_a_handler_that_raises_cancels_this_threads_call_only(script, other_drives):
    done = script(f"""
        class TimeLimit(Exception):
            pass
        def limit(*_):
            raise TimeLimit("soft")
        signal.signal(signal.SIGALRM, limit)
        answers = []
        begun = threading.Event()
        async def hold():
            begun.set()
            await asyncio.sleep(1)
            return "unharmed"
        other = threading.Thread(target=lambda: answers.append(sidecar.run_sync(hold())))
        if {other_drives}:
            other.start()
            begun.wait()
        else:
            begun.set()
        sidecar.get_bridge().start()  # a slow start must not meet the signal
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        cleaned = []
        async def work():
            try:
                await asyncio.sleep(3600)
            finally:
                cleaned.append(True)
        try:
            sidecar.run_sync(work())
        except TimeLimit as error:
            print(error, cleaned)
        if {other_drives}:
            other.join()
            print(answers)
        else:
            print(sidecar.run_sync(hold()))
    """)
    tail = "['unharmed']\n" if other_drives else "unharmed\n"
    assert done.stdout == "soft [True]\n" + tail
    assert done.stderr == ""


def test_no_signal_is_lost_between_check_and_sleep(script):
    """Signals as fast as they come, delivered to any thread: each wait must end."""
    done = script("""
        count = 0
        def handler(*_):
            global count
            count += 1
        signal.signal(signal.SIGUSR1, handler)
        stop = threading.Event()
        def storm():
            sent = 0
            while sent < 300:
                before = count
                os.kill(os.getpid(), signal.SIGUSR1)
                sent += 1
                deadline = time.monotonic() + 20
                while count == before:
                    if time.monotonic() > deadline:
                        print("lost", sent, flush=True)
                        os._exit(3)
            stop.set()
        thread = threading.Thread(target=storm)
        thread.start()
        async def wait_for_stop():
            loop = asyncio.get_running_loop()
            while not stop.is_set():
                await asyncio.sleep(0.003)
        sidecar.run_sync(wait_for_stop())
        thread.join()
        print("all", count >= 300)
    """)
    assert done.stdout == "all True\n"


def test_the_wakeup_descriptor_of_others_gets_its_bytes(script):
    done = script("""
        import socket
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno())
        signal.signal(signal.SIGUSR1, lambda *_: None)
        send_soon(signal.SIGUSR1)
        sidecar.run_sync(nap(0.3))
        assert signal.set_wakeup_fd(-1) == theirs.fileno()
        print(ours.recv(10) == bytes([signal.SIGUSR1]))
    """)
    assert done.stdout == "True\n"


def test_add_signal_handler_on_a_plain_loop(script):
    done = script("""
        async def main():
            loop = asyncio.get_running_loop()
            got = asyncio.Event()
            loop.add_signal_handler(signal.SIGUSR1, got.set)
            send_soon(signal.SIGUSR1)
            await asyncio.wait_for(got.wait(), 20)
            loop.remove_signal_handler(signal.SIGUSR1)
            print("got it")
        loop = sidecar.Loop()
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()
    """)
    assert done.stdout == "got it\n" and done.stderr == ""


def test_keyboard_interrupt_leaves_run_forever(script):
    done = script("""
        loop = sidecar.Loop()
        send_soon()
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            print("out")
        loop.close()
    """)
    assert done.stdout == "out\n"


def test_stop_from_a_signal_handler(script):
    done = script("""
        loop = sidecar.Loop()
        signal.signal(signal.SIGUSR1, lambda *_: loop.stop())
        send_soon(signal.SIGUSR1)
        loop.run_forever()
        loop.close()
        print("stopped")
    """)
    assert done.stdout == "stopped\n"


def test_a_thread_that_threading_takes_for_the_main_one(run_script):
    """Before 3.13 that is the thread that imports it first: in a program that embeds Python, any."""
    done = run_script("""
        import _thread, os, sys, time
        assert "threading" not in sys.modules
        answers = []
        def work():
            import asyncio
            import sidecar
            async def nap():
                await asyncio.sleep(0.01)
                return "answered"
            answers.append(sidecar.run_sync(nap()))
        _thread.start_new_thread(work, ())
        deadline = time.monotonic() + 20
        while not answers and time.monotonic() < deadline:
            time.sleep(0.01)
        print(answers, flush=True)
        os._exit(0)  # threading's own end would fail in such a program
    """)
    assert done.stdout == "['answered']\n", done.stderr
