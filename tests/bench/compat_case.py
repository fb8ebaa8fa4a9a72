"""A case of ``sidecar.compat`` against the project whose names it has, and the command that runs such cases."""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib.metadata import version

from bridge_case import Case, Measure, Opened, Sampler, Taken, run, stopwatch

OURS = "sidecar.compat"

# Does one thing so many times.
Work = Callable[[int], object]
# Both of them, ours first, ready to work.
Pair = Callable[[], AbstractContextManager["tuple[Work, Work]"]]

CALL = 0.1  # of the original's time: at least 10 times faster
ITEM = 0.02
TO_ASYNC = 0.5
SLOWER_NEVER = 1.0


def sampler_of(work: Work) -> Sampler:
    def sample(times: int) -> dict[str, Taken]:
        taken = stopwatch()
        work(times)
        return {"time": taken()}

    return sample


def case(name: str, what: str, project: str, pair: Pair, target: float, unit: int = 1) -> Case:
    @contextlib.contextmanager
    def opened() -> Iterator[Opened]:
        with pair() as (ours, theirs):
            samplers = {OURS: sampler_of(ours), project: sampler_of(theirs)}
            measure = Measure(f"{name}: {what}; of {project}'s", {OURS: target})
            yield Opened(samplers, project, {"time": measure}, unit=unit)

    return Case(name, what, opened)


def repeated(call: Callable[[], object]) -> Work:
    def work(times: int) -> None:
        for _ in range(times):
            call()

    return work


def main(text: str | None, project: str, cases: list[Case]) -> None:
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each case (default: 20)")
    parser.add_argument("--slice", type=float, default=0.02, help="seconds of a sample (default: 0.02)")
    parser.add_argument("--only", default="*", metavar="CASE", help="a case, or a pattern ('item*')")
    arguments = parser.parse_args()
    print(f"CPython {platform.python_version()}, {os.cpu_count()} cores; {project} {version(project)}")
    for each in cases:
        if fnmatch.fnmatch(each.name, arguments.only):
            run(each, arguments.rounds, arguments.slice)
