"""What an idle connection costs in memory, by loop: a process for each; run as a program, that process."""

from __future__ import annotations

import asyncio
import importlib
import resource
import subprocess
import sys
from pathlib import Path

from loop_echo import IDLE, Idle

PAGE = resource.getpagesize()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE


def measure(module: str, name: str, port: int) -> float:
    """KiB for each of the second thousand connections: what the first one makes once is not counted."""
    loop: asyncio.AbstractEventLoop = getattr(importlib.import_module(module), name)()
    first = Idle(loop, port, IDLE)
    before = resident()
    second = Idle(loop, port, IDLE)
    grown = resident() - before
    for each in (first, second):
        loop.run_until_complete(each.close())
    loop.close()
    return grown / IDLE / 1024


def of(kind: type, port: int) -> float:
    command = [sys.executable, __file__, kind.__module__, kind.__name__, str(port)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def allow_descriptors() -> bool:
    """Room for the idle connections of three loops."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * IDLE + 100
    if soft < wanted <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return soft >= wanted


if __name__ == "__main__":
    allow_descriptors()
    print(measure(sys.argv[1], sys.argv[2], int(sys.argv[3])))
