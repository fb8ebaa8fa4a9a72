"""Which engine a bridge has, why, and how many calls it runs at a time."""

from __future__ import annotations

import concurrent.futures
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from sidecar.errors import CpuEngineError

if TYPE_CHECKING:
    from sidecar.cpu.engine import Engine

    _Cpu = Union[str, concurrent.futures.Executor]

__all__ = ["KINDS", "Choice", "check", "count_cpus", "make_engine", "pick"]

KINDS = ("auto", "threads", "interpreters", "processes")
_DASK = "dask://"
_CGROUP = Path("/sys/fs/cgroup")


class Choice(NamedTuple):
    """kind: as ``stats()`` shows it."""

    kind: str
    reason: str


def check(cpu: Any) -> None:
    """Raises ``ValueError``, ``TypeError``, or ``CpuEngineError`` for what does not work on this Python."""
    if isinstance(cpu, concurrent.futures.Executor):
        return
    if not isinstance(cpu, str):
        raise TypeError(f"cpu must be {_words()}, or a concurrent.futures.Executor, not {cpu!r}")
    if cpu.startswith(_DASK):
        host, colon, port = cpu[len(_DASK) :].rpartition(":")
        if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"cpu must name a scheduler as dask://host:port, not {cpu!r}")
    elif cpu not in KINDS:
        raise ValueError(f"cpu must be {_words()}, not {cpu!r}")
    elif cpu == "interpreters" and sys.version_info < (3, 12):
        raise CpuEngineError(
            f"cpu='interpreters' needs Python 3.12, where an interpreter may have a GIL of its own; this is "
            f"{sys.version_info[0]}.{sys.version_info[1]} [{CpuEngineError.code}]"
        )


def _words() -> str:
    return f"{', '.join(KINDS)}, or dask://host:port"


def pick(cpu: _Cpu) -> Choice:
    if not isinstance(cpu, str):
        return Choice("executor", f"given: {type(cpu).__module__}.{type(cpu).__qualname__}")
    if cpu.startswith(_DASK):
        return Choice("dask", f"given: {cpu}")
    if cpu != "auto":
        return Choice(cpu, "given")
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return Choice("threads", "auto: this Python runs without a GIL")
    if sys.version_info >= (3, 14):
        return Choice("interpreters", "auto: Python 3.14 or later")
    return Choice("processes", "auto: Python before 3.14, with a GIL")


def count_cpus() -> int:
    """What this process may use: its affinity, and its cgroup's share of time, rounded up."""
    count = len(os.sched_getaffinity(0))
    share = _cgroup_share()
    return max(1, count if share is None else min(count, math.ceil(share)))


def _cgroup_share() -> float | None:
    """Of cgroup 2; inside a container its own is the root of what it sees."""
    try:
        own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        shares = []
        folder = _CGROUP / own.lstrip("/")
        for at in (folder, *folder.parents):
            if at == _CGROUP.parent:
                break
            limits = at / "cpu.max"
            quota, period = limits.read_text().split() if limits.exists() else ("max", "1")
            if quota != "max":
                shares.append(int(quota) / int(period))
        return min(shares, default=None)
    except (OSError, ValueError, StopIteration, ZeroDivisionError):
        return None


def make_engine(cpu: _Cpu, workers: int | None, max_queue: int, name: str, pid: int) -> Engine:
    """pid: of the process that the executor was given in."""
    kind = pick(cpu).kind
    if kind in ("executor", "dask"):
        from sidecar.cpu import executors

        if isinstance(cpu, str):
            return executors.DaskEngine(cpu[len(_DASK) :], workers, max_queue, name)
        return executors.ExecutorEngine(cpu, workers, max_queue, name, pid)
    count = count_cpus() if workers is None else workers
    if kind == "threads":
        from sidecar.cpu.threads import ThreadEngine

        return ThreadEngine(count, max_queue, name)
    if kind == "interpreters":
        from sidecar.cpu.interpreters import InterpreterEngine

        return InterpreterEngine(count, max_queue, name)
    from sidecar.cpu.processes import ProcessEngine

    return ProcessEngine(count, max_queue, name)
