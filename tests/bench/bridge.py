"""Measure the bridge's streams, ``to_async``, ``submit`` and ``to_caller`` against their peers; print tables.

A round takes one short sample of every contestant, in an order shuffled anew, in one process; a figure is the
median of the rounds, in microseconds an operation. "of it" is the median of the rounds' own ratios to the
baseline that the title names: of the clock's time, and of the CPU time of all threads. A target is of the
clock's.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import platform
import sys
import time
from importlib.metadata import version

import bridge_case
import bridge_pool
import bridge_streams

CASES = bridge_streams.CASES + bridge_pool.CASES


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40, help="rounds of each case (default: 40)")
    parser.add_argument("--slice", type=float, default=0.02, help="seconds of a sample (default: 0.02)")
    parser.add_argument(
        "--only",
        action="append",
        metavar="CASE",
        help="a case, or a pattern ('stream-*'); may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="name the cases, measure nothing")
    return parser.parse_args()


def chosen(patterns: list[str] | None) -> list[bridge_case.Case]:
    if not patterns:
        return list(CASES)
    unknown = [p for p in patterns if not any(fnmatch.fnmatch(each.name, p) for each in CASES)]
    if unknown:
        sys.exit(f"bridge.py: no case is named {', '.join(unknown)}; --list shows them")
    return [each for each in CASES if any(fnmatch.fnmatch(each.name, pattern) for pattern in patterns)]


def main() -> None:
    arguments = parse()
    if arguments.list:
        print("\n".join(f"{each.name:22}{each.what}" for each in CASES))
        return
    cases = chosen(arguments.only)
    peers = ", ".join(f"{name} {version(name)}" for name in ("asgiref", "synchronicity"))
    print(f"CPython {platform.python_version()}, {os.cpu_count()} cores; {peers}")
    began = time.perf_counter()
    for case in cases:
        bridge_case.run(case, arguments.rounds, arguments.slice)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
