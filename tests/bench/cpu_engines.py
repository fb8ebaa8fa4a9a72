"""Measure Sidecar's CPU engines against the pools of ``concurrent.futures``; print tables.

Calls: all contestants live in one process, each with its workers started. A round takes one sample of each, in an
order shuffled anew; a figure is the median of the rounds, "of it" the median of the rounds' own ratios to the
baseline that the title names. CPU time is that of the calling process, threads and interpreters included; worker
processes are not.

Start and memory: a process of its own for each contestant and round, so that nothing is there before it. Memory is
what the processes have in all (PSS: a page that several share counts in parts) less what there was before the
start, for one worker.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import functools
import gc
import json
import multiprocessing
import os
import platform
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import cpu_works
from bridge_case import Measure, Opened, Sampler, Taken, interleave, report, stopwatch

import sidecar

CPUS = len(os.sched_getaffinity(0))
ARGUMENT = bytes(range(256)) * (10 * 1024 * 1024 // 256)
FIB, CALLS = 27, 8
SPAWN_SECONDS = 60.0

FORK, INTERPRETERS = "ProcessPoolExecutor, fork", "InterpreterPoolExecutor"
ONE_THREAD = "one thread"

# submit(function, *args), and call(function, *args), which waits: in the way that is a contestant's own.
Submit = Callable[..., "Future[Any]"]
Call = Callable[..., Any]
Contestant = tuple[Submit, Call]


@contextlib.contextmanager
def opened_pool(make: Callable[[int], concurrent.futures.Executor], workers: int) -> Iterator[Contestant]:
    with make(workers) as pool:
        yield pool.submit, lambda function, *args: pool.submit(function, *args).result()


@contextlib.contextmanager
def opened_engine(cpu: str, workers: int) -> Iterator[Contestant]:
    with sidecar.Sidecar(name=f"bench-{cpu[:4]}", cpu=cpu, cpu_workers=workers) as bridge:
        run_cpu = bridge.run_cpu
        yield run_cpu.future, run_cpu


def contestants(loky: bool) -> dict[str, Callable[[int], AbstractContextManager[Contestant]]]:
    """By name. The one that forks comes first: it does so before there are threads."""

    def pool(make: Callable[[int], concurrent.futures.Executor]) -> Any:
        return functools.partial(opened_pool, make)

    def processes(method: str) -> Any:
        context = multiprocessing.get_context(method)
        return pool(lambda workers: ProcessPoolExecutor(workers, mp_context=context))

    found = {FORK: processes("fork"), "ProcessPoolExecutor, spawn": processes("spawn")}
    engines = ["threads", "processes"]
    if sys.version_info >= (3, 12):
        engines.insert(1, "interpreters")
    for engine in engines:
        found[f"sidecar, {engine}"] = functools.partial(opened_engine, engine)
    if sys.version_info >= (3, 14):
        found[INTERPRETERS] = pool(concurrent.futures.InterpreterPoolExecutor)
    if loky:
        from loky.process_executor import ProcessPoolExecutor as LokyExecutor

        found["loky"] = pool(LokyExecutor)
    return found


def start_all(submit: Submit, workers: int) -> None:
    """Return when each worker has run something."""
    seconds = 0.05
    deadline = time.monotonic() + SPAWN_SECONDS
    while True:
        began = time.monotonic()
        for future in [submit(cpu_works.stay, seconds) for _ in range(workers)]:
            future.result(SPAWN_SECONDS)
        # All at a time: none of them was still on its way up.
        if time.monotonic() - began < 1.8 * seconds or time.monotonic() > deadline:
            return


# -- calls ----------------------------------------------------------------------


def repeated(call: Call, function: Callable[..., Any], *args: Any) -> Sampler:
    def sample(times: int) -> dict[str, Taken]:
        again = range(times)
        watch = stopwatch()
        for _ in again:
            call(function, *args)
        return {"call": watch()}

    return sample


def at_once(submit: Submit) -> Sampler:
    expected = cpu_works.fib(FIB)

    def sample(times: int) -> dict[str, Taken]:
        watch = stopwatch()
        for _ in range(times):
            answers = [future.result() for future in [submit(cpu_works.fib, FIB) for _ in range(CALLS)]]
        taken = watch()
        if answers != [expected] * CALLS:
            raise AssertionError(f"fib({FIB}) {CALLS} times gave {answers}")
        return {"call": taken}

    return sample


def in_one_thread(times: int) -> dict[str, Taken]:
    watch = stopwatch()
    for _ in range(times):
        for _ in range(CALLS):
            cpu_works.fib(FIB)
    return {"call": watch()}


def promises_parallelism(name: str) -> bool:
    return name != "sidecar, threads" or not getattr(sys, "_is_gil_enabled", lambda: True)()


def measure(title: str, samplers: dict[str, Sampler], baselines: dict[str, dict[str, float]], options: Any) -> None:
    """One run, and a table for each baseline: the targets by contestant, of the clock's time."""
    times = options.times
    first = next(iter(baselines))
    opened = Opened(samplers, first, {"call": Measure(title)}, times=times)
    found = interleave(opened, options.rounds, options.slice)["call"]
    for baseline, targets in baselines.items():
        report(Measure(f"{title} (of it: of {baseline})", targets), found, baseline)


def measure_calls(live: dict[str, Contestant], options: Any) -> None:
    engines = [name for name in live if name.startswith("sidecar")]
    if "call" in options.parts:
        samplers = {name: repeated(call, cpu_works.nothing) for name, (_, call) in live.items()}
        baselines = {FORK: dict.fromkeys(engines, 0.4)}
        if INTERPRETERS in live:
            baselines[INTERPRETERS] = {"sidecar, interpreters": 1.0}
        measure("a trivial call, us", samplers, baselines, options)
    if "bytes" in options.parts:
        samplers = {name: repeated(call, cpu_works.measure_length, ARGUMENT) for name, (_, call) in live.items()}
        baselines = {FORK: {}}
        if INTERPRETERS in live:
            baselines[INTERPRETERS] = {}
        measure("an argument of 10 MB of bytes, us", samplers, baselines, options)
    if "fib" in options.parts:
        samplers = {ONE_THREAD: in_one_thread}
        samplers.update((name, at_once(submit)) for name, (submit, _) in live.items())
        targets = {name: round(1 / 1.7, 3) for name in engines if promises_parallelism(name) and CPUS > 1}
        several = argparse.Namespace(rounds=max(3, options.rounds // 4), slice=options.slice, times=1)
        measure(f"{CALLS} x fib({FIB}) on {CPUS} workers, us", samplers, {ONE_THREAD: targets}, several)


# -- start and memory --------------------------------------------------------------


def family() -> list[int]:
    """This process and all that come from it."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [os.getpid()]
    for pid in found:
        found += parents.get(pid, [])
    return found


def memory() -> dict[str, int]:
    """RSS and PSS of the family, in KB."""
    sums = {"Rss": 0, "Pss": 0}
    for pid in family():
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                field, _, value = line.partition(":")
                if field in sums:
                    sums[field] += int(value.split()[0])
    return sums


def start_one(name: str, loky: bool) -> None:
    """In a process of its own: print what the start of so many workers took, as JSON."""
    gc.collect()
    before = memory()
    began = time.perf_counter()
    with contestants(loky)[name](CPUS) as (submit, _):
        submit(cpu_works.nothing).result(SPAWN_SECONDS)
        first = time.perf_counter() - began
        start_all(submit, CPUS)
        gc.collect()
        after = memory()
    print(json.dumps({"first": first, **{field: (after[field] - before[field]) / CPUS for field in after}}))


def measure_start(names: list[str], options: Any) -> None:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(max(3, options.rounds // 8)):
        random.shuffle(names)
        for name in names:
            command = [sys.executable, __file__, "--start", name, *(["--loky"] if options.loky else [])]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                sys.exit(f"cpu_engines.py: {name} did not start:\n{done.stderr}")
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"\nthe start of {CPUS} workers, and what each one has")
    print(f"  {'':41}{'first answer, ms':>17}{'PSS, MB':>9}{'RSS, MB':>9}")
    for name, samples in found.items():
        first, pss, rss = (statistics.median(s[field] for s in samples) for field in ("first", "Pss", "Rss"))
        print(f"  {name:41}{first * 1e3:17.1f}{pss / 1024:9.1f}{rss / 1024:9.1f}", flush=True)


# -- the program -------------------------------------------------------------------

PARTS = ("call", "bytes", "fib", "start")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="rounds of the calls (default: 40)")
    parser.add_argument("--slice", type=float, default=0.05, help="seconds of a sample (default: 0.05)")
    parser.add_argument("--only", action="append", choices=PARTS, help="a part; may be repeated")
    parser.add_argument("--without", action="append", default=[], metavar="NAME", help="leave a contestant out")
    parser.add_argument("--loky", action="store_true", help="loky, too")
    parser.add_argument("--start", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.parts = options.only or PARTS
    options.times = None
    return options


def main() -> None:
    options = parse()
    # On 3.12 and later each fork beside a thread is warned of.
    warnings.simplefilter("ignore", DeprecationWarning)
    if options.start:
        start_one(options.start, options.loky)
        return
    chosen = contestants(options.loky)
    unknown = [name for name in options.without if name not in chosen or name == FORK]
    if unknown:
        sys.exit(f"cpu_engines.py: --without takes one of {', '.join(name for name in chosen if name != FORK)}")
    chosen = {name: make for name, make in chosen.items() if name not in options.without}
    print(f"CPython {platform.python_version()}, {CPUS} processors")
    began = time.perf_counter()
    if set(options.parts) - {"start"}:
        with contextlib.ExitStack() as stack:
            live = {}
            for name, make in chosen.items():
                live[name] = stack.enter_context(make(CPUS))
                start_all(live[name][0], CPUS)
            measure_calls(live, options)
    if "start" in options.parts:
        measure_start(list(chosen), options)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
