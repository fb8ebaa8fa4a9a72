"""anyio's blocking portals, by sidecar.compat.anyio; and what one writes without them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import sidecar
from sidecar.compat.anyio.from_thread import start_blocking_portal


async def greet(name: str) -> str:
    await asyncio.sleep(0.001)
    return f"hello {name}"


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[str]:
    yield f"connected to {address}"


async def serve(*, task_status: Any) -> str:
    task_status.started("listening")
    await asyncio.sleep(0.001)
    return "served"


def main() -> None:
    with start_blocking_portal() as portal:
        print(portal.call(greet, "world"))  # -> hello world
        future = portal.start_task_soon(greet, "later")
        print(future.result())  # -> hello later
        task, value = portal.start_task(serve)
        print(value, task.result())  # -> listening served
        with portal.wrap_async_context_manager(connected("db:1")) as connection:
            print(connection)  # -> connected to db:1


main()


# The same without a portal: the process's own bridge, which stays, and no thread in between.
print(sidecar.run_sync(greet("world")))  # -> hello world
print(sidecar.submit(greet, "later").result())  # -> hello later
with sidecar.wrap_context(connected("db:1")) as connection:
    print(connection)  # -> connected to db:1
