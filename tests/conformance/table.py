"""The table of counts: ``python table.py NAME REPORT...`` prints one for several interpreters."""

from __future__ import annotations

import collections
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conformance.suites import Verdict

HEAD = ("", "run", "passed", "of those without a loop", "not applicable", "skipped by CPython", "failed")

verdicts: list[Verdict] = []
"""What this run of the tests came to."""


def rows(name: str, report: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """One for each mode."""
    made = []
    for mode in dict.fromkeys(verdict["mode"] for verdict in report):
        mine = [verdict for verdict in report if verdict["mode"] == mode]
        passed, without, other = (sum(v[key] for v in mine) for key in ("passed", "without_loop", "not_applicable"))
        skipped = sum(sum(v["skipped"].values()) for v in mine)
        failed = sum(len(v["failures"]) for v in mine)
        counts = (passed + failed, passed, without, other, skipped, failed)
        made.append((f"{name} {mode}", *map(str, counts)))
    return made


def layout(body: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in [HEAD, *body]) for i in range(len(HEAD))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in [HEAD, *body]
    ]


def lines(name: str, report: list[dict[str, Any]]) -> list[str]:
    reasons: collections.Counter[str] = collections.Counter()
    for verdict in report:
        reasons.update(verdict["skipped"])
    return [
        *layout(rows(name, report)),
        *(f"skipped by CPython: {count} x {reason}" for reason, count in reasons.most_common()),
    ]


if __name__ == "__main__":
    pairs = list(zip(sys.argv[1::2], sys.argv[2::2]))
    print("\n".join(layout([row for name, path in pairs for row in rows(name, json.loads(Path(path).read_text()))])))
