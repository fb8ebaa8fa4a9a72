"""Run a suite in a process of its own, hold what came of it against the list, and count."""

from __future__ import annotations

import collections
import fnmatch
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bounded import run_bounded
from conformance import catalogue
from conformance.not_applicable import ENTRIES, Entry

RUNNER = Path(__file__).with_name("runner.py")
SECONDS = 400.0
"""A whole module's limit; one test's is the runner's."""


@dataclass
class Verdict:
    """What one module came to in one mode."""

    mode: str
    module: str
    passed: int = 0
    without_loop: int = 0  # passed, and had no loop of ours
    not_applicable: int = 0
    skipped: collections.Counter[str] = field(default_factory=collections.Counter)  # by CPython, and why
    failures: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "skipped": dict(self.skipped)}


# pytest notes each test in os.environ, while the suites run in threads.
_ENVIRONMENT = dict(os.environ)


class _Died(Exception):
    """A process that did not get to its end."""


def run(mode: str, module: str) -> Verdict:
    """The tests that apply must pass, those that are listed must exist and fail."""
    verdict = Verdict(mode, module)
    entries = [entry for entry in ENTRIES if entry.is_for(mode, module, catalogue.version())]
    listed = [pattern for entry in entries for pattern in entry.tests_of(module)]
    unrun = [pattern for entry in entries if not entry.runs for pattern in entry.tests_of(module)]
    try:
        there, records = _process(mode, module, without=listed)
        _count(verdict, records)
        _check_list(verdict, entries, there)
        if len(listed) > len(unrun):
            # Apart from the others: what fails may leave things behind.
            _, failing = _process(mode, module, only=listed, without=unrun)
            _check_failing(verdict, failing)
    except _Died as error:
        verdict.failures.append(str(error))
    return verdict


def _count(verdict: Verdict, records: Sequence[dict[str, Any]]) -> None:
    loops = 0
    for record in records:
        loops += record["loops"]
        if record["outcome"] == "passed":
            verdict.passed += 1
            verdict.without_loop += not record["loops"]
        elif record["outcome"] == "skipped":
            verdict.skipped[record["reason"]] += 1
        else:
            verdict.failures.append(f"{verdict.module}.{record['test']} failed:\n{record['reason']}")
    if loops == 0:
        verdict.failures.append(f"{verdict.module} made no loop of ours: it belongs in catalogue.LEFT_OUT")


def _check_list(verdict: Verdict, entries: Sequence[Entry], there: Sequence[str]) -> None:
    for entry in entries:
        for pattern in entry.tests_of(verdict.module):
            found = fnmatch.filter(there, pattern)
            verdict.not_applicable += len(found)
            if not found and not entry.may_lack:
                verdict.failures.append(f"not_applicable.py lists {verdict.module}.{pattern}, which does not exist")


def _check_failing(verdict: Verdict, records: Sequence[dict[str, Any]]) -> None:
    for record in records:
        if record["outcome"] == "passed":
            verdict.failures.append(f"not_applicable.py lists {verdict.module}.{record['test']}, which passes")


def _process(
    mode: str, module: str, *, only: Sequence[str] | None = None, without: Sequence[str] = ()
) -> tuple[list[str], list[dict[str, Any]]]:
    """The names of all tests of a module, and the records of those that were run."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        result = Path(folder, "result")
        command = [sys.executable, "-X", "faulthandler", str(RUNNER), mode, module, str(result)]
        command += [] if only is None else ["--only", *only]
        command += ["--without", *without]
        Path(folder, "cwd").mkdir()
        status, output = _bounded(command, Path(folder, "cwd"), Path(folder, "output"))
        lines = [json.loads(line) for line in result.read_text().splitlines()] if result.exists() else []
    if not lines or "end" not in lines[-1]:
        where = lines[-1].get("test", "its beginning") if lines else "its beginning"
        raise _Died(f"{module} died at {where} (status {status}):\n{output[-4000:]}")
    return lines[0]["tests"], [line for line in lines if "outcome" in line]


def _bounded(command: Sequence[str], cwd: Path, output: Path) -> tuple[int | str, str]:
    """Run it with a limit of time; its status and what it said. Its children end with it."""
    environment = {name: value for name, value in _ENVIRONMENT.items() if not name.startswith("PYTHON")}
    paths = [_ENVIRONMENT.get("PYTHONPATH"), catalogue.folder_of_tests()]
    environment.update(
        {name: _ENVIRONMENT[name] for name in ("PYTHON_GIL",) if name in _ENVIRONMENT},
        PYTHONPATH=os.pathsep.join(path for path in paths if path),
        TMPDIR=str(cwd),
        HOME=str(cwd),
    )
    return run_bounded(command, cwd, environment, output, SECONDS)
