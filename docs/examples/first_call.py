"""A coroutine from sync code: its result, its exception, a time-out."""

import asyncio

from sidecar import run_sync


async def greet(name: str) -> str:
    await asyncio.sleep(0.01)
    return f"hello {name}"


print(run_sync(greet("world")))  # -> hello world


async def fail() -> None:
    raise LookupError("no such page")


try:
    run_sync(fail())
except LookupError as error:
    print("raised as it was:", error)  # -> raised as it was: no such page

try:
    run_sync(asyncio.sleep(60), timeout=0.05)
except TimeoutError as error:
    print(type(error).__name__, error.code)  # -> CallTimeoutError SC0003
