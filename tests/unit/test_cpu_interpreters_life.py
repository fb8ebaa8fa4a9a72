"""The engine of sub-interpreters in a process of its own: its forks, its exit, and its script's ``__main__``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from unit import cpu_interpreter_work as work

if sys.version_info < (3, 12):
    pytest.skip("interpreters with a GIL of their own are 3.12's", allow_module_level=True)
if work.is_broken():
    pytest.skip("this CPython crashes where an isolated interpreter has imported asyncio", allow_module_level=True)

TESTS = Path(__file__).resolve().parents[1]

# What forks with threads is warned of; here that is what is tested.
START = """
    from __future__ import annotations
    import contextvars, os, sys, threading, time, warnings

    warnings.simplefilter("ignore", DeprecationWarning)

    def double(number):
        return 2 * number

    class Thing:
        def __init__(self, number):
            self.number = number

    def bigger(thing):
        return Thing(thing.number + 1)

    def main():
        from unit import cpu_interpreter_work as work
        from sidecar.cpu.engine import Call
        from sidecar.cpu.interpreters import ForkRefusedError, InterpreterEngine

        def submit(fn, *args):
            return engine.submit(Call(fn, args, {}, None, contextvars.Context()))

        def run(fn, *args):
            return submit(fn, *args).result(30)

        def in_child():
            good = run(work.same, 5) == 5 and engine.stats()["orphans"] == 0
            return 0 if good and engine.shutdown(10) == [] else 1

        def fork():
            pid = os.fork()
            if pid == 0:
                code = 9
                try:
                    code = in_child()
                finally:
                    os._exit(code)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        def begun():
            until = time.monotonic() + 30
            while not engine.stats()["running"]:
                assert time.monotonic() < until
                time.sleep(0.001)

        InterpreterEngine.fork_seconds = FORK_SECONDS
        engine = InterpreterEngine(2, 100, "life")
        engine.at_exit = lambda: engine.shutdown(0.3)
        assert [future.result(30) for future in [submit(work.same, at) for at in range(10)]] == list(range(10))
    """
END = """
    if __name__ == "__main__":
        main()
    """


def run_script(
    tmp_path: Path, body: str, fork_seconds: float = 20, code: int = 0, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    start = textwrap.dedent(START).replace("FORK_SECONDS", str(fork_seconds))
    script.write_text(start + textwrap.indent(textwrap.dedent(body), "    ") + textwrap.dedent(END))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(TESTS)]), "GO": str(tmp_path / "go")}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=seconds, env=environment
    )
    assert done.returncode == code, done.stderr
    return done


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.stdout, done.stderr) == ("done\n", "")


# -- forks --------------------------------------------------------------------------


def test_fork_with_warm_interpreters(tmp_path: Path) -> None:
    check(
        run_script(
            tmp_path,
            """
            for at in range(4):
                assert fork() == 0
                assert run(work.same, at) == at
            print("done")
            """,
        )
    )


def test_fork_waits_for_what_runs(tmp_path: Path) -> None:
    check(
        run_script(
            tmp_path,
            """
            first = submit(work.sleep, 0.3)
            begun()
            queued = [submit(work.same, at) for at in range(5)]
            assert fork() == 0
            assert first.done()
            assert [future.result(30) for future in queued] == list(range(5))
            print("done")
            """,
        )
    )


def test_fork_is_refused_where_that_takes_too_long(tmp_path: Path) -> None:
    check(
        run_script(
            tmp_path,
            """
            first = submit(work.wait_for_file, os.environ["GO"])
            begun()
            queued = [submit(work.same, at) for at in range(5)]
            try:
                fork()
            except ForkRefusedError as error:
                assert "wait_for_file" in str(error) and "0.1 seconds" in str(error), error
            else:
                raise AssertionError("it was not refused")
            assert [future.result(30) for future in queued] == list(range(5))
            open(os.environ["GO"], "w").close()
            first.result(30)
            engine.shutdown(0)
            print("done")
            """,
            fork_seconds=0.1,
        )
    )


@pytest.mark.parametrize("way", ["forkpty", "multiprocessing", "preexec"])
def test_other_ways_to_fork(tmp_path: Path, way: str) -> None:
    check(
        run_script(
            tmp_path,
            {
                "forkpty": """
                    pid, end = os.forkpty()
                    if pid == 0:
                        os._exit(in_child())
                    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
                    os.close(end)
                    print("done")
                    """,
                "multiprocessing": """
                    import multiprocessing
                    child = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(in_child()))
                    child.start()
                    child.join()
                    assert child.exitcode == 0
                    print("done")
                    """,
                "preexec": """
                    import subprocess
                    assert subprocess.run(["true"], preexec_fn=lambda: None).returncode == 0
                    first = submit(work.wait_for_file, os.environ["GO"])
                    begun()
                    try:
                        subprocess.run(["true"], preexec_fn=lambda: None)
                    except ForkRefusedError:
                        print("done")
                    assert subprocess.run(["true"]).returncode == 0
                    open(os.environ["GO"], "w").close()
                    first.result(30)
                    """,
            }[way],
            fork_seconds=0.5 if way == "preexec" else 20,
        )
    )


def test_a_fork_that_somebody_else_refuses(tmp_path: Path) -> None:
    """Its interpreters rest for a moment, and go on by themselves."""
    check(
        run_script(
            tmp_path,
            """
            refusing = True

            def refuse(event, args):
                if event == "os.fork" and refusing:
                    raise OSError("not now")

            sys.addaudithook(refuse)
            futures = [submit(work.sleep, 0.05) for _ in range(8)]
            try:
                fork()
            except OSError as error:
                assert str(error) == "not now"
            assert [future.result(30) for future in futures] == [0.05] * 8
            refusing = False
            assert fork() == 0
            print("done")
            """,
        )
    )


def test_forks_while_threads_make_calls(tmp_path: Path) -> None:
    check(
        run_script(
            tmp_path,
            """
            over, wrong = threading.Event(), []

            def hammer(seed):
                at = seed
                while not over.is_set():
                    at += 1
                    if run(work.same, at) != at:
                        wrong.append(at)

            threads = [threading.Thread(target=hammer, args=(seed,)) for seed in (0, 10**6, 10**7)]
            for thread in threads:
                thread.start()
            for _ in range(5):
                assert fork() == 0
            over.set()
            for thread in threads:
                thread.join()
            assert not wrong
            print("done")
            """,
        )
    )


def test_no_fork_in_a_callback_on_an_interpreters_thread(tmp_path: Path) -> None:
    check(
        run_script(
            tmp_path,
            """
            told, over = [], threading.Event()

            def fork_here(future):
                try:
                    fork()
                except ForkRefusedError as error:
                    told.append(str(error))
                over.set()

            future = submit(work.wait_for_file, os.environ["GO"])
            future.add_done_callback(fork_here)
            open(os.environ["GO"], "w").close()
            assert over.wait(30) and "callback" in told[0], told
            print("done")
            """,
        )
    )


# -- exit ---------------------------------------------------------------------------


@pytest.mark.parametrize("busy", ["", "submit(work.sleep, 0.05)", "[submit(work.sleep, 0.02) for _ in range(50)]"])
def test_exit_with_idle_and_busy_ones(tmp_path: Path, busy: str) -> None:
    done = run_script(tmp_path, f"{busy}\nprint('done')\nsys.exit(3)", code=3)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_exit_interrupts_python_that_does_not_end(tmp_path: Path) -> None:
    done = run_script(tmp_path, "submit(work.fib, 200)\nbegun()\nprint('done')\nsys.exit(3)", code=3)
    assert done.stdout == "done\n" and "SystemExit" in done.stderr


def test_exit_with_one_that_sleeps(tmp_path: Path) -> None:
    if sys.version_info < (3, 13):
        pytest.skip("CPython before 3.13 aborts where a sub-interpreter is left at exit, so the exit waits")
    done = run_script(tmp_path, "submit(work.sleep, 3600)\nbegun()\nprint('done')\nsys.exit(3)", code=3)
    assert done.stdout == "done\n"


def test_exit_waits_before_3_13(tmp_path: Path) -> None:
    if sys.version_info >= (3, 13):
        pytest.skip("CPython ends what sleeps from 3.13 on")
    done = run_script(tmp_path, "submit(work.sleep, 4)\nbegun()\nprint('done')\nsys.exit(3)", code=3)
    assert done.stdout == "done\n" and "the exit waits for what cannot be stopped" in done.stderr


def test_a_signal_ends_a_wait_for_shutdown(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        f"""
        import signal
        submit(work.sleep, 5)
        begun()
        threading.Timer(0.2, os.kill, (os.getpid(), {int(signal.SIGINT)})).start()
        try:
            engine.shutdown(30)
        except KeyboardInterrupt:
            print("done")
        """,
    )
    assert done.stdout == "done\n"


# -- __main__ -----------------------------------------------------------------------


def test_functions_and_classes_of_the_script(tmp_path: Path) -> None:
    check(
        run_script(
            tmp_path,
            """
            assert run(double, 4) == 8
            thing = run(bigger, Thing(1))
            assert type(thing) is Thing and thing.number == 2
            print("done")
            """,
        )
    )


def test_a_main_that_is_in_no_file() -> None:
    code = """
        import contextvars
        from sidecar.cpu.engine import Call
        from sidecar.cpu.interpreters import InterpreterEngine
        def double(number):
            return 2 * number
        engine = InterpreterEngine(1, 1, "life")
        try:
            print(engine.submit(Call(double, (2,), {}, None, contextvars.Context())).result(30))
        except TypeError as error:
            print(error)
        engine.shutdown(10)
        """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.stderr == ""
    assert done.stdout == "4\n" or "__main__ that is in no file" in done.stdout
