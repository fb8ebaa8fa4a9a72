"""What the CPU engines' bench runs in workers. A module of its own: importing it costs a worker nothing."""

from __future__ import annotations

import time


def nothing() -> int:
    return 1


def fib(number: int) -> int:
    return number if number < 2 else fib(number - 1) + fib(number - 2)


def measure_length(data: bytes) -> int:
    return len(data)


def stay(seconds: float) -> int:
    """Long enough for every worker to get one."""
    time.sleep(seconds)
    return 1
