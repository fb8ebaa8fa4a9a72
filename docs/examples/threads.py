"""Calls from many threads at once share one loop."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from sidecar import run_sync


async def which_loop() -> int:
    await asyncio.sleep(0.01)
    return id(asyncio.get_running_loop())


with ThreadPoolExecutor(8) as pool:
    loops = set(pool.map(lambda _: run_sync(which_loop()), range(64)))
print("loops:", len(loops))  # -> loops: 1
