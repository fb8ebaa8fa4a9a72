"""Calls from many threads at once, each with its own request id, every answer checked against its caller."""

from __future__ import annotations

import contextvars
import itertools
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import sidecar

THREADS = 8

# What a web framework would set for each request; the coroutine must see its own caller's.
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id")

# Asks the server something about a number, and returns that number as the server gave it back.
Work = Callable[[int], Awaitable[Any]]

# Every call of the process has a number of its own.
numbers = itertools.count(1)


async def _observed(work: Work, number: int) -> tuple[str, Any, str]:
    before = request_id.get()
    answer = await work(number)
    return before, answer, request_id.get()


class Storm:
    """``calls`` calls of ``work`` from each of ``threads`` threads and from the main thread.

    impatient: work that outlives ``timeout``; every ``every``-th call is one, and must time out.
    """

    def __init__(
        self,
        bridge: sidecar.Sidecar,
        work: Work,
        *,
        calls: int,
        threads: int = THREADS,
        impatient: Work | None = None,
        timeout: float = 0.02,
        every: int = 20,
    ) -> None:
        self.bridge = bridge
        self.work = work
        self.calls = calls
        self.threads = threads
        self.impatient = impatient
        self.timeout = timeout
        self.every = every
        self.errors: list[BaseException] = []
        self.answered = self.timed_out = 0
        self.seconds = 0.0
        self.lock = threading.Lock()

    def run(self) -> Storm:
        # The main thread is number 0.
        callers = [threading.Thread(target=self._guarded, args=(n,)) for n in range(1, self.threads + 1)]
        began = time.monotonic()
        for caller in callers:
            caller.start()
        self._guarded(0)
        for caller in callers:
            caller.join(100)
        self.seconds = time.monotonic() - began
        assert not any(caller.is_alive() for caller in callers), "a caller never came back"
        if self.errors:
            raise self.errors[0]
        assert self.answered + self.timed_out == (self.threads + 1) * self.calls
        return self

    def _guarded(self, thread: int) -> None:
        try:
            self._caller(thread)
        except BaseException as error:
            self.errors.append(error)

    def _caller(self, thread: int) -> None:
        answered = timed_out = 0
        for call in range(self.calls):
            if self.errors:
                return
            number = next(numbers)
            id = f"{thread}-{number}"
            request_id.set(id)
            if self.impatient is not None and call % self.every == self.every - 1:
                with pytest.raises(sidecar.CallTimeoutError):
                    self.bridge.run_sync(_observed(self.impatient, number), timeout=self.timeout)
                timed_out += 1
            else:
                seen = self.bridge.run_sync(_observed(self.work, number), timeout=60)
                assert seen == (id, number, id)
                answered += 1
        with self.lock:
            self.answered += answered
            self.timed_out += timed_out


def storm(bridge: sidecar.Sidecar, work: Work, *, alone: int = 100, **options: Any) -> Storm:
    """Many threads at once; then so many calls of the main thread ``alone``, which drives only its own."""
    done = Storm(bridge, work, **options).run()
    alone_too = Storm(bridge, work, calls=alone, threads=0).run()
    done.answered += alone_too.answered
    return done
