"""How a bridge ends what runs on it."""

from __future__ import annotations

import asyncio
from typing import Any

from sidecar._lifespan import Lifespan
from sidecar._pool import WorkerPool
from sidecar._support import name_of

__all__ = ["wind_up"]


class _Ending:
    """A loop at its end, and how long it has.

    What is kept goes after the calls and tasks that may use it, its own tasks (``keeps``) with it.
    """

    def __init__(self, limit: float) -> None:
        loop: Any = asyncio.get_running_loop()
        self.loop = loop
        self.life: Lifespan = loop._lifespan
        self.deadline: float = self.loop.time() + limit
        self.me = asyncio.current_task()

    def left(self, share: float = 1.0) -> float:
        seconds: float = (self.deadline - self.loop.time()) * share
        return max(seconds, 0.01)

    def others(self) -> set[asyncio.Task[Any]]:
        return (asyncio.all_tasks(self.loop) | self.streams()) - {self.me, self.loop._root}

    def streams(self) -> set[asyncio.Task[Any]]:
        """Their tasks, also of those that a garbage collection has just taken out of asyncio's lists."""
        return {task for task in self.loop._stream_tasks() if not task.done()}

    async def await_collection(self) -> None:
        """A collection has the streams that it has found closed, once its finalizers are done.

        Until then it may look at their generators, on another thread. It gets a moment, and no more: this may
        run in one of its finalizers.
        """
        patience = self.loop.time() + min(self.left(), 0.1)
        while self.streams() - asyncio.all_tasks(self.loop) and self.loop.time() < patience:
            await asyncio.sleep(0.001)

    def users(self) -> set[asyncio.Task[Any]]:
        others = self.others()
        return others if self.life.is_empty() else {task for task in others if not self.life.keeps(task)}

    async def finish(self) -> None:
        """Let the tasks, and the pool's jobs, come to their own end."""
        patience = self.loop.time() + self.left(0.8 if self.life.is_empty() else 0.6)
        while (self.users() or self.works()) and self.loop.time() < patience:
            awaited = self.users() or {asyncio.ensure_future(asyncio.sleep(0.002))}
            await asyncio.wait(awaited, timeout=patience - self.loop.time())

    def works(self) -> bool:
        """Whether the pool has something to do."""
        pool = self.loop._default_executor
        return isinstance(pool, WorkerPool) and (pool.queued > 0 or pool.threads > pool.idle)

    async def cancel_users(self) -> set[asyncio.Task[Any]]:
        """End the calls and tasks; which of them would not."""
        patience = self.loop.time() + self.left(0.9 if self.life.is_empty() else 0.5)
        # A call that was taken before may not have become a task yet.
        while (self.users() or self.loop._calls > 1) and self.loop.time() < patience:
            await self.await_collection()
            for task in self.users():
                task.cancel()
            awaited = self.users() or {asyncio.ensure_future(asyncio.sleep(0.001))}
            await asyncio.wait(awaited, timeout=patience - self.loop.time())
        return self.users()

    async def close_kept(self) -> list[str]:
        """What did not end in time, in words."""
        return [] if self.life.is_empty() else await self.life.close(self.left(0.8))

    async def cancel_rest(self, stuck: set[asyncio.Task[Any]]) -> None:
        """What the kept things have left behind."""
        rest = self.others() - stuck
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest, timeout=self.left(0.5))

    async def end_root(self) -> None:
        self.loop._end_root()
        await asyncio.wait({self.loop._root})

    async def end_generators(self) -> None:
        closing = self.loop.shutdown_asyncgens()
        # Without any, which is as good as always, it waits for nothing, and a limit would be a task and a timer.
        await (asyncio.wait_for(closing, self.left()) if self.loop._asyncgens else closing)

    async def end_executor(self) -> None:
        executor = self.loop._default_executor
        if isinstance(executor, WorkerPool):
            executor.shutdown(wait=False, cancel_futures=True)
        else:
            await asyncio.wait_for(self.loop.shutdown_default_executor(), self.left())


async def wind_up(limit: float, daemon: bool) -> list[str]:
    """On the loop: end everything on it. What would not end, in words."""
    ending = _Ending(limit)
    loop = ending.loop
    # This may be the first step, made at once: what was sent before is taken in the next round.
    await asyncio.sleep(0)
    if not daemon:
        await ending.finish()
    loop._refuse_calls()
    stuck = await ending.cancel_users()
    texts = [name_of(task.get_coro()) for task in stuck]
    texts += await ending.close_kept()
    await ending.cancel_rest(stuck)
    await ending.end_root()
    try:
        await ending.end_generators()
        await ending.end_executor()
    except asyncio.TimeoutError:
        texts.append("an async generator or a job in the worker pool")
    return texts
