"""The child of a fork has a bridge of its own, and sees none of its parent's tasks."""

import asyncio
import os

from sidecar import run_sync


async def where() -> int:
    await asyncio.sleep(0)
    return os.getpid()


assert run_sync(where()) == os.getpid()
child = os.fork()
if child == 0:
    os._exit(0 if run_sync(where()) == os.getpid() else 1)
_, status = os.waitpid(child, 0)
print("child ended with", status)  # -> child ended with 0
