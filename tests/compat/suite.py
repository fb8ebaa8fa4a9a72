"""Run a project's tests in a process of their own, its names redirected, and count."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bounded import run_bounded
from compat import sources
from compat.project import Project

import sidecar

INSIDE = Path(__file__).with_name("inside")
SECONDS = 400.0

# pytest notes each test in os.environ, while the suites run in threads.
_ENVIRONMENT = dict(os.environ)
# Others' tests may be about time: what they need is fetched at the same time, and they run one after the other.
_alone = threading.Lock()


@dataclass
class Verdict:
    """What a project's tests came to on this Python."""

    project: str
    release: str
    passed: int = 0
    skipped: int = 0
    expected: int = 0
    excluded: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


def run(project: Project, python: str) -> Verdict:
    verdict = Verdict(project.name, project.sdist_for(python))
    excluded = project.excluded_for(python)
    with tempfile.TemporaryDirectory(prefix="compat-") as where:
        folder, home = Path(where, "tests"), Path(where, "home")
        folder.mkdir()
        home.mkdir()
        sources.copied(project, python, folder)
        report = Path(where, "report.json")
        environment = _environment(project, home)
        environment["SIDECAR_COMPAT_REPORT"] = str(report)
        environment["SIDECAR_COMPAT_EXCLUDED"] = json.dumps([each.tests for each in excluded])
        interpreter = sources.environment(project, python)
        environment["PATH"] = os.pathsep.join([str(interpreter.parent), environment.get("PATH", os.defpath)])
        command = [str(interpreter), "-m", "pytest", "-p", "compat_plugin", "--timeout=60"]
        command += ["--rootdir", str(folder), "-p", "no:cacheprovider", "-q", *project.arguments, *project.tests]
        with _alone:
            status, output = run_bounded(command, folder, environment, Path(where, "output"), SECONDS)
        found = json.loads(report.read_text()) if report.exists() else None
    if found is None:
        verdict.failures.append(f"{project.name}'s tests did not get to their end (status {status}):\n{output[-8000:]}")
        return verdict
    for test, outcome in found["outcomes"].items():
        if outcome == "failed":
            verdict.failures.append(f"{test} failed:\n{found['said'][test]}")
        else:
            setattr(verdict, outcome, getattr(verdict, outcome) + 1)
    for each in excluded:
        count = found["excluded"][each.tests]
        verdict.excluded[each.tests] = count
        if not count and not each.may_lack:
            verdict.failures.append(f"{each.tests} is left out, and does not exist")
    if not verdict.passed and not verdict.failures:
        verdict.failures.append(f"none of {project.name}'s tests was run:\n{output[-8000:]}")
    return verdict


def _environment(project: Project, home: Path) -> dict[str, str]:
    """Sidecar as this process has it, and nothing else of this process's."""
    ours = home / "sidecar-only"
    ours.mkdir()
    (ours / "sidecar").symlink_to(Path(sidecar.__file__).parent)
    kept = {
        name: value
        for name, value in _ENVIRONMENT.items()
        if not name.startswith(("PYTHON", "PYTEST", "SIDECAR")) or name == "PYTHON_GIL"
    }
    return {
        **kept,
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONPATH": os.pathsep.join([str(INSIDE), str(ours)]),
        "SIDECAR_COMPAT_REDIRECT": json.dumps(dict(project.redirect)),
        **project.environment,
    }
