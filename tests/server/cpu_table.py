"""The table of ``tests/server/cpu_matrix``: engines by places, of pytest's reports.

    cpu_table.py FOLDER PYTHON...

Each test counts where its name and its file say that it belongs. The exit status is 1 where a cell has a failure, or
neither a test that passed nor a reason why there can be none.
"""

from __future__ import annotations

import collections
import re
import sys
import xml.etree.ElementTree as tree
from collections.abc import Iterator
from pathlib import Path

ENGINES = ["auto", "threads", "interpreters", "processes"]
PLACES = ["script", "uwsgi", "sync", "gthread", "pytest"]
HEADINGS = ["script", "uWSGI threads", "gunicorn sync", "gunicorn gthread", "pytest"]
# Files that are about one engine, whatever their tests are called.
FILES = {"test_cpu_processes": "processes", "test_cpu_interpreters": "interpreters"}
OWN_SCRIPTS = re.compile(r"script|main|exit|ctrl_c|fork|parent_that_is_killed")


class Cell:
    def __init__(self) -> None:
        self.passed = self.failed = 0
        self.skips: collections.Counter[str] = collections.Counter()


def place_of(file: str, name: str, words: list[str]) -> str:
    if file == "test_cpu_served":
        return next((place for place in PLACES if place in words), "uwsgi")
    is_script = file in ("test_cpu_scripts", "test_cpu_interpreters_life")
    is_script |= file == "test_cpu_processes" and bool(OWN_SCRIPTS.search(name))
    return "script" if is_script else "pytest"


def engine_of(file: str, words: list[str]) -> str | None:
    found = next((engine for engine in ENGINES if engine in words), None)
    return found or next((engine for start, engine in FILES.items() if file.startswith(start)), None)


def reason_of(skip: tree.Element) -> str:
    of_module = re.search(r"Skipped: (.*)['\"]\)$", skip.text or "")
    return of_module.group(1) if of_module else skip.get("message", "")


def read(report: Path) -> tuple[dict[tuple[str, str], Cell], Cell]:
    """The cells, and what belongs to no engine, or to executors that were handed over."""
    cells: dict[tuple[str, str], Cell] = collections.defaultdict(Cell)
    others = Cell()
    for case in tree.parse(report).iter("testcase"):
        name, _, parameters = case.get("name", "").partition("[")
        # A module that is skipped as a whole has its own name there, and no class.
        path = (case.get("classname") or name).split(".")
        file = next(part for part in path if part.startswith("test_"))
        words = re.split(r"[-\]]", parameters)
        engine = engine_of(file, words)
        cell = others if engine is None else cells[engine, place_of(file, name, words)]
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            cell.failed += 1
        elif "skipped" in kinds:
            cell.skips.update(map(reason_of, case.iter("skipped")))
        else:
            cell.passed += 1
    return cells, others


def why_not(engine: str, place: str, version: str, no_uwsgi: str) -> str:
    """Why a cell can have no test; nothing where it must."""
    if engine == "interpreters" and tuple(map(int, version.split(".")[:2])) < (3, 12):
        return "needs 3.12"
    return "no uWSGI" if place == "uwsgi" and no_uwsgi else ""


def row(*texts: str) -> str:
    return "    " + "".join(text.ljust(width) for text, width in zip(texts, (15, *[20] * 5))).rstrip()


def show(folder: Path, name: str) -> Iterator[tuple[str, bool]]:
    """Lines, and whether they are good."""
    report, version, bad, no_uwsgi = (
        (folder / file).read_text().strip() if (folder / file).exists() else ""
        for file in ("report.xml", "version", "not-run", "no-uwsgi")
    )
    yield f"{name}: {version or 'not run'}{f' ({bad})' if bad else ''}", not bad
    if no_uwsgi:
        yield f"    no uWSGI: {no_uwsgi}", True
    if not report:
        return
    cells, others = read(folder / "report.xml")
    yield row("", *HEADINGS), True
    for engine in ENGINES:
        texts, good = [], True
        for place in PLACES:
            cell, reason = cells.get((engine, place)) or Cell(), why_not(engine, place, version, no_uwsgi)
            counts = f"{cell.passed} passed" + (f", {cell.failed} FAILED" if cell.failed else "")
            texts.append(counts if cell.passed or cell.failed or not reason else reason)
            good &= not cell.failed and bool(cell.passed or reason)
        yield row(engine, *texts), good
    yield f"    executors, and all engines alike: {others.passed} passed, {others.failed} failed", not others.failed
    skips = sum((cell.skips for cell in (*cells.values(), others)), collections.Counter())
    for reason, count in skips.most_common():
        yield f"    {count} skipped: {reason}", True


def main() -> int:
    good = True
    for name in sys.argv[2:]:
        for line, is_good in show(Path(sys.argv[1]) / name, name):
            print(line)
            good &= is_good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
