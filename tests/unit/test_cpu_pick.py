"""Which engine a bridge takes, what it says about it, and how many workers it has."""

from __future__ import annotations

import concurrent.futures
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from unit import cpu_work as work
from unit.cpu_bridges import ENGINES, bridge_on, picked, tracker  # noqa: F401

import sidecar
from sidecar.cpu import pick

OWN = [engine for engine in ENGINES if engine not in ("executor", "pool")]
REASONS = {
    "threads": "auto: this Python runs without a GIL",
    "interpreters": "auto: Python 3.14 or later",
    "processes": "auto: Python before 3.14, with a GIL",
}


@pytest.mark.parametrize("engine", ["auto", *OWN])
def test_stats_tell_which_and_why(engine: str) -> None:
    with bridge_on(engine) as bridge:
        assert bridge.run_cpu(work.add, 1, 2) == 3
        stats = bridge.stats()
    assert stats["cpu"] == picked(engine)
    assert stats["cpu_reason"] == (REASONS[picked(engine)] if engine == "auto" else "given")


def test_auto_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIDECAR_CPU", raising=False)
    with sidecar.Sidecar() as bridge:
        assert bridge.stats()["cpu"] == picked("auto")


def test_the_doctor_tells(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from sidecar.__main__ import main

    monkeypatch.delenv("SIDECAR_CPU", raising=False)
    main(["doctor"])
    told = capsys.readouterr().out
    assert picked("auto") in told and REASONS[picked("auto")].partition(": ")[2] in told


@pytest.mark.parametrize(
    ("version", "has_gil", "kind"),
    [
        ((3, 9), None, "processes"),
        ((3, 13), True, "processes"),
        ((3, 13), False, "threads"),
        ((3, 14), True, "interpreters"),
        ((3, 14), False, "threads"),
        ((3, 15), True, "interpreters"),
    ],
    ids=["3.9", "3.13", "3.13 without the GIL", "3.14", "3.14 without the GIL", "3.15"],
)
def test_auto(version: tuple[int, int], has_gil: bool | None, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build without the GIL that runs with it, as one switched on by a module, is like any other."""
    monkeypatch.setattr(sys, "version_info", version)
    if has_gil is None:
        monkeypatch.delattr(sys, "_is_gil_enabled", raising=False)
    else:
        monkeypatch.setattr(sys, "_is_gil_enabled", lambda: has_gil, raising=False)
    assert pick.pick("auto") == (kind, REASONS[kind])


@pytest.mark.parametrize(
    ("cpu", "error"),
    [
        ("", ValueError),
        ("thread", ValueError),
        ("dask://", ValueError),
        ("dask://host", ValueError),
        ("dask://host:0", ValueError),
        ("dask://host:65536", ValueError),
        ("dask://:8786", ValueError),
        (None, TypeError),
        (4, TypeError),
        (concurrent.futures.ThreadPoolExecutor, TypeError),
    ],
)
def test_what_is_no_engine(cpu: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="cpu must"):
        sidecar.Sidecar(cpu=cpu)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="interpreters have a GIL of their own here")
def test_interpreters_before_there_are_any() -> None:
    with pytest.raises(sidecar.CpuEngineError, match=r"needs Python 3\.12.*\[SC\d+\]"):
        sidecar.Sidecar(cpu="interpreters")


def test_a_cluster_is_asked_for_by_the_first_call_only() -> None:
    with sidecar.Sidecar(cpu="dask://127.0.0.1:1") as bridge:
        assert (bridge.stats()["cpu"], bridge.stats()["cpu_reason"]) == ("dask", "given: dask://127.0.0.1:1")


# -- how many ---------------------------------------------------------------------------


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of our own: the folder of this process's group, two below the root."""
    own = next(
        (line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), None
    )
    if own is None:
        pytest.skip("this system has no cgroup 2")
    monkeypatch.setattr(pick, "_CGROUP", tmp_path / "root")
    folder = tmp_path / "root" / own.lstrip("/")
    folder.mkdir(parents=True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    return folder


@pytest.mark.parametrize(
    ("limit", "count"),
    [("max 100000", 8), ("400000 100000", 4), ("150000 100000", 2), ("10000 100000", 1), ("900000 100000", 8)],
)
def test_the_cgroups_share(cgroup: Path, limit: str, count: int) -> None:
    (cgroup / "cpu.max").write_text(limit + "\n")
    assert pick.count_cpus() == count


def test_the_smallest_share_of_those_above(cgroup: Path, tmp_path: Path) -> None:
    (cgroup / "cpu.max").write_text("max 100000\n")
    (tmp_path / "root" / "cpu.max").write_text("300000 100000\n")  # the same file where the group is the root
    # Beyond the groups: it is nobody's.
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert pick.count_cpus() == 3


@pytest.mark.parametrize("text", ["", "what", "1 0\n"])
def test_a_share_that_cannot_be_read(cgroup: Path, text: str) -> None:
    (cgroup / "cpu.max").write_text(text)
    assert pick.count_cpus() == 8


def test_the_affinity() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert pick.count_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2"])
def test_no_number_of_workers(wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        sidecar.Sidecar(cpu_workers=wrong)
