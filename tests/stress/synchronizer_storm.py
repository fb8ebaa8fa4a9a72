"""The storm on a Synchronizer: ``python -m stress.synchronizer_storm SEED SECONDS``.

Threads call its blocking faces and its futures, loops of other threads await the others, and all of them are
cancelled, leave generators early, drop them, while each second or so it is closed under them and starts again. In
the end each call has come to its own result or to one of the errors that it may meet, each body that was begun has
ended in its own task and context, and nothing is left.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import random
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

from stress import solo
from stress.ledger import Ledger, compare

import sidecar
from sidecar.synchronizer import Synchronizer

var: contextvars.ContextVar[object] = contextvars.ContextVar("var")

# What may become of a call when it is cancelled, or its Synchronizer closed.
ENDED = (asyncio.CancelledError, concurrent.futures.CancelledError, sidecar.BridgeClosedError)


class Failed(Exception):
    """What a body raises by its own plan."""


class SynchronizerStorm:
    def __init__(self, seed: int, seconds: float) -> None:
        rng = random.Random(seed)
        self.ledger = Ledger()
        self.until = time.monotonic() + seconds
        self.threads, self.loops = ((4, 1), (1, 3), (3, 2), (0, 4))[seed % 4]
        self.switch_interval = rng.choice((1e-6, 1e-5, 1e-4))
        self.rngs = [random.Random(rng.random()) for _ in range(self.threads + self.loops + 1)]
        self.shutdowns = 0
        self.made = made = Synchronizer(name="storm", finalizer_timeout=30)
        self.work = made.wrap(self._work)
        self.rows = made.wrap(self._rows)
        self.stay = made.wrap(contextlib.asynccontextmanager(self._stay))
        self.thing = made.wrap(Thing)

    def is_over(self) -> bool:
        return time.monotonic() >= self.until or bool(self.ledger.wrong)

    def plan(self) -> str:
        return f"{self.threads} threads, {self.loops} loops, switch every {self.switch_interval * 1e6:g} us"

    # -- the library -----------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def body(self, kind: str) -> AsyncIterator[object]:
        """Begun once, ended once, in the same task and with the caller's own value in its context."""
        task, mine = asyncio.current_task(), var.get()
        self.ledger.count("begun", kind)
        try:
            yield mine
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            if asyncio.current_task() is not task or var.get() is not mine:
                self.ledger.report(f"{kind}: ended in another task or context")
            self.ledger.count("ended", kind)

    async def _work(self, answer: object, naps: int, fails: bool) -> object:
        async with self.body("work") as mine:
            for _ in range(naps):
                await asyncio.sleep(0.0002 * naps)
            if fails:
                raise Failed
            return answer, mine

    async def _rows(self, count: int, fails: bool) -> AsyncIterator[object]:
        async with self.body("rows") as mine:
            for number in range(count):
                if number % 3 == 2:
                    await asyncio.sleep(0)
                yield number, mine
            if fails:
                raise Failed

    async def _stay(self, answer: object) -> AsyncIterator[object]:
        async with self.body("stay") as mine:
            yield answer, mine

    # -- its users -------------------------------------------------------------------

    def expect(self, found: object, wanted: tuple[object, object]) -> None:
        if found != wanted or type(found) is not tuple or found[1] is not wanted[1]:
            self.ledger.report(f"{found} came when {wanted} was due")

    def blocks(self, rng: random.Random, mine: object) -> None:
        way = rng.randrange(6)
        if way == 0:
            self.expect(self.work([7], rng.randrange(3), rng.random() < 0.2), ([7], mine))
        elif way == 1:
            future = self.work.future(8, rng.randrange(4), False)
            if rng.random() < 0.4:
                future.cancel()
            self.expect(future.result(60), (8, mine))
        elif way == 2:
            count = rng.choice((0, 1, 7))
            leaves = rng.random() < 0.5
            for number, item in enumerate(self.rows(count, rng.random() < 0.2)):
                self.expect(item, (number, mine))
                if leaves and rng.random() < 0.4:
                    break
        elif way == 3:
            with self.stay(9) as found:
                self.expect(found, (9, mine))
                if rng.random() < 0.3:
                    raise Failed
        elif way == 4:
            futures = [self.work.future(i, rng.randrange(3), False) for i in range(5)]
            for i, future in enumerate(futures):
                self.expect(future.result(60), (i, mine))
        else:
            thing = self.thing(5)
            if thing.same(thing) is not thing or thing.get() != 5:
                self.ledger.report("not the same proxy")

    async def awaits(self, rng: random.Random, mine: object) -> None:
        way = rng.randrange(5)
        if way == 0:
            self.expect(await self.work.aio([7], rng.randrange(3), rng.random() < 0.2), ([7], mine))
        elif way == 1:
            task = asyncio.ensure_future(self.work.aio(8, rng.randrange(4), False))
            await asyncio.sleep(rng.choice((0, 0, 0.0003)))
            task.cancel()
            self.expect(await task, (8, mine))
        elif way == 2:
            count = rng.choice((0, 1, 7))
            rows = self.rows.aio(count, rng.random() < 0.2)
            leaves = rng.random() < 0.5
            number = 0
            async with contextlib.aclosing(rows) if sys.version_info >= (3, 10) else Closing(rows):
                async for item in rows:
                    self.expect(item, (number, mine))
                    number += 1
                    if leaves and rng.random() < 0.4:
                        break
        elif way == 3:
            async with self.stay(9) as found:
                self.expect(found, (9, mine))
                if rng.random() < 0.3:
                    raise Failed
        else:
            thing = self.thing(5)
            if await thing.same.aio(thing) is not thing or await thing.get.aio() != 5:
                self.ledger.report("not the same proxy")

    def thread(self, number: int) -> None:
        rng = self.rngs[number]
        while not self.is_over():
            mine = object()
            var.set(mine)
            try:
                self.blocks(rng, mine)
                outcome = "done"
            except (Failed, *ENDED) as error:
                outcome = type(error).__name__
            self.ledger.count("outcome", "thread", outcome)

    def loop(self, number: int) -> None:
        rng = self.rngs[number]

        async def user() -> None:
            while not self.is_over():
                mine = object()
                var.set(mine)
                try:
                    await self.awaits(rng, mine)
                    outcome = "done"
                except (Failed, *ENDED) as error:
                    outcome = type(error).__name__
                self.ledger.count("outcome", "loop", outcome)

        async def users() -> None:
            await asyncio.gather(*(user() for _ in range(3)))

        asyncio.run(users())

    def end_it(self, number: int) -> None:
        rng = self.rngs[number]
        while not self.is_over():
            time.sleep(rng.uniform(0.1, 0.6))  # no wait for anything: how long it lives
            self.made.close()
            self.shutdowns += 1

    # -- all of it -------------------------------------------------------------------

    def guard(self, function: Any, number: int) -> None:
        try:
            function(number)
        except BaseException as error:
            self.ledger.report(function.__name__, error)

    def run(self) -> None:
        sys.setswitchinterval(self.switch_interval)
        jobs = [self.thread] * self.threads + [self.loop] * self.loops + [self.end_it]
        threads = [
            threading.Thread(target=self.guard, args=(job, number), name=job.__name__)
            for number, job in enumerate(jobs)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gc.collect()
        self.made.close()

    def account(self) -> list[str]:
        wrong = self.ledger.wrong
        wrong += compare(self.ledger.totals(), "begun", "ended")
        return wrong


class Thing:
    def __init__(self, value: object) -> None:
        self.value = value

    async def same(self, other: Thing) -> Thing:
        assert other is self
        return self

    async def get(self) -> object:
        await asyncio.sleep(0)
        return self.value


class Closing:
    """``contextlib.aclosing``, which is newer than 3.9."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *exc_info: object) -> None:
        await self.generator.aclose()


if __name__ == "__main__":
    sys.exit(solo.main(SynchronizerStorm, Failed, int(sys.argv[1]), float(sys.argv[2])))
