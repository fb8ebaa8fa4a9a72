"""How a bridge ends what runs on it."""

from __future__ import annotations

import asyncio
from asyncio.base_events import _run_until_complete_cb  # type: ignore[attr-defined]
from typing import Any

from sidecar._pool import WorkerPool
from sidecar._support import name_of

__all__ = ["wind_up"]


async def wind_up(limit: float, daemon: bool) -> list[str]:
    """On the loop: end everything on it. What would not end, in words."""
    loop: Any = asyncio.get_running_loop()
    deadline = loop.time() + limit
    me = asyncio.current_task()

    def left(share: float = 1.0) -> float:
        seconds: float = (deadline - loop.time()) * share
        return max(seconds, 0.01)

    def others() -> set[asyncio.Task[Any]]:
        return asyncio.all_tasks(loop) - {me, loop._root}

    if not daemon and others():
        await asyncio.wait(others(), timeout=left(0.8))
    loop._refuse_calls()
    patience = loop.time() + left(0.9)
    # A call that was taken before may not have become a task yet.
    while (others() or loop._calls > 1) and loop.time() < patience:
        for task in others():
            task.cancel()
        await asyncio.wait(others() or {asyncio.ensure_future(asyncio.sleep(0.001))}, timeout=patience - loop.time())
    stuck = [name_of(task.get_coro()) for task in others()]
    loop._root.remove_done_callback(_run_until_complete_cb)
    loop._root.cancel()
    await asyncio.wait({loop._root})
    try:
        await asyncio.wait_for(loop.shutdown_asyncgens(), left())
        await asyncio.wait_for(_end_executor(loop), left())
    except asyncio.TimeoutError:
        stuck.append("an async generator or a job in the worker pool")
    return stuck


async def _end_executor(loop: asyncio.AbstractEventLoop) -> None:
    executor = loop._default_executor  # type: ignore[attr-defined]
    if isinstance(executor, WorkerPool):
        executor.shutdown(wait=False, cancel_futures=True)
    else:
        await loop.shutdown_default_executor()
