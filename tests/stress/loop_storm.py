"""The storm on a plain ``sidecar.Loop``: ``python -m stress.loop_storm SEED SECONDS``.

The main thread runs the loop by ``run_forever``, again and again; signals come by ``add_signal_handler``.
Other threads send callbacks, cancel timers, and write to the sockets that the owner watches now and now not.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from typing import Any

from harness import native_threads, open_descriptors, wait_for
from stress.ledger import Ledger

import sidecar


class Timer:
    """A timer, and what has become of it."""

    def __init__(self) -> None:
        self.ran = 0
        self.cancelled = False  # by whoever has asked for it, before it asked
        self.handle: asyncio.TimerHandle | None = None

    def run(self) -> None:
        self.ran += 1


class LoopStorm:
    PAIRS = 6

    def __init__(self, seed: int, seconds: float) -> None:
        rng = random.Random(seed)
        self.seed = seed
        self.ledger = Ledger()
        self.until = time.monotonic() + seconds
        self.loop = sidecar.Loop()
        self.loop.set_exception_handler(
            lambda loop, context: self.ledger.report(str(context), context.get("exception"))
        )
        self.producers = rng.randint(1, 4)
        self.switch_interval = rng.choice((1e-6, 1e-5, 1e-4))
        self.rngs = [random.Random(rng.random()) for _ in range(self.producers + 3)]
        self.sent = [0] * self.producers
        self.received = [0] * self.producers
        self.timers: list[list[Timer]] = [[] for _ in range(self.producers + 1)]
        self.signals = self.handled = self.runs = 0
        self.pairs = [socket.socketpair() for _ in range(self.PAIRS)]
        self.watched = [False] * self.PAIRS
        self.written = [0] * self.PAIRS
        self.read = [0] * self.PAIRS
        self.ends = False
        # Held while the loop stands still: then a foreign thread must not touch its timers, as with
        # asyncio's.
        self.stands = threading.Lock()

    def is_over(self) -> bool:
        return time.monotonic() >= self.until or bool(self.ledger.wrong)

    # -- foreign threads -----------------------------------------------------------

    def produce(self, number: int) -> None:
        rng = self.rngs[number]
        fresh: list[Timer] = []
        while not self.is_over():
            for _ in range(rng.randint(1, 60)):
                self.loop.call_soon_threadsafe(self.receive, number, self.sent[number])
                self.sent[number] += 1
            # Timers of its own, sent to the owner; each is cancelled at once, later, or not at all.
            timer = Timer()
            with self.stands:
                timer.handle = self.loop.call_later(rng.choice((0.0, 0.0005, 0.003)), timer.run)
            self.timers[number].append(timer)
            fresh.append(timer)
            if rng.random() < 0.5:
                self.cancel(fresh.pop(rng.randrange(len(fresh))))
            del fresh[:-20]
            # No more before these have come: else the loop would only ever run these.
            wait_for(lambda: self.received[number] == self.sent[number], "what was sent has run", 60)

    def receive(self, producer: int, number: int) -> None:
        if self.received[producer] != number:
            self.ledger.report(f"producer {producer}: {number} came when {self.received[producer]} was due")
        self.received[producer] += 1

    def cancel(self, timer: Timer) -> None:
        timer.cancelled = True
        assert timer.handle is not None
        with self.stands:
            timer.handle.cancel()
        self.ledger.count("timers", "cancelled")

    def cancel_the_owners(self) -> None:
        """Timers that the owner has made, from here."""
        rng = self.rngs[self.producers]
        seen = 0
        while not self.is_over():
            made = self.timers[self.producers]
            while seen < len(made):
                if rng.random() < 0.5:
                    self.cancel(made[seen])
                seen += 1
            time.sleep(0.0005)  # no wait for anything: how often it looks

    def write(self) -> None:
        rng = self.rngs[self.producers + 1]
        while not self.is_over():
            number = rng.randrange(self.PAIRS)
            try:
                self.written[number] += self.pairs[number][1].send(
                    b"x" * rng.randint(1, 5000), socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                time.sleep(0.0005)

    def send_signals(self) -> None:
        while not self.is_over():
            os.kill(os.getpid(), signal.SIGALRM)
            self.signals += 1
            seen = self.signals
            wait_for(lambda: self.handled == seen, "the signal has been handled", 60)

    # -- the owner -----------------------------------------------------------------

    def handle(self) -> None:
        self.handled += 1

    def take(self, number: int) -> None:
        if not self.watched[number]:
            self.ledger.report(f"socket {number} was read while nobody watched it")
        self.read[number] += len(self.pairs[number][0].recv(1 << 14))

    def watch(self, number: int) -> None:
        self.watched[number] = True
        self.loop.add_reader(self.pairs[number][0], self.take, number)

    def unwatch(self, number: int) -> None:
        self.watched[number] = False
        if not self.loop.remove_reader(self.pairs[number][0]):
            self.ledger.report(f"socket {number} was not watched")

    def turn(self) -> None:
        """The owner's own part, over and over."""
        if self.ends:
            return
        rng = self.rngs[self.producers + 2]
        number = rng.randrange(self.PAIRS)
        (self.unwatch if self.watched[number] else self.watch)(number)
        timer = Timer()
        timer.handle = self.loop.call_later(rng.choice((0.0, 0.0005, 0.002)), timer.run)
        self.timers[self.producers].append(timer)
        if rng.random() < 0.05 or self.is_over():
            self.stands.acquire()
            self.loop.stop()
        self.loop.call_later(rng.choice((0.0, 0.0002)), self.turn)

    def run(self) -> None:
        sys.setswitchinterval(self.switch_interval)
        self.loop.add_signal_handler(signal.SIGALRM, self.handle)
        foreign: list[Any] = [(self.produce, i) for i in range(self.producers)]
        foreign += [(self.cancel_the_owners,), (self.write,), (self.send_signals,)]
        threads = [threading.Thread(target=self.guard, args=job, name=job[0].__name__) for job in foreign]
        for thread in threads:
            thread.start()
        self.loop.call_soon(self.turn)
        while not self.is_over() or any(thread.is_alive() for thread in threads):
            self.runs += 1
            self.loop.run_forever()
            self.loop.call_soon(self.stands.release)
        for thread in threads:
            thread.join()
        self.drain()
        self.loop.remove_signal_handler(signal.SIGALRM)
        self.loop.close()
        for ours, theirs in self.pairs:
            ours.close()
            theirs.close()

    def guard(self, function: Any, *arguments: Any) -> None:
        try:
            function(*arguments)
        except BaseException as error:
            self.ledger.report(function.__name__, error)

    def drain(self) -> None:
        """Until all timers are due and all that was written is read; the owner's turns are over."""

        async def rest() -> None:
            deadline = self.loop.time() + 30
            while self.loop.time() < deadline and not (self.read == self.written and self.is_settled()):
                for number in range(self.PAIRS):
                    if not self.watched[number]:
                        self.watch(number)
                await asyncio.sleep(0.001)

        self.ends = True
        self.loop.run_until_complete(rest())

    def is_settled(self) -> bool:
        return all(timer.ran or timer.cancelled for timers in self.timers for timer in timers)

    def account(self) -> list[str]:
        wrong = self.ledger.wrong
        if self.sent != self.received:
            wrong.append(f"call_soon_threadsafe: sent {self.sent}, ran {self.received}")
        if self.written != self.read:
            wrong.append(f"bytes: written {self.written}, read {self.read}")
        if self.signals != self.handled:
            wrong.append(f"signals: {self.signals}, handled {self.handled}")
        made = [timer for timers in self.timers for timer in timers]
        twice = sum(timer.ran > 1 for timer in made)
        never = sum(not timer.ran and not timer.cancelled for timer in made)
        if twice or never:
            wrong.append(f"of {len(made)} timers {twice} ran twice, {never} neither ran nor were cancelled")
        return wrong


def main(seed: int, seconds: float) -> int:
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # The main thread's signal descriptors are made once and kept.
    loop = sidecar.Loop()
    loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()
    # With the first thread the thread sanitizer starts one of its own, which stays.
    first = threading.Thread(target=int)
    first.start()
    first.join()
    descriptors, threads = len(open_descriptors()), native_threads()
    storm = LoopStorm(seed, seconds)
    storm.run()
    wrong = storm.account()
    made = [timer for timers in storm.timers for timer in timers]
    outcomes = Counter(
        ("ran" if timer.ran else "cancelled") + (" late" if timer.ran and timer.cancelled else "")
        for timer in made
    )
    account = {
        "plan": f"seed {seed}: {storm.producers} producers, switch every {storm.switch_interval * 1e6:g} us",
        "calls": sum(storm.sent) + len(made),
        "outcomes": {"callbacks": sum(storm.received), **{f"timers {key}": n for key, n in outcomes.items()}},
        "bytes": sum(storm.read),
        "runs": storm.runs,
        "forks": 0,
        "signals": storm.signals,
        "wrong": wrong[:20],
    }
    del storm, made
    gc.collect()
    try:
        wait_for(lambda: native_threads() <= threads, "all threads have ended")
        wait_for(lambda: len(open_descriptors()) <= descriptors, "all descriptors are closed", 5)
    except AssertionError as error:
        wrong.append(f"{error}: {threading.enumerate()} {open_descriptors()}")
        account["wrong"] = wrong[:20]
    print(json.dumps(account))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2])))
