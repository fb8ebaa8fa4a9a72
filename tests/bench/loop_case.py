"""What a case of the loop's bench is: one program, the same for each loop."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any

Loop = asyncio.AbstractEventLoop
Work = Callable[[int], "Coroutine[Any, Any, float]"]


class Clock:
    """What a sample is timed by; loop.py's --cpu exchanges it."""

    now = staticmethod(time.perf_counter)


def clock() -> float:
    return Clock.now()


def core() -> int:
    """The core that two parties share where each wakes the other.

    On two, waking a core from its sleep costs more than the loop does, and not always the same.
    """
    return min(os.sched_getaffinity(0))


@dataclasses.dataclass
class Program:
    """A case, opened on one loop."""

    sample: Callable[[int], float]  # run so many operations; the seconds they took
    close: Callable[[], None] = lambda: None


@dataclasses.dataclass
class Case:
    name: str
    title: str  # what one operation is
    open: Callable[[Loop], Program]
    informs: bool = False  # no target: not the loop's own merit
    least: int = 5  # operations of a sample
    unit: int = 1  # their number is a multiple of this
    core: int | None = None  # where it must run


def of_coroutine(
    loop: Loop, work: Work, end: Callable[[], Coroutine[Any, Any, None]] | None = None
) -> Program:
    """A program that is a coroutine, which takes the time itself; ``end`` leaves the loop as it was."""

    def sample(times: int) -> float:
        return loop.run_until_complete(work(times))

    def close() -> None:
        if end is not None:
            loop.run_until_complete(end())

    return Program(sample, close)
