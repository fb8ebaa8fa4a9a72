"""How a bridge ends what runs on it."""

from __future__ import annotations

import asyncio
from asyncio.base_events import _run_until_complete_cb  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any

from sidecar._lifespan import Lifespan
from sidecar._pool import WorkerPool
from sidecar._support import name_of

if TYPE_CHECKING:
    from sidecar._bridge import Sidecar

__all__ = ["wind_up"]


class _Ending:
    """A loop at its end, and how long it has.

    What is kept goes after the calls and tasks that may use it, its own tasks (``keeps``) with it.
    """

    def __init__(self, bridge: Sidecar, limit: float) -> None:
        self.bridge = bridge
        loop: Any = asyncio.get_running_loop()
        self.loop = loop
        self.life: Lifespan = loop._lifespan
        self.deadline: float = self.loop.time() + limit
        self.me = asyncio.current_task()

    def left(self, share: float = 1.0) -> float:
        seconds: float = (self.deadline - self.loop.time()) * share
        return max(seconds, 0.01)

    def others(self) -> set[asyncio.Task[Any]]:
        return asyncio.all_tasks(self.loop) - {self.me, self.loop._root}

    def users(self) -> set[asyncio.Task[Any]]:
        others = self.others() - self.entered()
        return others if self.life.is_empty() else {task for task in others if not self.life.keeps(task)}

    def keeps_nothing(self) -> bool:
        return self.life.is_empty() and not self.entered()

    def entered(self) -> set[asyncio.Task[Any]]:
        """The tasks in which ``enter_context`` has entered something; they end when it is left."""
        entries = self.bridge.__dict__.get("_entered", ())
        return {entry.task for entry in entries if not entry.inherited}

    async def finish(self) -> None:
        """Let the tasks come to their own end."""
        if self.users():
            await asyncio.wait(self.users(), timeout=self.left(0.8 if self.keeps_nothing() else 0.6))

    async def cancel_users(self) -> set[asyncio.Task[Any]]:
        """End the calls and tasks; which of them would not."""
        patience = self.loop.time() + self.left(0.9 if self.keeps_nothing() else 0.5)
        # A call that was taken before may not have become a task yet.
        while (self.users() or self.loop._calls > 1) and self.loop.time() < patience:
            for task in self.users():
                task.cancel()
            awaited = self.users() or {asyncio.ensure_future(asyncio.sleep(0.001))}
            await asyncio.wait(awaited, timeout=patience - self.loop.time())
        return self.users()

    async def close_kept(self) -> list[str]:
        """Leave what was entered, then close the resources; what did not end in time, in words."""
        if self.keeps_nothing():
            return []
        late: list[str] = []
        if self.entered():
            from sidecar._wrap_context import leave_all

            late += await leave_all(self.bridge, self.loop.time() + self.left(0.45))
        return late + await self.life.close(self.left(0.8))

    async def cancel_rest(self, stuck: set[asyncio.Task[Any]]) -> None:
        """What the kept things have left behind."""
        rest = self.others() - stuck
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest, timeout=self.left(0.5))

    async def end_root(self) -> None:
        root = self.loop._root
        root.remove_done_callback(_run_until_complete_cb)
        root.cancel()
        await asyncio.wait({root})


async def wind_up(bridge: Sidecar, limit: float, daemon: bool) -> list[str]:
    """On the loop: end everything on it. What would not end, in words."""
    ending = _Ending(bridge, limit)
    loop = ending.loop
    if not daemon:
        await ending.finish()
    loop._refuse_calls()
    stuck = await ending.cancel_users()
    texts = [name_of(task.get_coro()) for task in stuck]
    texts += await ending.close_kept()
    await ending.cancel_rest(stuck)
    await ending.end_root()
    try:
        await asyncio.wait_for(loop.shutdown_asyncgens(), ending.left())
        await asyncio.wait_for(_end_executor(loop), ending.left())
    except asyncio.TimeoutError:
        texts.append("an async generator or a job in the worker pool")
    return texts


async def _end_executor(loop: asyncio.AbstractEventLoop) -> None:
    executor = loop._default_executor  # type: ignore[attr-defined]
    if isinstance(executor, WorkerPool):
        executor.shutdown(wait=False, cancel_futures=True)
    else:
        await loop.shutdown_default_executor()
