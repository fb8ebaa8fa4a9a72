"""Functions sent from async code to a pool of threads, and back to the caller's thread; and ``submit``.

All pools are of one size. The function does nothing: what is measured is the way there and back.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import itertools
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import asgiref.sync
from bridge_case import Case, Measure, Opened, Sampler, Taken, stopwatch
from bridge_streams import LoopThread, hops, number, on_thread

import sidecar
from sidecar._core import to_caller

WORKERS = min(32, (os.cpu_count() or 1) + 4)
AT_ONCE = 1000
SUBMITTED = 10_000

Start = Callable[[], "Awaitable[int]"]
Run = Callable[["Coroutine[Any, Any, Taken]"], Taken]
Program = Callable[[Start, int], "Coroutine[Any, Any, Taken]"]


def work() -> int:
    return 1


# -- to_async -----------------------------------------------------------------


async def one_by_one(start: Start, times: int) -> Taken:
    again = range(times)
    watch = stopwatch()
    for _ in again:
        await start()
    return watch()


async def at_once(start: Start, times: int) -> Taken:
    watch = stopwatch()
    for _ in range(times // AT_ONCE):
        answers = await asyncio.gather(*[start() for _ in range(AT_ONCE)])
    taken = watch()
    if answers != [1] * AT_ONCE:
        raise AssertionError(f"{AT_ONCE} calls answered {answers}")
    return taken


def in_executor(pool: concurrent.futures.Executor) -> Start:
    return lambda: asyncio.get_running_loop().run_in_executor(pool, work)


def in_coroutine(start: Start) -> Start:
    """What gather() makes a task of, as it does of to_async()'s."""

    async def call() -> int:
        return await start()

    return call


def in_context(pool: concurrent.futures.Executor) -> Start:
    """With the guarantee of to_async(): a copy of the caller's context."""

    def start() -> Awaitable[int]:
        run = contextvars.copy_context().run
        return asyncio.get_running_loop().run_in_executor(pool, run, work)

    return start


def sampler_of(run: Run, program: Program, start: Start) -> Sampler:
    return lambda times: {"call": run(program(start, times))}


EXECUTOR = "run_in_executor"


@contextlib.contextmanager
def opened_calls(program: Program, on_bridge: bool) -> Iterator[Opened]:
    bridge = sidecar.Sidecar(workers=WORKERS)
    loop = asyncio.new_event_loop()
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        loop.set_default_executor(pool)
        run: Run = bridge.run_sync if on_bridge else loop.run_until_complete
        by_asgiref = asgiref.sync.sync_to_async(work, thread_sensitive=False, executor=pool)
        starts: dict[str, Start] = {
            "sidecar to_async": sidecar.to_async(work, bridge=bridge),
            "sidecar's pool, without to_async's face": lambda: bridge._on_pool(None, work),
            EXECUTOR: in_executor(pool),
            "run_in_executor, in a coroutine": in_coroutine(in_executor(pool)),
            "run_in_executor, in a context": in_context(pool),
            # The bridge's loop has the bridge's pool as its default one.
            "asyncio.to_thread": lambda: asyncio.to_thread(work),
            "asgiref.sync_to_async": lambda: by_asgiref(),
        }
        samplers = {name: sampler_of(run, program, start) for name, start in starts.items()}
        if on_bridge:
            samplers["run_in_executor, on asyncio's loop"] = sampler_of(
                loop.run_until_complete, program, starts[EXECUTOR]
            )
        how = "one at a time" if program is one_by_one else f"{AT_ONCE:,} at once"
        where = "the bridge's loop" if on_bridge else "asyncio's loop"
        title = f"to_async, {how}, in {where}, us a call (of it: of run_in_executor)"
        measures = {"call": Measure(title, {"sidecar to_async": 0.5})}
        yield Opened(samplers, EXECUTOR, measures, unit=1 if program is one_by_one else AT_ONCE)
    loop.close()
    bridge.shutdown()


# -- submit -------------------------------------------------------------------

Submit = Callable[[Callable[[], None]], "concurrent.futures.Future[None]"]


def submitted(submit: Submit) -> Sampler:
    """The time until all submits have returned, and until all jobs have run."""

    def sample(times: int) -> dict[str, Taken]:
        over = threading.Event()
        # next() of it is one step, whoever asks.
        numbers = itertools.count(1)

        def job() -> None:
            if next(numbers) == times:
                over.set()

        again = range(times)
        watch = stopwatch()
        futures = [submit(job) for _ in again]
        returned = watch()
        over.wait()
        done = watch()
        for future in futures:
            future.result()
        return {"return": returned, "done": done}

    return sample


@contextlib.contextmanager
def opened_submit() -> Iterator[Opened]:
    bridge = sidecar.Sidecar(workers=WORKERS)
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        samplers = {
            "sidecar submit": submitted(bridge.submit),
            "ThreadPoolExecutor.submit": submitted(pool.submit),
            "ThreadPoolExecutor.submit, in a context": submitted(
                lambda job: pool.submit(contextvars.copy_context().run, job)
            ),
        }
        title = f"submit of {SUBMITTED:,} functions, us each, until"
        of_it = "(of it: of ThreadPoolExecutor.submit)"
        measures = {
            "return": Measure(f"{title} submit has returned {of_it}", {"sidecar submit": 0.5}),
            "done": Measure(f"{title} all have run {of_it}", {"sidecar submit": 0.5}),
        }
        yield Opened(samplers, "ThreadPoolExecutor.submit", measures, times=SUBMITTED)
    bridge.shutdown()


# -- to_caller ----------------------------------------------------------------


@contextlib.contextmanager
def opened_caller(other_thread: bool) -> Iterator[Opened]:
    """There and back, from a coroutine to the thread that waits for it."""
    bridge = sidecar.Sidecar()
    background = LoopThread()
    # thread_sensitive: on the thread that waits in async_to_sync().
    to_waiting = asgiref.sync.sync_to_async(work, thread_sensitive=True)

    def by_asgiref(times: int) -> dict[str, Taken]:
        return {"item": asgiref.sync.async_to_sync(one_by_one)(lambda: to_waiting(), times)}

    hop = "a hop (run_coroutine_threadsafe)"
    samplers: dict[str, Sampler] = {
        "sidecar to_caller": lambda times: {
            "item": bridge.run_sync(one_by_one(lambda: to_caller(work), times))
        },
        hop: hops(background.loop, number),
        "asgiref.sync_to_async, thread_sensitive": by_asgiref,
    }
    where = "another thread" if other_thread else "the main thread"
    title = f"to_caller, there and back, to {where}, us a call (of it: of a hop)"
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        if other_thread:
            samplers = {name: on_thread(sampler, thread) for name, sampler in samplers.items()}
        yield Opened(samplers, hop, {"item": Measure(title)})
    background.close()
    bridge.shutdown()


CASES = (
    Case("to_async", "one at a time, asyncio's loop", lambda: opened_calls(one_by_one, False)),
    Case("to_async-bridge", "one at a time, the bridge's loop", lambda: opened_calls(one_by_one, True)),
    Case("to_async-1000", "1,000 at once, asyncio's loop", lambda: opened_calls(at_once, False)),
    Case("to_async-1000-bridge", "1,000 at once, the bridge's loop", lambda: opened_calls(at_once, True)),
    Case("submit", f"{SUBMITTED:,} functions", opened_submit, rounds=0.5),
    Case("to_caller", "there and back, the main thread", lambda: opened_caller(False)),
    Case("to_caller-thread", "there and back, another thread", lambda: opened_caller(True)),
)
