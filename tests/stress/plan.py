"""What a storm does, decided up front: the same seed makes the same lists of actions."""

from __future__ import annotations

import os
import random
import sysconfig
from dataclasses import dataclass

# How often each kind of call is made (actions.py says what it is); the long ones are rare.
WEIGHTS = {
    "never waits": 14,
    "waits once": 10,
    "sleeps": 12,
    "within a time-out": 4,
    "socket": 8,
    "drops a writer": 4,
    "fails": 6,
    "exits": 2,
    "times out": 6,
    "times out, cleans up": 3,
    "orphan": 2,
    "cancels itself": 4,
    "is cancelled": 4,
    "leaves a task": 6,
    "own tasks": 5,
    "async generator": 4,
    "executor": 5,
    "executor fails": 2,
    "executor calls back": 2,
    "own context": 4,
    "foreign loop": 1,
    "deadlock": 3,
    "other bridge inside": 2,
    "no awaitable": 2,
    "fork": 1,
    "fork inside": 0.4,
}
# What other threads have locked at the moment of a fork stays locked in the child. Without the GIL that may be
# any object (CPython 3.13: with a dict that eight threads write, every third child hangs at its first look at it;
# sys.modules is such a dict). With a sanitizer it is its allocator: tests/sanitize sets the variable.
if sysconfig.get_config_var("Py_GIL_DISABLED") or os.environ.get("SIDECAR_STRESS_FORKS") == "0":
    WEIGHTS.update({"fork": 0, "fork inside": 0})
# Only the main thread makes these: a signal handler may raise in them.
MAIN_WEIGHTS = {**WEIGHTS, "interrupted": 30, "interrupted in a wait": 10}

# Callers beside the main thread. With none of them the main thread drives its own calls; with many it waits.
CREWS = (0, 1, 3, 8, 24)
# As many actions as one round of a caller has; it repeats them until the time is over.
ROUND = 300


@dataclass(frozen=True)
class Action:
    kind: str
    number: int  # what it answers; no other action of the plan has it
    waits: tuple[float, ...]  # seconds
    limit: float  # seconds; for those that time out


@dataclass(frozen=True)
class Side:
    """A bridge beside the storm's own: how many threads call it, and for how long until it is shut down."""

    users: int
    seconds: float
    tasks: int
    closers: int
    default: bool  # the process's own bridge instead of a new one


@dataclass(frozen=True)
class Plan:
    seed: int
    main: tuple[Action, ...]
    callers: tuple[tuple[Action, ...], ...]
    profiled: frozenset[int]  # callers with a profile hook: they drive their own call only
    bursts: tuple[tuple[int, ...], ...]  # of call_soon_threadsafe(), by producer
    sides: tuple[Side, ...]
    signals_every: float
    switch_interval: float

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {len(self.callers)} callers ({len(self.profiled)} profiled), "
            f"{len(self.bursts)} producers, signals every {self.signals_every * 1e3:g} ms, "
            f"switch interval {self.switch_interval * 1e6:g} us"
        )


def _actions(rng: random.Random, weights: dict[str, float], first: int) -> tuple[Action, ...]:
    kinds = rng.choices(list(weights), list(weights.values()), k=ROUND)
    return tuple(
        Action(
            kind,
            first + i,
            tuple(rng.choice((0.0, 0.0, 0.0002, 0.001, 0.003)) for _ in range(rng.randint(1, 4))),
            rng.choice((0.0, 0.0003, 0.002)),
        )
        for i, kind in enumerate(kinds)
    )


def plan(seed: int) -> Plan:
    rng = random.Random(seed)
    crew = CREWS[seed % len(CREWS)]
    return Plan(
        seed=seed,
        main=_actions(rng, MAIN_WEIGHTS, 0),
        callers=tuple(_actions(rng, WEIGHTS, (i + 1) * ROUND) for i in range(crew)),
        profiled=frozenset(i for i in range(crew) if rng.random() < 0.15),
        bursts=tuple(tuple(rng.randint(1, 200) for _ in range(50)) for _ in range(rng.randint(1, 3))),
        sides=tuple(
            Side(
                rng.randint(1, 4),
                rng.uniform(0.0, 0.05),
                rng.randint(0, 5),
                rng.randint(1, 3),
                rng.random() < 0.3,
            )
            for _ in range(20)
        ),
        signals_every=rng.choice((0.0007, 0.002, 0.005)),
        switch_interval=rng.choice((1e-6, 1e-5, 1e-4)),
    )
