"""Bridges for the tests of ``run_cpu``, one for each engine that this Python has."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing.resource_tracker
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import wait_for
from unit import cpu_work as work

import sidecar
from sidecar import _core
from sidecar.cpu import executors

ENGINES = ["threads", "processes", "executor", "pool"]
if hasattr(_core, "InterpreterPool"):
    ENGINES.append("interpreters")
# Where a call is pickled, and is in no caller's thread.
FAR = [engine for engine in ENGINES if engine not in ("threads", "executor")]


def picked(engine: str) -> str:
    """What ``auto`` stands for on this Python."""
    if engine != "auto":
        return engine
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return "threads"
    return "interpreters" if sys.version_info >= (3, 14) else "processes"


@pytest.fixture(scope="module", autouse=True)
def tracker() -> Iterator[None]:
    """What comes and goes by itself stays: else a test may end with what it did not begin with.

    ``multiprocessing`` keeps one helper, and its descriptor, from its first start on.
    """
    multiprocessing.resource_tracker.ensure_running()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executors, "_IDLE_SECONDS", 300.0)
        yield


@contextlib.contextmanager
def bridge_on(engine: str, workers: int | None = 2, **options: object) -> Iterator[sidecar.Sidecar]:
    """A bridge on an engine: ``executor`` is a pool of threads, ``pool`` one of processes, given by the test."""
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        cpu: object = engine
        if engine == "executor":
            cpu = stack.enter_context(concurrent.futures.ThreadPoolExecutor(workers))
        elif engine == "pool":
            cpu = stack.enter_context(concurrent.futures.ProcessPoolExecutor(workers, context))
        made = sidecar.Sidecar(name="tests", cpu=cpu, cpu_workers=workers, **options)  # type: ignore[arg-type]
        try:
            yield made
        finally:
            clean = made.shutdown(20.0)
    assert clean


def warm(bridge: sidecar.Sidecar) -> None:
    """Until both workers are there, and all threads that come with them."""
    bridge.run_cpu(work.add, 1)

    def are_there() -> bool:
        assert list(bridge.map(work.fib, [15] * 8)) == [610] * 8
        return bridge.stats()["cpu_workers"] == 2

    wait_for(are_there, "two workers")


def begun(folder: Path, name: str = "one") -> int:
    """Wait until ``begin_and_wait`` has begun; its process."""
    mark = folder / f"{name}.begun"
    wait_for(lambda: mark.exists() and mark.read_text(), f"{name} has begun")
    return int(mark.read_text())


def go(folder: Path, name: str = "one") -> None:
    (folder / f"{name}.go").touch()


def is_alive(pid: int) -> bool:
    """Also where its first thread has ended and others have not: they hold its descriptors."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" or len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False


def children(pid: int | None = None) -> set[int]:
    """The processes that a process has started and that live."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z" and int(parent) == (pid or os.getpid()):
                found.add(int(name))
    return found
