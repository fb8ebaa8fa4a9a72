"""``run_cpu`` in plain scripts: functions of ``__main__``, each form, and an exit that leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from harness import wait_for
from unit.cpu_bridges import is_alive, picked
from unit.cpu_interpreter_work import is_broken

from sidecar import _core

ENGINES = ["auto", "threads", "processes"]
if hasattr(_core, "InterpreterPool") and not is_broken():
    ENGINES.append("interpreters")

START = """
    import asyncio, os, sys, threading, time
    import sidecar

    class Mine(Exception):
        pass

    class Pair:
        def __init__(self, one, other):
            self.one, self.other = one, other

    def swap(pair):
        return Pair(pair.other, pair.one)

    def fib(number):
        return number if number < 2 else fib(number - 1) + fib(number - 2)

    def has_thread():
        return threading.current_thread().is_alive()

    def fail(number):
        raise Mine(number)

    def wait(path):
        open(path + ".begun", "x").close()
        deadline = time.monotonic() + 60
        while not os.path.exists(path) and time.monotonic() < deadline:
            time.sleep(0.005)

    def begun(path):
        while not os.path.exists(path + ".begun"):
            time.sleep(0.005)

    async def inside(bridge):
        return await asyncio.gather(*(bridge.run_cpu.aio(fib, at) for at in range(8)))

    if __name__ == "__main__":
        bridge = sidecar.Sidecar(cpu=sys.argv[1], cpu_workers=2, shutdown_timeout=0.5)
"""


def in_session(session: int) -> set[int]:
    """The processes that live of a session; its leader is the script."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and is_alive(int(name)):
                found.add(int(name))
    return found


def run(folder: Path, engine: str, body: str, code: int = 0) -> Any:
    """Its output, once all that it had started has gone."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(START) + textwrap.indent(textwrap.dedent(body), "    "))
    command = [sys.executable, str(script), engine, str(folder / "go")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=folder, start_new_session=True) as process:
        try:
            out, err = process.communicate(timeout=60)
            assert process.returncode == code, err
            wait_for(lambda: not in_session(process.pid), "nothing is left")
        finally:
            for pid in in_session(process.pid):
                os.kill(pid, signal.SIGKILL)
    return out, err


@pytest.mark.parametrize("engine", ENGINES)
def test_each_form(engine: str, tmp_path: Path) -> None:
    body = """
        print(bridge.stats()["cpu"], bridge.run_cpu(fib, 12), bridge.run_cpu.future(fib, 11).result())
        print(bridge.run_sync(inside(bridge)), asyncio.run(inside(bridge)))
        pair = bridge.run_cpu(swap, Pair(1, Pair(2, 3)))
        print(type(pair) is Pair, type(pair.one) is Pair, pair.one.other, pair.other)
        print(list(bridge.map(fib, range(10), in_flight=3)))
        try:
            bridge.run_cpu(fail, 7)
        except Mine as error:
            print(repr(error))
    """
    few = [0, 1, 1, 2, 3, 5, 8, 13]
    lines = [f"{picked(engine)} 144 89", f"{few} {few}", "True True 3 1", f"{[*few, 21, 34]}", "Mine(7)"]
    assert run(tmp_path, engine, body) == ("\n".join([*lines, ""]), "")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        ("bridge.shutdown()", 0, ""),
        ("del bridge", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("fail(7)", 1, "Mine: 7"),
        ("os._exit(4)", 4, ""),
    ],
)
def test_an_end_with_warm_workers(engine: str, end: str, code: int, told: str, tmp_path: Path) -> None:
    out, err = run(tmp_path, engine, f"print(bridge.run_cpu(fib, 10), flush=True)\n{end}\n", code)
    assert out == "55\n"
    if "_exit" in end and picked(engine) == "processes":
        # multiprocessing's helper clears up behind it, and says so.
        assert not err or "resource_tracker" in err
    else:
        assert err.rstrip().endswith(told) and bool(err) is bool(told), err


@pytest.mark.parametrize("engine", ENGINES)
def test_an_end_amid_work(engine: str, tmp_path: Path) -> None:
    """It is bounded, and the log names what did not end in time."""
    body = """
        future = bridge.run_cpu.future(wait, sys.argv[2])
        begun(sys.argv[2])
        queued = [bridge.run_cpu.future(fib, 5) for _ in range(20)]
        print("leaves", flush=True)
    """
    out, err = run(tmp_path, engine, body)
    assert out == "leaves\n"
    assert "__main__.wait did not end in time" in err and "Traceback" not in err, err


@pytest.mark.parametrize("engine", ENGINES)
def test_a_script_without_a_guard(engine: str, tmp_path: Path) -> None:
    """What needs no second copy of the script runs; worker processes say what is missing."""
    script = tmp_path / "script.py"
    script.write_text(
        "import operator, sys, sidecar\nbridge = sidecar.Sidecar(cpu=sys.argv[1], cpu_workers=1)\n"
        "print(bridge.run_cpu(operator.add, 1, 2))\nbridge.shutdown()\n"
    )
    command = [sys.executable, str(script), engine]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    if picked(engine) == "processes":
        assert done.returncode == 1 and 'if __name__ == "__main__":' in done.stderr
    else:
        assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_end_after_logging(engine: str, tmp_path: Path) -> None:
    """A log record asks which thread it is on: what knows the worker's thread by then goes without a word."""
    out, err = run(tmp_path, engine, "print(bridge.run_cpu(has_thread))")
    assert (out, err) == ("True\n", "")
