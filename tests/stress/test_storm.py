"""Everything at once, by fixed seeds and for a fixed time: at the end every call is accounted for.

``SIDECAR_STRESS_SECONDS`` is the time each seed gets (2 by default; contributing.md has the long run).
"""

from __future__ import annotations

import asyncio
import collections
import os
import random
import signal
import threading
import time

import pytest
from harness import wait_for

import sidecar

SECONDS = float(os.environ.get("SIDECAR_STRESS_SECONDS", "2"))


class Storm:
    def __init__(self, seed: int, bridge: sidecar.Sidecar) -> None:
        self.bridge = bridge
        self.seed = seed
        self.until = time.monotonic() + SECONDS
        self.counts: collections.Counter[str] = collections.Counter()
        self.lock = threading.Lock()
        self.sent = self.ran = 0
        self.tasks: list[asyncio.Task[None]] = []

    async def work(self, plan: list[float]) -> int:
        for seconds in plan:
            await asyncio.sleep(seconds)
        return len(plan)

    async def fail(self, plan: list[float]) -> None:
        await self.work(plan)
        raise KeyError(len(plan))

    async def leave_task_behind(self, plan: list[float]) -> None:
        self.tasks.append(asyncio.create_task(self.work(plan)))

    async def cancel_itself(self, plan: list[float]) -> None:
        await self.work(plan)
        asyncio.current_task().cancel()
        await asyncio.sleep(10)

    def bump(self) -> None:
        self.ran += 1

    def one(self, rng: random.Random) -> str:
        plan = [rng.choice([0, 0, 0.0002, 0.001]) for _ in range(rng.randrange(4))]
        kind = rng.randrange(10)
        if kind < 5:
            assert self.bridge.run_sync(self.work(plan)) == len(plan)
            return "answered"
        if kind == 5:
            with pytest.raises(KeyError):
                self.bridge.run_sync(self.fail(plan))
            return "failed"
        if kind == 6:
            with pytest.raises(TimeoutError):
                self.bridge.run_sync(asyncio.sleep(10), timeout=rng.choice([0, 0.0005, 0.002]))
            return "timed out"
        if kind == 7:
            self.bridge.run_sync(self.leave_task_behind(plan))
            return "left a task"
        if kind == 8:
            with pytest.raises(asyncio.CancelledError):
                self.bridge.run_sync(self.cancel_itself(plan))
            return "cancelled"
        loop = self.bridge.get_loop()
        for _ in range(20):
            loop.call_soon_threadsafe(self.bump)
        with self.lock:
            self.sent += 20
        return "sent"

    def caller(self, number: int) -> None:
        rng = random.Random(self.seed * 1000 + number)
        counts: collections.Counter[str] = collections.Counter()
        while time.monotonic() < self.until:
            counts["made"] += 1
            counts[self.one(rng)] += 1
        with self.lock:
            self.counts += counts


def check_child(bridge: sidecar.Sidecar, storm: Storm) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(20)
            os._exit(0 if all(bridge.run_sync(storm.work([0.0, 0.0005])) == 2 for _ in range(3)) else 1)
        finally:
            os._exit(9)
    _, status = os.waitpid(pid, 0)
    assert status == 0


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("threads", [2, 8, 32])
@pytest.mark.parametrize("seed", [1, 2])
def test_every_call_is_accounted_for(seed, threads):
    bridge = sidecar.Sidecar(name="storm")
    storm = Storm(seed, bridge)
    errors: list[BaseException] = []
    hits = []
    before = signal.signal(signal.SIGUSR1, lambda *_: hits.append(1))

    def run(number):
        try:
            storm.caller(number)
        except BaseException as error:
            errors.append(error)
            storm.until = 0

    callers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    try:
        for caller in callers:
            caller.start()
        rng = random.Random(seed)
        counts: collections.Counter[str] = collections.Counter()
        while time.monotonic() < storm.until:
            # The main thread calls too, under signals, and forks.
            os.kill(os.getpid(), signal.SIGUSR1)
            counts["made"] += 1
            counts[storm.one(rng)] += 1
            if rng.randrange(50) == 0:
                check_child(bridge, storm)
    finally:
        for caller in callers:
            caller.join(60)
        signal.signal(signal.SIGUSR1, before)
    assert not any(caller.is_alive() for caller in callers)
    assert not errors, errors
    counts += storm.counts
    made = counts.pop("made")
    assert made == sum(counts.values()) and made > threads
    assert hits
    wait_for(lambda: storm.ran == storm.sent, "every callback sent has run")
    wait_for(lambda: all(task.done() for task in storm.tasks), "every task left behind has ended")
    assert bridge.shutdown()
