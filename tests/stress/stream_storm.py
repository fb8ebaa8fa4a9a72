"""The storm on streams: ``python -m stress.stream_storm SEED SECONDS``.

Threads consume streams of their own, in every way: to the end, left early, closed, with ``send`` and ``throw``,
read ahead, cancelled by others, dropped by other threads and by the garbage collector, cut short by limits; and
each second or so the bridge is shut down under them. In the end every item was seen in its place, every generator
that was begun was closed once, on its loop and in its task, and nothing is left.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import queue
import random
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

from stress import solo
from stress.ledger import Ledger, compare

import sidecar

var: contextvars.ContextVar[object] = contextvars.ContextVar("var")


class Failed(Exception):
    """What a generator raises by its own plan."""


class Told(Exception):
    """What a consumer throws."""


class StreamStorm:
    def __init__(self, seed: int, seconds: float) -> None:
        rng = random.Random(seed)
        self.seed = seed
        self.ledger = Ledger()
        self.until = time.monotonic() + seconds
        self.consumers = (4, 6, 1, 3)[seed % 4]
        self.switch_interval = rng.choice((1e-6, 1e-5, 1e-4))
        self.rngs = [random.Random(rng.random()) for _ in range(self.consumers + 3)]
        self.lock = threading.Lock()
        self.bridge = self.fresh()
        self.hasty = sidecar.Sidecar(name="hasty", timeout=0.002, cleanup_timeout=30)
        self.ways = (self.to_the_end, self.leave, self.close, self.talk, self.litters, self.cut_short)
        self.litter: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.tasks: list[tuple[Any, Any]] = []  # (loop, task) of streams that may be cancelled
        self.shutdowns = 0

    def fresh(self) -> sidecar.Sidecar:
        return sidecar.Sidecar(name="storm", workers=2, shutdown_timeout=30, cleanup_timeout=30)

    def is_over(self) -> bool:
        return time.monotonic() >= self.until or bool(self.ledger.wrong)

    # -- the async side --------------------------------------------------------------

    async def rows(
        self, way: str, rng: random.Random, count: int, naps: tuple[float, ...] = (0, 0, 0.0005)
    ) -> AsyncIterator[Any]:
        """Numbers from 0 on; what is sent comes back with them; cleans up in the task that began it."""
        self.ledger.count("begun", way)
        task, token = asyncio.current_task(), var.set(rng)
        with self.lock:
            self.tasks.append((asyncio.get_running_loop(), task))
            del self.tasks[:-50]
        try:
            got: Any = None
            for number in range(count):
                if rng.random() < 0.3:
                    await asyncio.sleep(rng.choice(naps))
                try:
                    got = yield number, got
                except Told as error:
                    got = error
            if rng.random() < 0.2:
                raise Failed
        finally:
            if rng.random() < 0.5:
                try:
                    await asyncio.sleep(0)
                except asyncio.CancelledError:
                    self.ledger.count("cancelled in its cleanup")
            if asyncio.current_task() is not task or var.get() is not rng:
                self.ledger.report("a cleanup in another task or context")
            var.reset(token)
            self.ledger.count("ended", way)

    # -- consumers -------------------------------------------------------------------

    def consume(self, number: int) -> None:
        rng = self.rngs[number]
        while not self.is_over():
            way = rng.choice(self.ways)
            try:
                way(rng)
                outcome = "done"
            except (Failed, asyncio.CancelledError, sidecar.BridgeClosedError, sidecar.CallTimeoutError) as error:
                outcome = type(error).__name__
            self.ledger.count("outcome", way.__name__, outcome)

    def open(self, way: str, rng: random.Random, prefetch: int | None = None) -> tuple[Any, int]:
        count = rng.choice((0, 1, 5, 40))
        ahead = rng.choice((0, 0, 1, 2, 9)) if prefetch is None else prefetch
        own = random.Random(rng.random())
        return self.bridge.stream(self.rows(way, own, count), prefetch=ahead), count

    def expect(self, item: Any, number: int, got: Any = None) -> None:
        self.ledger.count("items")
        if item[0] != number or item[1] is not got:
            self.ledger.report(f"{item} came when {(number, got)} was due")

    def to_the_end(self, rng: random.Random) -> None:
        stream, count = self.open("to the end", rng)
        number = 0
        for item in stream:
            self.expect(item, number)
            number += 1
        if number != count:
            self.ledger.report(f"{number} items of {count}")

    def leave(self, rng: random.Random) -> None:
        stream, count = self.open("left", rng)
        for number, item in enumerate(stream):
            self.expect(item, number)
            if rng.random() < 0.3:
                break

    def close(self, rng: random.Random) -> None:
        stream, count = self.open("closed", rng)
        with stream:
            for number in range(rng.randint(0, count)):
                self.expect(next(stream), number)
        if next(stream, None) is not None:
            self.ledger.report("an item after close()")

    def talk(self, rng: random.Random) -> None:
        stream, count = self.open("talk", rng, 0)
        if not count:
            return
        self.expect(next(stream), 0)
        for number in range(1, count):
            message: Any = Told() if rng.random() < 0.5 else [number]
            answer = stream.throw(message) if isinstance(message, Told) else stream.send(message)
            self.expect(answer, number, message)

    def cut_short(self, rng: random.Random) -> None:
        """Some of its waits are longer than the limit."""
        own = random.Random(rng.random())
        naps = (0, 0.0005, 0.02)
        stream = self.hasty.stream(self.rows("cut short", own, 5, naps), prefetch=rng.choice((0, 2)))
        try:
            for number, item in enumerate(stream):
                self.expect(item, number)
        except sidecar.CallTimeoutError:
            if next(stream, None) is not None:
                self.ledger.report("an item after a time-out")
            raise

    def litters(self, rng: random.Random) -> None:
        """Begun here, left to another thread or to the garbage collector."""
        cycle = rng.random() < 0.5
        stream, count = self.open("garbage" if cycle else "dropped elsewhere", rng)
        if count:
            self.expect(next(stream), 0)
        holder = [stream]
        if cycle:
            holder.append(holder)
        self.litter.put(holder)

    # -- others ------------------------------------------------------------------------

    def collect(self) -> None:
        rng = self.rngs[self.consumers]
        while not self.is_over() or not self.litter.empty():
            try:
                holder = self.litter.get(timeout=0.01)
            except queue.Empty:
                continue
            del holder
            if rng.random() < 0.1:
                gc.collect()

    def cancel(self) -> None:
        rng = self.rngs[self.consumers + 1]
        while not self.is_over():
            with self.lock:
                chosen = rng.choice(self.tasks) if self.tasks else None
            if chosen is not None:
                loop, task = chosen
                try:
                    loop.call_soon_threadsafe(task.cancel)
                except RuntimeError:
                    pass  # its bridge has ended
            del chosen
            time.sleep(0.002)  # no wait for anything: how often it cancels

    def end_bridges(self) -> None:
        rng = self.rngs[self.consumers + 2]
        while not self.is_over():
            time.sleep(rng.uniform(0.1, 0.6))  # no wait for anything: how long a bridge lives
            old, self.bridge = self.bridge, self.fresh()
            if not old.shutdown():
                self.ledger.report("a shutdown that left something behind")
            self.shutdowns += 1

    # -- all of it -----------------------------------------------------------------------

    def guard(self, function: Any, *arguments: Any) -> None:
        try:
            function(*arguments)
        except BaseException as error:
            self.ledger.report(function.__name__, error)

    def run(self) -> None:
        sys.setswitchinterval(self.switch_interval)
        gc.disable()
        jobs: list[Any] = [(self.consume, i) for i in range(1, self.consumers)]
        jobs += [(self.collect,), (self.cancel,), (self.end_bridges,)]
        threads = [threading.Thread(target=self.guard, args=job, name=job[0].__name__) for job in jobs]
        for thread in threads:
            thread.start()
        self.guard(self.consume, 0)
        for thread in threads:
            thread.join()
        self.tasks.clear()
        gc.collect()
        if not self.bridge.shutdown() or not self.hasty.shutdown():
            self.ledger.report("the last shutdown left something behind")

    def account(self) -> list[str]:
        wrong = self.ledger.wrong
        wrong += compare(self.ledger.totals(), "begun", "ended")
        return wrong

    def plan(self) -> str:
        return f"{self.consumers} consumers, switch every {self.switch_interval * 1e6:g} us"


if __name__ == "__main__":
    sys.exit(solo.main(StreamStorm, Failed, int(sys.argv[1]), float(sys.argv[2])))
