"""Measure ``sidecar.Loop`` against asyncio's loop and uvloop's, in one process, interleaved; print a table.

A round takes one short sample of each loop, in an order shuffled anew; a figure is the median of the rounds, in
microseconds an operation. "x asyncio" is how many times as fast as asyncio's loop Sidecar's is, "of uvloop" the
part of uvloop's time that it takes: medians of the rounds' own ratios. "share" is the part of asyncio's CPU time
that is the loop's own (loop_share.py): where it dominates, the target is 1.5 x asyncio, elsewhere 1.0.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fnmatch
import gc
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import loop_cases
import loop_echo
import loop_memory
from loop_case import Case, Clock, Program
from loop_share import share_of

import sidecar

OURS, BASELINE, PEER = "sidecar", "asyncio", "uvloop"
DOMINATES = 0.6  # of the share; at less, 1.5 x would need a loop that is more than twice as fast
FAST, EVEN = 1.5, 1.0
SHARE_SECONDS = 1.0

Result = dict[str, Any]


def contestants() -> dict[str, type]:
    found: dict[str, type] = {BASELINE: asyncio.SelectorEventLoop, OURS: sidecar.Loop}
    with contextlib.suppress(ImportError):
        import uvloop

        found[PEER] = uvloop.Loop
    return found


# -- samples ------------------------------------------------------------------


def times_for(program: Program, seconds: float, case: Case) -> int:
    """How many operations fill about that time."""
    times = case.least
    while True:
        began = time.perf_counter()
        program.sample(times)
        taken = time.perf_counter() - began
        if taken >= seconds / 2 or times >= 10_000_000:
            wanted = max(case.least, int(times * seconds / max(taken, 1e-9)))
            return wanted - wanted % case.unit
        times *= 4


def interleave(
    programs: dict[str, Program], case: Case, rounds: int, slice_: float
) -> dict[str, list[float]]:
    """By loop: the seconds of an operation, one sample a round."""
    times = {name: times_for(program, slice_, case) for name, program in programs.items()}
    found: dict[str, list[float]] = {name: [] for name in programs}
    names = list(programs)
    gc.collect()
    for _ in range(rounds):
        random.shuffle(names)
        for name in names:
            found[name].append(programs[name].sample(times[name]) / times[name])
    return found


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if core is None else {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(case: Case, loops: dict[str, asyncio.AbstractEventLoop], rounds: int, slice_: float) -> Result:
    programs = {name: case.open(loop) for name, loop in loops.items()}
    found = interleave(programs, case, rounds, slice_)
    result: Result = {"case": case.name, "title": case.title, "samples": found}
    result["us"] = {name: statistics.median(samples) * 1e6 for name, samples in found.items()}
    result["x_asyncio"] = ratio(found, BASELINE, OURS)
    result["of_uvloop"] = ratio(found, OURS, PEER) if PEER in found else None
    result["target"] = result["share"] = None
    if not case.informs:
        baseline = programs[BASELINE]
        times = times_for(baseline, slice_, case)
        result["share"] = share_of(lambda: baseline.sample(times), SHARE_SECONDS)
        result["target"] = FAST if result["share"] >= DOMINATES else EVEN
    for program in programs.values():
        program.close()
    return result


def ratio(found: dict[str, list[float]], over: str, under: str) -> float:
    return statistics.median(a / b for a, b in zip(found[over], found[under]))


# -- the table ----------------------------------------------------------------

COLUMNS = ("asyncio", "uvloop", "sidecar", "x asyncio", "of uvloop", "share", "target")
HEAD = f"{'us an operation':56}" + "".join(f"{each:>10}" for each in COLUMNS)


def row(result: Result) -> str:
    line = f"{result['case']:18}{result['title']:38}"
    for name in (BASELINE, PEER, OURS):
        line += f"{result['us'][name]:10.2f}" if name in result["us"] else f"{'-':>10}"
    line += f"{result['x_asyncio']:10.2f}"
    line += f"{result['of_uvloop']:10.2f}" if result["of_uvloop"] is not None else f"{'-':>10}"
    if result["target"] is None:
        return line
    line += f"{result['share']:10.0%}    >= {result['target']}"
    return line if result["x_asyncio"] >= result["target"] else f"{line}   missed"


def report_memory(kinds: dict[str, type], port: int) -> dict[str, float]:
    found = {name: loop_memory.of(kind, port) for name, kind in kinds.items()}
    shown = ", ".join(f"{name} {found[name]:.1f}" for name in (BASELINE, PEER, OURS) if name in found)
    print(f"\nKiB of memory for an idle connection (protocol, second thousand): {shown}")
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40, help="rounds of each case (default: 40)")
    parser.add_argument("--slice", type=float, default=0.005, help="seconds of a sample (default: 0.005)")
    parser.add_argument(
        "--only",
        action="append",
        metavar="CASE",
        help="a case, or a pattern (echo: 'streams*'); may be repeated",
    )
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="count this process's CPU time instead of the clock's: for a busy machine; a peer's is left out",
    )
    parser.add_argument("--json", metavar="FILE", help="write all samples there as well")
    parser.add_argument("--list", action="store_true", help="name the cases, measure nothing")
    return parser.parse_args()


def chosen(cases: tuple[Case, ...], patterns: list[str] | None) -> list[Case]:
    if not patterns:
        return list(cases)
    found = [each for each in cases if any(fnmatch.fnmatch(each.name, pattern) for pattern in patterns)]
    unknown = [p for p in patterns if p != "memory" and not any(fnmatch.fnmatch(c.name, p) for c in cases)]
    if unknown:
        sys.exit(f"loop.py: no case is named {', '.join(unknown)}; --list shows them")
    return found


def main() -> None:
    arguments = parse()
    if arguments.cpu:
        Clock.now = staticmethod(time.process_time)
    with loop_echo.echo_server() as port:
        cases = loop_cases.CASES + loop_echo.cases(port)
        if arguments.list:
            print("\n".join(f"{each.name:18}{each.title}" for each in cases))
            return
        wanted = chosen(cases, arguments.only)
        kinds = contestants()
        peer = f"uvloop {version('uvloop')}" if PEER in kinds else "no uvloop"
        of_what = "CPU time" if arguments.cpu else "wall clock"
        print(f"CPython {platform.python_version()}, {os.cpu_count()} cores; {peer}; {of_what}\n{HEAD}")
        began = time.perf_counter()
        loops = {name: kind() for name, kind in kinds.items()}
        results: list[Result] = []
        for case in wanted:
            with on_core(case.core):
                results.append(measure(case, loops, arguments.rounds, arguments.slice))
            print(row(results[-1]), flush=True)
        for loop in loops.values():
            loop.close()
        memory = report_memory(kinds, port) if not arguments.only or "memory" in arguments.only else {}
    print(f"\n{time.perf_counter() - began:.0f} s")
    if arguments.json:
        told = {"python": platform.python_version(), "cases": results, "idle_kib": memory}
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(told, file, indent=1)


if __name__ == "__main__":
    main()
