"""Measure ``run_sync`` against its peers, in one process, interleaved; print a table.

A round takes one short sample of every contestant, in an order shuffled anew; a figure is the median of the
rounds. "of rct" is the median of the rounds' own ratios to ``asyncio.run_coroutine_threadsafe``, so that a
machine whose speed changes moves both sides. "above floor" is what is left after the floor's median.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version

import works
from contestants import ALL, BASELINE, AsyncFunction, Call, Contestant, RunSync

FLOOR = "floor"

# By work: its row's title, its target as a ratio to the baseline (docs/design): `run_sync` shall not pass it.
TITLES = {
    "never": ("never waits, us a call", 0.02),
    "once": ("waits once (sleep(0)), us a call", 0.04),
    "echo": ("echo of 64 bytes on streams, us a call (floor: a blocking socket; also <= 2 x floor)", 0.35),
    "8 threads": ("8 threads, waits once, calls/s (of rct: of its time a call)", 0.05),
    "64 threads": ("64 threads, waits once, calls/s (of rct: of its time a call)", 0.10),
    "sleep": ("64 threads, sleep(1 ms), calls/s (of rct: of its time a call)", 0.45),
    "p99": ("64 threads, sleep(1 ms), p99 of a call, us", 0.50),
}

Sampler = Callable[[], "dict[str, float]"]


def interleave(samplers: dict[str, Sampler], rounds: int) -> dict[str, dict[str, list[float]]]:
    """By measure and contestant: one sample a round, in seconds."""
    found: dict[str, dict[str, list[float]]] = {}
    names = list(samplers)
    for _ in range(rounds):
        random.shuffle(names)
        for name in names:
            for measure, seconds in samplers[name]().items():
                found.setdefault(measure, {}).setdefault(name, []).append(seconds)
    return found


def report(work: str, found: dict[str, list[float]]) -> None:
    title, target = TITLES[work]
    floor = statistics.median(found[FLOOR]) if FLOOR in found else None
    print(f"\n{title}")
    print(f"  {'':31}{'median':>9}{'of rct':>9}{'above floor':>13}{'target':>9}")
    order = [name for name in (FLOOR, *(each.name for each in ALL)) if name in found]
    for name in order:
        median = statistics.median(found[name])
        ratio = statistics.median(a / b for a, b in zip(found[name], found[BASELINE]))
        above = "" if floor is None or name == FLOOR else f"{(median - floor) * 1e6:.2f}"
        mark = ""
        if name == RunSync.name:
            mark = f"<= {target}" + ("" if ratio <= target else "   missed")
        shown = f"{1 / median:.0f}" if "calls/s" in title else f"{median * 1e6:.2f}"
        print(f"  {name:31}{shown:>9}{ratio:9.4f}{above:>13}  {mark}".rstrip())


def one_by_one(calls: dict[str, Call], slice_: float) -> dict[str, Sampler]:
    """Samplers of calls made one after another by this thread, each about ``slice_`` seconds long."""

    def sampler(call: Call) -> Sampler:
        works.calls_in(call, slice_)
        times = works.calls_in(call, slice_)
        return lambda: {"call": works.time_of(call, times)}

    return {name: sampler(call) for name, call in calls.items()}


class BareTask:
    """The floor: C alone makes a Task, runs its steps, takes its result (floor.c)."""

    def __init__(self) -> None:
        floor = importlib.import_module("floor")
        keywords = ("loop", "eager_start") if sys.version_info >= (3, 12) else ("loop",)
        self.loop = floor.Floor(asyncio.Task, keywords)

    def caller(self, function: AsyncFunction) -> Call:
        run = self.loop.run
        return lambda: run(function())

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """A task's step wants its loop to be the running one."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self.loop)
        try:
            yield
        finally:
            asyncio._set_running_loop(before)


def measure_single(contestants: list[Contestant], rounds: int, slice_: float) -> None:
    bare = BareTask()
    for work, function in (("never", works.never), ("once", works.once)):
        samplers = one_by_one({each.name: each.caller(function) for each in contestants}, slice_)
        with bare.running():
            floor = one_by_one({FLOOR: bare.caller(function)}, slice_)[FLOOR]

        def on_the_floor(sample: Sampler = floor) -> dict[str, float]:
            with bare.running():
                return sample()

        found = interleave({**samplers, FLOOR: on_the_floor}, rounds)
        report(work, found["call"])


def measure_echo(contestants: list[Contestant], rounds: int, slice_: float) -> None:
    with works.echo_server() as port:
        ends: list[Call] = []
        calls: dict[str, Call] = {}
        calls[FLOOR], end = works.echo_on_blocking_socket(port)
        ends.append(end)
        for each in contestants:
            if each.keeps_a_loop:
                calls[each.name], end = works.echo_on_streams(each, port)
                ends.append(end)
        found = interleave(one_by_one(calls, slice_), rounds)
        for end in ends:
            end()
    report("echo", found["call"])
    lost = ", ".join(each.name for each in contestants if not each.keeps_a_loop)
    print(f"  ({lost}: a new loop for each call, so no connection can be kept)")


def measure_crowds(contestants: list[Contestant], rounds: int, seconds: float) -> None:
    def sampler(each: Contestant, function: AsyncFunction, threads: int) -> Sampler:
        def sample() -> dict[str, float]:
            rate, p99 = works.crowd(each, function, threads, seconds)
            return {"rate": 1 / rate, "p99": p99}

        return sample

    for work, function, threads in (
        ("8 threads", works.once, 8),
        ("64 threads", works.once, 64),
        ("sleep", works.sleep_1ms, 64),
    ):
        found = interleave({each.name: sampler(each, function, threads) for each in contestants}, rounds)
        report(work, found["rate"])
        if work == "sleep":
            report("p99", found["p99"])


PARTS = ("single", "echo", "threads")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=60, help="rounds of the single-thread parts (default: 60)"
    )
    parser.add_argument("--crowds", type=int, default=8, help="rounds of the parts with threads (default: 8)")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part; may be repeated")
    parser.add_argument(
        "--slice", type=float, default=0.005, help="seconds of a sample, one thread (default: 0.005)"
    )
    parser.add_argument("--crowd-seconds", type=float, default=0.25, help="seconds of a sample with threads")
    arguments = parser.parse_args()
    parts = arguments.only or PARTS

    peers = ", ".join(f"{name} {version(name)}" for name in ("asgiref", "synchronicity"))
    print(f"CPython {platform.python_version()}, {os.cpu_count()} cores; {peers}")
    began = time.perf_counter()
    contestants: list[Contestant] = [kind() for kind in ALL]
    for each in contestants:
        each.open()
    if "single" in parts:
        measure_single(contestants, arguments.rounds, arguments.slice)
    if "echo" in parts:
        measure_echo(contestants, arguments.rounds, arguments.slice)
    if "threads" in parts:
        measure_crowds(contestants, arguments.crowds, arguments.crowd_seconds)
    for each in contestants:
        each.close()
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
