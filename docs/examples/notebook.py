"""Sync code that is called inside a running loop, as in a notebook's cell. That loop waits meanwhile."""

import asyncio

from sidecar import run_sync


def sync_helper() -> str:
    return run_sync(asyncio.sleep(0.01, "from the bridge's loop"))


async def cell() -> str:
    return sync_helper()


print(asyncio.run(cell()))  # -> from the bridge's loop
