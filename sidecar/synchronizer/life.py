"""The bridge behind a Synchronizer: its start, its end, what a fork leaves of it, and its pump's thread."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sidecar._bridge import Sidecar
from sidecar._support import start_thread

if TYPE_CHECKING:
    from sidecar._loop import BridgeLoop

# How long ``thread`` waits for the pump to tell which thread it is; callers may be driving the loop all that time.
_PUMP_WAIT = 1.0

_lives: weakref.WeakSet[Life] = weakref.WeakSet()


class Life:
    """One bridge after another: each ``close()`` ends one, and the next call makes the next."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._bridge: Sidecar | None = None
        self._pump: tuple[weakref.ref[BridgeLoop], threading.Thread] | None = None
        # Weakly: what belongs to a Synchronizer holds it, and this outlives it.
        self.at_fork: list[weakref.WeakMethod[Callable[[], None]]] = []
        _lives.add(self)

    def bridge(self) -> Sidecar:
        """The present one, which starts with its first call; a new one after ``close()``."""
        bridge = self._bridge
        return self._make() if bridge is None else bridge

    def _make(self) -> Sidecar:
        with self._lock:
            if self._bridge is None:
                self._bridge = Sidecar(name=self._name)
            return self._bridge

    def loop(self) -> BridgeLoop | None:
        bridge = self._bridge
        return bridge.get_loop() if bridge is not None and bridge.is_running() else None

    def is_present(self, bridge: Sidecar) -> bool:
        """Whether it is the one that runs, and was neither closed nor forked."""
        return self._bridge is bridge and bridge.is_running()

    def is_here(self) -> bool:
        """Whether this is code of its loop, and it was not closed."""
        running = asyncio._get_running_loop()
        return running is not None and running is self.loop()

    def thread(self) -> threading.Thread | None:
        """Its pump's, which runs the loop whenever no caller does."""
        loop = self.loop()
        if loop is None:
            return None
        known = self._pump
        if known is None or known[0]() is not loop:
            self._ask_pump(loop)
            known = self._pump
        return None if known is None or known[0]() is not loop else known[1]

    def close(self) -> None:
        with self._lock:
            bridge, self._bridge = self._bridge, None
        if bridge is None:
            return
        try:
            bridge.shutdown()
        except BaseException:
            with self._lock:
                if self._bridge is None:  # DeadlockError: it lives on
                    self._bridge = bridge
            raise

    def drop(self) -> None:
        """Its Synchronizer is gone, on whatever thread, inside anything: end it somewhere else."""
        bridge, self._bridge = self._bridge, None
        if bridge is not None and bridge.is_running():
            start_thread(bridge.shutdown, f"{self._name[:8]}-close")

    def _ask_pump(self, loop: BridgeLoop) -> None:
        """Only the pump itself can tell which thread it is, once no caller drives the loop."""
        told = threading.Event()
        given_up = time.monotonic() + _PUMP_WAIT

        def note() -> None:
            if _is_pump():
                thread = threading.current_thread()
                thread.name = f"{self._name[:10]}-pump"
                self._pump = (weakref.ref(loop), thread)
                told.set()
            elif time.monotonic() < given_up:
                loop.call_later(0.001, note)

        if loop._is_mine():
            given_up = 0.0
            note()
            return
        loop.call_soon_threadsafe(note)
        told.wait(_PUMP_WAIT)

    def after_fork(self) -> None:
        # Another thread may have held it.
        self._lock = threading.Lock()
        self._pump = None
        for method in self.at_fork:
            function = method()
            if function is not None:
                function()


def _is_pump() -> bool:
    """Whether this thread is one: it is named so, and Python knows it by no other object than a stand-in."""
    try:
        with open(f"/proc/self/task/{threading.get_native_id()}/comm") as file:
            return file.read().strip().endswith("-pump")
    except OSError:  # no /proc
        return isinstance(threading.current_thread(), threading._DummyThread)


def _after_fork() -> None:
    for life in list(_lives):
        life.after_fork()


os.register_at_fork(after_in_child=_after_fork)


def drop_with(owner: Any, life: Life) -> None:
    """End the life when its owner goes; not at exit, which ends all bridges in order."""
    weakref.finalize(owner, life.drop).atexit = False
