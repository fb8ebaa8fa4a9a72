"""What a case of the bridge's bench is, and how one is sampled and shown.

A sample is so many operations of one contestant, timed by the contestant itself: seconds on the clock, and of
CPU time of all of the process's threads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import random
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

LEAST_SECONDS = 1e-9


@dataclasses.dataclass
class Taken:
    """What a number of operations took."""

    wall: float
    cpu: float

    def over(self, times: int) -> Taken:
        return Taken(max(self.wall, LEAST_SECONDS) / times, max(self.cpu, LEAST_SECONDS) / times)


def stopwatch() -> Callable[[], Taken]:
    """Started now; asked as often as one likes."""
    wall, cpu = time.perf_counter(), time.process_time()
    return lambda: Taken(time.perf_counter() - wall, time.process_time() - cpu)


# By measure; most cases have one.
Sampler = Callable[[int], "dict[str, Taken]"]


@dataclasses.dataclass
class Measure:
    """One table: contestants, the median of each, and its ratio to the baseline's."""

    title: str
    targets: dict[str, float] = dataclasses.field(default_factory=dict)  # by contestant: of the baseline's


@dataclasses.dataclass
class Opened:
    samplers: dict[str, Sampler]  # by contestant, in the order of the table
    baseline: str
    measures: dict[str, Measure]
    unit: int = 1  # the number of operations of a sample is a multiple of this
    times: int | None = None  # exactly so many; None: what fills the slice


@dataclasses.dataclass
class Case:
    name: str
    what: str
    open: Callable[[], AbstractContextManager[Opened]]
    rounds: float = 1.0  # of those asked for


def times_for(sampler: Sampler, unit: int, seconds: float) -> int:
    """How many operations fill about that time."""
    times = unit
    while True:
        taken = next(iter(sampler(times).values())).wall
        if taken >= seconds / 2 or times >= 10_000_000:
            wanted = int(times * seconds / max(taken, LEAST_SECONDS))
            return max(unit, wanted - wanted % unit)
        times *= 4


def interleave(opened: Opened, rounds: int, slice_: float) -> dict[str, dict[str, list[Taken]]]:
    """By measure and contestant: what one operation took, one sample a round, in an order shuffled anew."""
    times: dict[str, int] = {}
    for name, sampler in opened.samplers.items():
        sampler(opened.times or opened.unit)  # caches, threads
        times[name] = opened.times or times_for(sampler, opened.unit, slice_)
    found: dict[str, dict[str, list[Taken]]] = {
        measure: {name: [] for name in opened.samplers} for measure in opened.measures
    }
    names = list(opened.samplers)
    for _ in range(rounds):
        random.shuffle(names)
        for name in names:
            gc.collect()  # what another contestant left is not this one's
            for measure, taken in opened.samplers[name](times[name]).items():
                found[measure][name].append(taken.over(times[name]))
    return found


def ratio(found: list[float], baseline: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(found, baseline))


def report(measure: Measure, found: dict[str, list[Taken]], baseline: str) -> None:
    print(f"\n{measure.title}")
    print(f"  {'':41}{'median':>9}{'of it':>9}{'CPU':>9}{'of it':>9}{'target':>9}")
    walls = {name: [taken.wall for taken in samples] for name, samples in found.items()}
    cpus = {name: [taken.cpu for taken in samples] for name, samples in found.items()}
    for name in found:
        wall, cpu = ratio(walls[name], walls[baseline]), ratio(cpus[name], cpus[baseline])
        mark = ""
        if name in measure.targets:
            mark = f"   <= {measure.targets[name]}"
            mark += "" if wall <= measure.targets[name] else "   missed"
        line = f"  {name:41}{statistics.median(walls[name]) * 1e6:9.2f}{wall:9.4f}"
        line += f"{statistics.median(cpus[name]) * 1e6:9.2f}{cpu:9.4f}{mark}"
        print(line.rstrip(), flush=True)


def run(case: Case, rounds: int, slice_: float) -> None:
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(case.open())
        found = interleave(opened, max(3, int(rounds * case.rounds)), slice_)
    for name, measure in opened.measures.items():
        report(measure, found[name], opened.baseline)
