"""``gather()``: many at once, none left behind."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Coroutine
from typing import Any

from sidecar._support import coroutine_of
from sidecar.errors import CallTimeoutError

__all__ = ["gathered", "within"]


def gathered(aws: tuple[Awaitable[Any], ...], return_exceptions: bool) -> Coroutine[Any, Any, list[Any]]:
    """A coroutine that awaits them all at once. Raises ``TypeError`` for what is none, and closes the others."""
    for aw in aws:
        if not (isinstance(aw, Awaitable) or inspect.isawaitable(aw)):
            for other in aws:
                if inspect.iscoroutine(other):
                    other.close()
            raise TypeError(f"gather() takes awaitables, not {aw!r}")
    coro: Any = _all(aws, return_exceptions)
    coro.__qualname__ = f"gather() of {len(aws)}"
    return coro


async def _all(aws: tuple[Awaitable[Any], ...], return_exceptions: bool) -> list[Any]:
    # Not awaited twice, as asyncio.gather() does.
    tasks = {id(aw): aw if asyncio.isfuture(aw) else asyncio.ensure_future(coroutine_of(aw)) for aw in aws}
    futures = [tasks[id(aw)] for aw in aws]
    try:
        return list(await asyncio.gather(*futures, return_exceptions=return_exceptions))
    except BaseException:
        # The first failure ends it: the others are cancelled, and their cleanup waited for.
        for future in futures:
            future.cancel()
        await asyncio.gather(*futures, return_exceptions=True)
        raise


async def within(coro: Coroutine[Any, Any, list[Any]], timeout: float) -> list[Any]:
    """In a coroutine: ``run_sync``'s rule for time-outs."""
    task = asyncio.ensure_future(coro)
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise
    if not done:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if task.cancelled() or task.exception() is not None:
            cause = None if task.cancelled() else task.exception()
            raise CallTimeoutError(
                f"gather() did not finish within its timeout and was cancelled [{CallTimeoutError.code}]"
            ) from cause
    return task.result()
