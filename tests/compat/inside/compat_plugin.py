"""A pytest plugin for a project's tests: leaves out what is listed, and writes down what came of the others."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import sitecustomize

# pytest's own finder, which rewrites the asserts of plugins, must not come to a name before it is redirected.
sys.meta_path.sort(key=lambda finder: not isinstance(finder, sitecustomize.Redirect))

_excluded: list[str] = json.loads(os.environ["SIDECAR_COMPAT_EXCLUDED"])
_found: dict[str, int] = dict.fromkeys(_excluded, 0)
_outcomes: dict[str, str] = {}
_said: dict[str, str] = {}


def _entry(node: str) -> str | None:
    """What leaves it out: its id, with or without parameters, that of what it is in, or, after "*", a part of it."""
    for each in _excluded:
        if node == each or node.startswith((each + "::", each + "[", each + "/")):
            return each
        if each[0] == "*" and each[1:] in node:
            return each
    return None


def _tests_in(path: Path) -> int:
    """As many as there are functions: importing the file may fail, and be why it is left out."""
    return len(re.findall(r"^\s*(?:async )?def test", path.read_text(), re.MULTILINE))


def _not_redirected() -> list[str]:
    """Names that are still the project's own."""
    targets: dict[str, str] = json.loads(os.environ["SIDECAR_COMPAT_REDIRECT"])
    there = [known for known in targets if known in sys.modules]
    return [known for known in there if sys.modules[known] is not sys.modules.get(targets[known])]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not collection_path.is_file():
        return None
    entry = _entry(collection_path.relative_to(config.rootpath).as_posix())
    if entry is None:
        return None
    _found[entry] += _tests_in(collection_path)
    return True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept = []
    for item in items:
        entry = _entry(item.nodeid)
        if entry is None:
            kept.append(item)
        else:
            _found[entry] += 1
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    before = _outcomes.get(report.nodeid)
    if report.outcome == "passed" and (before is not None or report.when != "call"):
        return
    outcome = "expected" if hasattr(report, "wasxfail") and report.outcome == "skipped" else report.outcome
    if before in (None, "passed") or outcome == "failed":
        _outcomes[report.nodeid] = outcome
        _said[report.nodeid] = report.longreprtext


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _outcomes[report.nodeid], _said[report.nodeid] = "failed", report.longreprtext
    elif report.skipped:
        _outcomes[report.nodeid], _said[report.nodeid] = "skipped", report.longreprtext


def pytest_sessionfinish() -> None:
    for name in _not_redirected():
        _outcomes[name], _said[name] = "failed", f"{name} is the project's own"
    report: dict[str, Any] = {"outcomes": _outcomes, "said": _said, "excluded": _found}
    Path(os.environ["SIDECAR_COMPAT_REPORT"]).write_text(json.dumps(report))
