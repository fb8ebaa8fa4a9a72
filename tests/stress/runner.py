"""Runs a storm in a process of its own, within a time limit; one that hangs is asked where, and ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent


@dataclass
class Result:
    storm: str
    seed: int
    account: dict[str, Any]  # what it printed; empty if it did not come to that
    trouble: str  # empty: every call is accounted for

    def __str__(self) -> str:
        account = {key: value for key, value in self.account.items() if key not in ("kinds", "wrong")}
        return f"{self.storm}, seed {self.seed}: {account or 'no account'}\n{self.trouble or 'as it must be'}"


def run_storm(storm: str, seed: int, seconds: float, patience: float = 60.0) -> Result:
    """``storm``: a module of this folder. It gets ``patience`` seconds to end after its own time."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", f"stress.{storm}", str(seed), str(seconds)],
            stdout=out,
            stderr=err,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        trouble = ""
        try:
            status = process.wait(seconds + patience)
            if status != 0:
                trouble = f"ended with {status}\n"
        except subprocess.TimeoutExpired:
            trouble = (
                f"hangs: not over {patience:g} s after its time of {seconds:g} s\n{_ask_where(process)}\n"
            )
        finally:
            for child in _children(process.pid):
                os.kill(child, signal.SIGKILL)  # while its parent lives, the number is its own
            process.kill()
            process.wait()
        out.seek(0)
        err.seek(0)
        said, complaints = out.read().strip(), err.read().strip()
    account = json.loads(said.splitlines()[-1]) if said else {}
    if trouble or account.get("wrong") or complaints:
        trouble += "\n".join([*account.get("wrong", []), "stderr:", complaints[-20000:]])
    return Result(storm, seed, account, trouble)


def _ask_where(process: subprocess.Popen[bytes]) -> str:
    """Python's stacks and what the storm says itself go to its stderr; native ones are returned, by gdb."""
    process.send_signal(signal.SIGUSR2)
    process.send_signal(signal.SIGUSR1)
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        pass
    gdb = shutil.which("gdb")
    if gdb is None:
        return "(no gdb for the native stacks)"
    return "\n".join(_native_stacks(gdb, pid) for pid in (process.pid, *_children(process.pid)))


def _children(pid: int) -> list[int]:
    """It may wait for a child that hangs."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in found for child in path.read_text().split()]


def _native_stacks(gdb: str, pid: int) -> str:
    command = [gdb, "-batch", "-p", str(pid), "-ex", "set pagination off", "-ex", "thread apply all bt 60"]
    try:
        asked = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return f"(gdb did not answer about {pid})"
    return f"process {pid}:\n{asked.stdout[-40000:]}"
