"""After the suites: how many tests were run, passed, were not for us, were skipped by CPython itself, or failed."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from conformance import table


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not table.verdicts:
        return
    terminalreporter.section("CPython's own suites")
    for line in table.lines(platform.python_version(), [verdict.as_json() for verdict in table.verdicts]):
        terminalreporter.write_line(line)
    report = os.environ.get("SIDECAR_CONFORMANCE_REPORT")
    if report:
        Path(report).write_text(json.dumps([verdict.as_json() for verdict in table.verdicts], indent=1))
