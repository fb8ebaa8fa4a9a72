"""The worker pool as ``concurrent.futures`` knows one."""

from __future__ import annotations

import concurrent.futures
import contextvars
from typing import Any, NoReturn

from sidecar import _core
from sidecar._limits import Limit
from sidecar.errors import QueueFull

__all__ = ["PatientPool", "WorkerPool"]


class WorkerPool(_core.Pool, concurrent.futures.Executor):
    """The bridge's threads for blocking functions: a ``concurrent.futures.Executor`` in C."""


class PatientPool(WorkerPool):
    """One whose submitters wait in turn for room in the queue, as those of ``sidecar.limit(wait=)`` do for theirs.

    room: how many jobs may wait for a thread, at least 1.
    wait: seconds that a submitter waits, never beyond the request's deadline; then ``QueueFull``.

    ``call()`` waits without holding up its loop. Where nothing can wait, in ``run_in()`` and on a thread that runs
    an event loop, a full queue is ``QueueFull`` at once.
    """

    _room: _Room

    def __new__(cls, workers: int, name: str, room: int, wait: float) -> PatientPool:
        places = _core.Places(name, room)
        self = super().__new__(cls, workers, name, room, places)
        self._room = _Room(places, wait)
        return self

    @property
    def refused(self) -> int:
        """How many jobs there was no room for, so far."""
        return super().refused + self._room.refused

    def _wait_for_room(self) -> None:
        """Called by C where no place is free: it has one after this."""
        self._room._wait_in_thread()

    def call(self, context: contextvars.Context | None, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """As ``Pool.call``, once there is room."""
        if not callable(fn):
            raise TypeError(f"a function to run on the pool must be callable, not {fn!r}")
        coro: Any = self._call_in_turn(context, fn, args, kwargs)
        coro.__qualname__ = getattr(fn, "__qualname__", None) or repr(fn)
        return coro

    async def _call_in_turn(
        self, context: contextvars.Context | None, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not self._room._places.take():
            await self._room._wait_in_loop()
        return await self.call_placed(context, fn, *args, **kwargs)


class _Room(Limit):
    """The places of a pool's queue. A job gives its place back when a thread begins it."""

    __slots__ = ()

    def _refuse(self, seconds: float = 0.0) -> NoReturn:
        self._places.refuse()
        late = f", and none of them was begun within {seconds:.3g} s" if seconds else ""
        raise QueueFull(
            f"pool {self.name!r} is full: {self.max} jobs wait for its threads, as many as may (max_queue){late} "
            f"[{QueueFull.code}]",
            limit="max_queue",
        )
