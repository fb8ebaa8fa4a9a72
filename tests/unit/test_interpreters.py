"""Sub-interpreters: the module in one with a GIL of its own, several at once, and one that nobody ends."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

if sys.version_info >= (3, 13):
    RUN = """
        import _interpreters

        def make(isolated):
            return _interpreters.create("isolated" if isolated else "legacy")

        def run(interpreter, code):
            failure = _interpreters.exec(interpreter, code)
            if failure is not None:
                raise RuntimeError(failure.errdisplay)

        destroy = _interpreters.destroy
        """
else:
    RUN = """
        import _xxsubinterpreters

        def make(isolated):
            return _xxsubinterpreters.create(isolated=isolated)

        run, destroy = _xxsubinterpreters.run_string, _xxsubinterpreters.destroy
        """

WORK = """
    import asyncio, threading
    from concurrent.futures import ThreadPoolExecutor

    import sidecar

    async def double(number):
        await asyncio.sleep(0.0001)
        return 2 * number

    async def on_the_pool():
        return await asyncio.to_thread(threading.get_ident) if hasattr(asyncio, "to_thread") else 0

    assert sidecar.run_sync(double(4)) == 8
    assert sidecar.run_sync(on_the_pool()) != threading.get_ident()
    with ThreadPoolExecutor(4) as executor:
        answers = list(executor.map(lambda number: sidecar.run_sync(double(number)), range(200)))
    assert answers == [2 * number for number in range(200)]
    """


def run_script(script: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """In a process of its own: what goes wrong here takes the interpreter with it."""
    code = textwrap.dedent(RUN) + f"WORK = {textwrap.dedent(WORK)!r}\n" + textwrap.dedent(script)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=seconds)


def require_isolated() -> None:
    if sys.version_info < (3, 12):
        pytest.skip("interpreters with a GIL of their own are 3.12's")
    bare = run_script("one = make(True); run(one, 'import asyncio, ssl'); destroy(one)")
    if bare.returncode != 0:
        pytest.skip("this CPython crashes where an isolated interpreter has imported asyncio and ssl")


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")
    assert done.stderr == ""


def test_with_a_gil_of_its_own():
    require_isolated()
    check(run_script("one = make(True); run(one, WORK); destroy(one); print('done')"))


def test_several_at_once_beside_the_main_one():
    require_isolated()
    check(
        run_script("""
            import threading

            exec(WORK)
            all_of_them = [make(True) for _ in range(3)]
            threads = [threading.Thread(target=run, args=(each, WORK)) for each in all_of_them]
            for thread in threads:
                thread.start()
            exec(WORK)
            for thread in threads:
                thread.join()
            for each in all_of_them:
                destroy(each)
            exec(WORK)
            print("done")
            """)
    )


def test_that_shares_the_gil():
    check(run_script("one = make(False); run(one, WORK + 'sidecar.shutdown()'); destroy(one); print('done')"))


def test_that_nobody_ends_does_not_hang_the_exit():
    # How it ends is CPython's affair: 3.12 and 3.13 abort where such an interpreter has threads, 3.14 warns.
    ended = run_script("one = make(False); run(one, WORK); print('done', flush=True)", seconds=15)
    assert ended.stdout == "done\n"


@pytest.mark.skipif("t" not in getattr(sys, "abiflags", ""), reason="only free-threaded builds can do without it")
def test_the_gil_stays_off() -> None:
    """A module that did not say it can do without has the interpreter switch the GIL on, and warn."""
    code = "import sys, sidecar, sidecar.gunicorn; print(sys._is_gil_enabled())"
    done = subprocess.run([sys.executable, "-X", "gil=0", "-c", code], capture_output=True, text=True, timeout=60)
    unforced = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("False\n", "")
    assert (unforced.stdout, unforced.stderr) == ("False\n", "")
