"""The ways from sync to async code that are compared, one class each.

Every one of them keeps what it can keep between calls (a loop, a thread, a wrapper), runs each call in the
caller's context, and gives back the coroutine's result. What each does for a call is in its docstring.

``caller(function)`` is asked in the thread that will call, once; the callable that it gives makes one
coroutine of ``function`` and runs it to its end. ``leave()`` is the end of that thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import asgiref.sync
import synchronicity

import sidecar

AsyncFunction = Callable[[], Coroutine[Any, Any, Any]]
Call = Callable[[], Any]


class Contestant:
    name = ""
    keeps_a_loop = True  # so a connection may live from call to call

    def open(self) -> None:
        """Start what lives as long as the comparison."""

    def close(self) -> None:
        """End it."""

    def caller(self, function: AsyncFunction) -> Call:
        raise NotImplementedError

    def leave(self) -> None:
        """This thread calls no more."""


class RunSync(Contestant):
    """The calling thread drives the bridge's loop; a copy of its context; a pump drives what is left over."""

    name = "sidecar.run_sync"

    def caller(self, function: AsyncFunction) -> Call:
        run_sync = sidecar.run_sync
        return lambda: run_sync(function())

    def close(self) -> None:
        sidecar.shutdown()


class Threadsafe(Contestant):
    """A loop in a thread of its own; each call is sent to it, and its answer waited for. The baseline."""

    name = "run_coroutine_threadsafe"

    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def caller(self, function: AsyncFunction) -> Call:
        send, loop = asyncio.run_coroutine_threadsafe, self.loop
        return lambda: send(function(), loop).result()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


class PrivateLoop(Contestant):
    """A loop for each calling thread, kept. Nothing is shared between threads, nothing runs between calls."""

    name = "run_until_complete, kept loop"

    def __init__(self) -> None:
        self.kept = threading.local()

    def caller(self, function: AsyncFunction) -> Call:
        if not hasattr(self.kept, "loop"):
            self.kept.loop = asyncio.new_event_loop()
        run = self.kept.loop.run_until_complete
        return lambda: run(function())

    def leave(self) -> None:
        if hasattr(self.kept, "loop"):
            self.kept.loop.close()
            del self.kept.loop

    close = leave


class Asgiref(Contestant):
    """A new loop for each call, closed after it; changes of context variables come back to the caller."""

    name = "asgiref.async_to_sync"
    keeps_a_loop = False

    def caller(self, function: AsyncFunction) -> Call:
        return asgiref.sync.async_to_sync(function)


class Synchronicity(Contestant):
    """A loop in a thread of its own, as the baseline; arguments and results are translated."""

    name = "synchronicity"

    def open(self) -> None:
        self.synchronizer = synchronicity.Synchronizer()

    def caller(self, function: AsyncFunction) -> Call:
        call: Call = self.synchronizer.create_blocking(function)
        return call

    def close(self) -> None:
        self.synchronizer._close_loop()  # type: ignore[no-untyped-call]


ALL = (RunSync, Threadsafe, PrivateLoop, Asgiref, Synchronicity)
BASELINE = Threadsafe.name
