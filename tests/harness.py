"""What tests share: waiting for a condition, and counting what a process holds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    """Until ``condition()`` is true; fails, saying ``what`` did not come true, after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.002)


def open_descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    return found


def native_threads() -> int:
    return len(os.listdir("/proc/self/task"))
