"""The time between a worker's being asked to stop and its end.

Its server lets the requests in progress end first. What runs for no request may use that time: it is told by
``stopping()``. Nothing of it is cancelled yet, for a request may need it still; but where the server will wait for
the requests no longer, what is in the background is cancelled before, so that it has time to clean up.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from sidecar import _core
from sidecar._loop import BridgeLoop
from sidecar._support import logger, name_of
from sidecar.errors import BridgeClosedError

__all__ = ["Stopping", "begin", "is_stopping", "stopping"]


class Stopping:
    """Of one bridge's loop. Any thread may tell it; those who wait are told on their own loops, once."""

    def __init__(self) -> None:
        self.is_told = False
        self._lock = threading.Lock()
        self._waiting: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}

    def tell(self) -> bool:
        """True for who was the first."""
        with self._lock:
            first = not self.is_told
            self.is_told = True
            waiting, self._waiting = self._waiting, {}
        for future, loop in waiting.items():
            try:
                loop.call_soon_threadsafe(_wake, future)
            except RuntimeError:
                pass  # a loop that was closed
        return first

    async def wait(self) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self.is_told:
                return
            self._waiting[future] = loop
        try:
            await future
        finally:
            with self._lock:
                self._waiting.pop(future, None)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _present_loop() -> Any:
    """Of this process's own bridge, where that runs."""
    try:
        bridge = _core.get_bridge() if _core._has_default_bridge() else None
        return bridge.get_loop() if bridge is not None and bridge.is_running() else None
    except BridgeClosedError:
        return None


def is_stopping() -> bool:
    """Whether this worker was asked to stop: by uWSGI, gunicorn, or by ``shutdown()`` of its own bridge.

    False where that bridge does not run. A response that would go on for long, as a stream of events does, may end
    by it; else the server waits for it as long as its patience lasts.
    """
    # A bridge at its end is the worker's no more, but what still runs on it asks, too.
    running = asyncio._get_running_loop()
    for loop in (running if isinstance(running, BridgeLoop) else None, _present_loop()):
        if loop is not None and loop._lifespan.stopping.is_told:
            return True
    return False


async def stopping() -> None:
    """Wait until this worker is asked to stop (``is_stopping()``). On any event loop; starts the worker's bridge."""
    await _core.get_bridge().get_loop()._lifespan.stopping.wait()


def begin(seconds: float) -> None:
    """The worker was asked to stop. Then, in so many seconds, cancel what it does in the background; below 0: not
    before its bridge is shut down.
    """
    loop = _present_loop()
    if loop is None or not loop._lifespan.stopping.tell() or seconds < 0:
        return
    loop.call_soon_threadsafe(loop.call_later, seconds, _cancel_background, loop)


def _cancel_background(loop: Any) -> None:
    life = loop._lifespan
    tasks = [task for task in asyncio.all_tasks(loop) if _core._is_background(task) and not life.keeps(task)]
    if tasks:
        names = ", ".join(sorted(name_of(task.get_coro()) for task in tasks[:10]))
        logger.warning(
            "the server's patience ends before its requests do; cancelled in the background: %s%s",
            names,
            f" and {len(tasks) - 10} more" if len(tasks) > 10 else "",
        )
    for task in tasks:
        task.cancel()
