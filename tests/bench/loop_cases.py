"""The cases without transports: callbacks, tasks, timers, descriptors."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from loop_case import Case, Loop, Program, clock, core, of_coroutine

CROWD = 100
BATCH = 1000
PENDING = 10_000


def countdown(loop: Loop, times: int) -> tuple[asyncio.Future[None], Callable[[], bool]]:
    """A future, and what counts down to its end: False at the last."""
    over = loop.create_future()
    left = times

    def count() -> bool:
        nonlocal left
        left -= 1
        if left > 0:
            return True
        if not over.done():
            over.set_result(None)
        return False

    return over, count


def timed(loop: Loop, over: asyncio.Future[None]) -> float:
    began = clock()
    loop.run_until_complete(over)
    return clock() - began


# -- callbacks ----------------------------------------------------------------


def soon_chain(loop: Loop) -> Program:
    def sample(times: int) -> float:
        over, count = countdown(loop, times)
        call_soon = loop.call_soon

        def step() -> None:
            if count():
                call_soon(step)

        call_soon(step)
        return timed(loop, over)

    return Program(sample)


def soon_crowd(loop: Loop) -> Program:
    def sample(times: int) -> float:
        over, count = countdown(loop, times)
        call_soon = loop.call_soon

        def first() -> None:
            for _ in range(CROWD - 1):
                call_soon(count)
            if count():
                call_soon(first)

        call_soon(first)
        return timed(loop, over)

    return Program(sample)


class Sender:
    """A thread that sends callbacks to the loop; it lives as long as the program."""

    def __init__(self, send: Callable[[int, Callable[[], Any]], None]) -> None:
        self.send = send
        self.go = threading.Semaphore(0)
        self.job: tuple[int, Callable[[], Any]] | None = None
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self) -> None:
        while True:
            self.go.acquire()
            if self.job is None:
                return
            self.send(*self.job)

    def start(self, times: int, callback: Callable[[], Any]) -> None:
        self.job = (times, callback)
        self.go.release()

    def close(self) -> None:
        self.job = None
        self.go.release()
        self.thread.join()


def threadsafe(loop: Loop) -> Program:
    def send(times: int, callback: Callable[[], Any]) -> None:
        call = loop.call_soon_threadsafe
        for _ in range(times):
            call(callback)

    sender = Sender(send)

    def sample(times: int) -> float:
        over, count = countdown(loop, times)
        loop.call_soon(sender.start, times, count)
        return timed(loop, over)

    return Program(sample, sender.close)


def threadsafe_answered(loop: Loop) -> Program:
    answered = threading.Semaphore(0)

    def send(times: int, callback: Callable[[], Any]) -> None:
        for _ in range(times):
            loop.call_soon_threadsafe(callback)
            answered.acquire()

    sender = Sender(send)

    def sample(times: int) -> float:
        over, count = countdown(loop, times)

        def answer() -> None:
            count()
            answered.release()

        loop.call_soon(sender.start, times, answer)
        return timed(loop, over)

    return Program(sample, sender.close)


async def nothing() -> None:
    pass


def run_until_complete(loop: Loop) -> Program:
    def sample(times: int) -> float:
        began = clock()
        for _ in range(times):
            loop.run_until_complete(nothing())
        return clock() - began

    return Program(sample)


# -- tasks --------------------------------------------------------------------


def sleep_zero(loop: Loop) -> Program:
    async def work(times: int) -> float:
        sleep = asyncio.sleep
        began = clock()
        for _ in range(times):
            await sleep(0)
        return clock() - began

    return of_coroutine(loop, work)


def task(loop: Loop) -> Program:
    async def work(times: int) -> float:
        create_task = loop.create_task
        began = clock()
        for _ in range(times):
            await create_task(nothing())
        return clock() - began

    return of_coroutine(loop, work)


def future(loop: Loop) -> Program:
    async def work(times: int) -> float:
        began = clock()
        for _ in range(times):
            waited = loop.create_future()
            loop.call_soon(waited.set_result, None)
            await waited
        return clock() - began

    return of_coroutine(loop, work)


def gather(loop: Loop) -> Program:
    async def once() -> None:
        await asyncio.sleep(0)

    async def work(times: int) -> float:
        began = clock()
        for _ in range(times):
            await asyncio.gather(*[once() for _ in range(CROWD)])
        return clock() - began

    return of_coroutine(loop, work)


# -- timers -------------------------------------------------------------------


def later_chain(loop: Loop) -> Program:
    def sample(times: int) -> float:
        over, count = countdown(loop, times)
        call_later = loop.call_later

        def step() -> None:
            if count():
                call_later(0, step)

        call_later(0, step)
        return timed(loop, over)

    return Program(sample)


def spin(until: float) -> None:
    """Not the program's own: loop_share.py leaves it out."""
    while time.perf_counter() < until:
        pass


def later_crowd(loop: Loop) -> Program:
    """Timers in no order. The time until all are due is spun away, and is not counted."""
    delays = [0.002 + (7 * each % BATCH) * 1e-6 for each in range(BATCH)]

    async def batch() -> float:
        over, count = countdown(loop, BATCH)
        call_later = loop.call_later
        began = clock()
        for delay in delays:
            call_later(delay, count)
        due = time.perf_counter() + 0.005
        counted = clock() - began
        spin(due)
        began = clock()
        await over
        return counted + clock() - began

    async def work(times: int) -> float:
        return sum([await batch() for _ in range(times // BATCH)])

    return of_coroutine(loop, work)


def later_cancelled(loop: Loop) -> Program:
    """What a time-out costs that is not hit."""
    kept = [loop.call_later(1000 + each % 977, nothing) for each in range(PENDING)]

    async def work(times: int) -> float:
        call_later = loop.call_later
        began = clock()
        for done in range(times):
            call_later(1000 + done % 977, nothing).cancel()
            if done % CROWD == 0:
                await asyncio.sleep(0)  # asyncio sweeps in its rounds
        return clock() - began

    program = of_coroutine(loop, work)

    def close() -> None:
        for each in kept:
            each.cancel()
        loop.run_until_complete(asyncio.sleep(0))

    return Program(program.sample, close)


def sleep_overshoot(loop: Loop) -> Program:
    async def work(times: int) -> float:
        late = 0.0
        for _ in range(times):
            until = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            late += time.perf_counter() - until
        return late

    return of_coroutine(loop, work)


# -- descriptors --------------------------------------------------------------


def reader_cycle(loop: Loop) -> Program:
    ours, theirs = socket.socketpair()
    fd = ours.fileno()

    def sample(times: int) -> float:
        began = clock()
        for _ in range(times):
            loop.add_reader(fd, nothing)
            loop.remove_reader(fd)
        return clock() - began

    def close() -> None:
        ours.close()
        theirs.close()

    return Program(sample, close)


def reader_event(loop: Loop) -> Program:
    """A pipe to itself: one write, one event, one read."""
    reading, writing = os.pipe()

    def sample(times: int) -> float:
        over, count = countdown(loop, times)

        def ready() -> None:
            os.read(reading, 1)
            if count():
                os.write(writing, b"x")

        loop.add_reader(reading, ready)
        os.write(writing, b"x")
        seconds = timed(loop, over)
        loop.remove_reader(reading)
        return seconds

    def close() -> None:
        os.close(reading)
        os.close(writing)

    return Program(sample, close)


CASES = (
    Case("soon-chain", "call_soon, by the callback itself", soon_chain),
    Case("soon-100", "call_soon, 100 at once, each", soon_crowd, least=CROWD),
    Case("threadsafe", "call_soon_threadsafe, a burst, each", threadsafe, least=CROWD),
    # Two thread switches, of which the interpreter's lock decides most.
    Case(
        "threadsafe-wake",
        "call_soon_threadsafe, and an answer",
        threadsafe_answered,
        informs=True,
        core=core(),
    ),
    Case("run", "run_until_complete, never waits", run_until_complete),
    Case("sleep0", "await sleep(0)", sleep_zero),
    Case("task", "await create_task(never waits)", task),
    Case("future", "call_soon(future.set_result), await", future),
    Case("gather-100", "gather of 100 that wait once", gather),
    Case("later-chain", "call_later(0), by the callback itself", later_chain),
    Case("later-1000", "call_later, 1,000 due at once, each", later_crowd, least=BATCH, unit=BATCH),
    Case("later-cancel", "call_later, cancel; 10,000 pending", later_cancelled, least=CROWD),
    Case("sleep-late", "sleep(1 ms): by how much too late", sleep_overshoot, informs=True),
    Case("reader", "add_reader and remove_reader", reader_cycle),
    Case("reader-event", "a pipe: write, event, read", reader_event),
)
