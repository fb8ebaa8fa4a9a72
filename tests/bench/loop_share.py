"""How much of a program's time on asyncio's loop is the loop's own: what a better loop could save.

CPU time is sampled by a signal; a sample is the loop's where the innermost Python frame is the loop's: its
rounds, scheduling, handles, its selector. Callbacks, tasks, futures, transports, protocols are not, nor is what
the kernel does for them. C code counts for the frame that called it: a Task's step counts for ``Handle._run``,
so with bare tasks the share is a little too high.
"""

from __future__ import annotations

import asyncio.base_events
import asyncio.events
import asyncio.selector_events
import selectors
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from loop_cases import spin

LOOPS_OWN = {asyncio.base_events.__file__, asyncio.events.__file__, selectors.__file__}
# The loop's part of a file that holds the transports as well.
LOOPS_METHODS = {"_add_reader", "_remove_reader", "_add_writer", "_remove_writer", "_process_events"}
LOOPS_METHODS |= {
    "add_reader",
    "remove_reader",
    "_write_to_self",
    "_read_from_self",
    "_ensure_fd_no_transport",
}
INTERVAL = 0.002


def share_of(run: Callable[[], Any], seconds: float) -> float:
    """The loop's part of the CPU time while ``run()`` is called again and again."""
    own = total = 0

    def look(_: int, frame: FrameType | None) -> None:
        nonlocal own, total
        if frame is None or frame.f_code in (share_of.__code__, spin.__code__):
            return
        total += 1
        name = frame.f_code.co_filename
        if name in LOOPS_OWN:
            own += 1
        elif name == asyncio.selector_events.__file__:
            own += frame.f_code.co_name in LOOPS_METHODS

    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
    until = time.perf_counter() + seconds
    try:
        while time.perf_counter() < until:
            run()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return own / total if total else 0.0
