"""A task that a call leaves behind goes on between calls."""

import asyncio
import time

from sidecar import run_sync

ticks = []


async def tick() -> None:
    while True:
        await asyncio.sleep(0.01)
        ticks.append(1)


async def start() -> asyncio.Task:
    return asyncio.create_task(tick())


task = run_sync(start())
deadline = time.monotonic() + 10
while len(ticks) < 3:  # no call in progress: the bridge's own thread drives
    assert time.monotonic() < deadline
    time.sleep(0.01)

task.get_loop().call_soon_threadsafe(task.cancel)
try:
    run_sync(task)
except asyncio.CancelledError:
    print("cancelled")  # -> cancelled
