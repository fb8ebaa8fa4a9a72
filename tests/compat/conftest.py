"""After the suites: how many of each project's tests were run, passed, and were left out."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from compat import table


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not table.verdicts:
        return
    report = [verdict.as_json() for verdict in table.verdicts]
    terminalreporter.section("other projects' own tests")
    for line in table.layout(table.rows(platform.python_version(), report)):
        terminalreporter.write_line(line)
    written = os.environ.get("SIDECAR_COMPAT_REPORT")
    if written:
        Path(written).write_text(json.dumps(report, indent=1))
