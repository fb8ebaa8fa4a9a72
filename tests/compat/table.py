"""The table of counts: ``python table.py NAME REPORT...`` prints one for several interpreters."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compat.suite import Verdict

HEAD = ("project", "python", "run", "passed", "failed", "excluded", "skipped by itself", "expected to fail by itself")

verdicts: list[Verdict] = []
"""What this run of the tests came to."""


def rows(name: str, report: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    made = []
    for verdict in report:
        failed = len(verdict["failures"])
        excluded = sum(verdict["excluded"].values())
        passed = verdict["passed"]
        counts = (passed + failed, passed, failed, excluded, verdict["skipped"], verdict["expected"])
        project, release = verdict["project"], verdict["release"]
        shown = release if release.startswith(f"{project}==") else f"{project} ({release})"
        made.append((shown, name, *map(str, counts)))
    return made


def layout(body: list[tuple[str, ...]]) -> list[str]:
    whole = [HEAD, *sorted(body)]
    widths = [max(len(row[i]) for row in whole) for i in range(len(HEAD))]
    return [
        "  ".join(cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths)))
        for row in whole
    ]


if __name__ == "__main__":
    pairs = list(zip(sys.argv[1::2], sys.argv[2::2]))
    print("\n".join(layout([row for name, path in pairs for row in rows(name, json.loads(Path(path).read_text()))])))
