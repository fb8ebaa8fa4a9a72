"""A request's mapping goes along into coroutines, the pool and threads."""

import asyncio

from sidecar import run_sync
from sidecar.anycall import call_any
from sidecar.context import get_request_ctx, request_context, set_request_ctx, spawn_thread_with_ctx

set_request_ctx({"user_id": 42})


def show(where: str) -> None:
    print(f"{where}: {get_request_ctx()['user_id']}")


async def show_in_a_coroutine() -> None:
    await asyncio.sleep(0)
    show("coroutine")


show("outside")  # -> outside: 42
with request_context({"user_id": 99}):
    show("inside")  # -> inside: 99
    run_sync(show_in_a_coroutine())  # -> coroutine: 99
    call_any(show, "pool", timeout=5.0)  # -> pool: 99
    thread = spawn_thread_with_ctx(show, "thread")  # -> thread: 99
    thread.join()
show("outside again")  # -> outside again: 42


async def main() -> None:
    async with request_context({"user_id": 7}):
        await call_any(show, "a task's thread")  # -> a task's thread: 7


asyncio.run(main())
