"""Does something grow with each repetition? ``python -m leaks.measure MODULE [SCENARIO ...]`` says what.

The measure is the total of all reference counts where the interpreter has it (a debug build), and the number
of allocated blocks of memory everywhere; both see every leaked object, and the first sees a leaked reference
to an object that lives anyway. Descriptors and threads are counted, too.

A scenario runs in batches of equal size. The first ones warm up: caches, free lists, tables that find their
size. Then the growth of each measure is looked at batch by batch, until the last ones show that it is no
steady one:

- references, descriptors, threads: one batch that adds nothing proves that a repetition leaks none of them,
  for what a repetition leaks, every batch leaks. What is over zero in all of the last batches is a leak;
  there is no other tolerance. (A single batch may grow: a table that is resized, an object that CPython keeps
  for later.)
- blocks: the same, but for less than one in ten repetitions. They hold CPython's own free lists, too, and a
  batch may leave these fuller than the one before.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable

Scenario = Callable[[], object]

WARM_UP = 4
LAST = 4
# Batches that are added while the growth has not come to a rest.
MOST = 16


class Scenarios:
    """What a module offers, by name; with it how often it is repeated in a batch."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[Scenario, int]] = {}

    def __call__(self, times: int = 50) -> Callable[[Scenario], Scenario]:
        def keep(scenario: Scenario) -> Scenario:
            self.found[scenario.__name__] = (scenario, times)
            return scenario

        return keep


def _references() -> int:
    return sys.gettotalrefcount()  # type: ignore[attr-defined,no-any-return]


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


MEASURES: dict[str, Callable[[], int]] = {
    "blocks": sys.getallocatedblocks,
    "descriptors": _descriptors,
    "threads": _threads,
}
if hasattr(sys, "gettotalrefcount"):
    MEASURES["references"] = _references


# CPython's cache of attribute lookups keeps the names it was asked for, by their address: each name that
# comes from C as a plain string is a new one, and one more that is kept, until all 4,096 places are taken.
_clear_type_cache: Callable[[], None] = getattr(sys, "_clear_type_cache", lambda: None)


def _read() -> list[int]:
    _clear_type_cache()
    gc.collect()
    return [measure() for measure in MEASURES.values()]


def _read_at_rest(seconds: float = 2.0) -> list[int]:
    """Threads of ours may still be dropping what they used: read until it stands still."""
    deadline = time.monotonic() + seconds
    before = _read()
    same = 0
    while same < 2 and time.monotonic() < deadline:
        time.sleep(0.0005)
        after = _read()
        same = same + 1 if after == before else 0
        before = after
    return before


def growths(scenario: Scenario, times: int) -> dict[str, list[int]]:
    """What each of the last batches added to each measure."""
    found: dict[str, list[int]] = {name: [] for name in MEASURES}
    before = _read_at_rest()
    for batch in range(MOST):
        for _ in range(times):
            scenario()
        after = _read_at_rest()
        for name, old, new in zip(MEASURES, before, after):
            found[name].append(new - old)
        before = after
        if batch >= WARM_UP + LAST - 1 and not leaks(found, times):
            break
    return {name: deltas[-LAST:] for name, deltas in found.items()}


def leaks(found: dict[str, list[int]], times: int) -> dict[str, list[int]]:
    return {
        name: deltas
        for name, deltas in found.items()
        if min(deltas[-LAST:]) > (times // 10 if name == "blocks" else 0)
    }


def main(module: str, names: list[str]) -> int:
    warnings.simplefilter("ignore", DeprecationWarning)  # forks beside threads
    scenarios: Scenarios = importlib.import_module(f"leaks.{module}").scenario
    for name, (scenario, times) in scenarios.found.items():
        if not names or name in names:
            begun = time.monotonic()
            found = growths(scenario, times)
            print(
                json.dumps(
                    {
                        "name": name,
                        "times": times,
                        "leaks": leaks(found, times),
                        "last": found,
                        "seconds": round(time.monotonic() - begun, 2),
                    }
                ),
                flush=True,
            )
    return 0


if __name__ == "__main__":
    from leaks import measure as this

    sys.exit(this.main(sys.argv[1], sys.argv[2:]))
