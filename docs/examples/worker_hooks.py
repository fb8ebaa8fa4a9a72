"""What a worker does when it begins, and when it ends."""

import asyncio
from collections.abc import AsyncIterator

import sidecar
from sidecar import on_worker_start, on_worker_stop, resource, run_sync

log = []


@resource
async def registry() -> AsyncIterator[set]:
    yield set()
    log.append("registry closed")


@on_worker_start
def register() -> None:
    registry.get().add("this worker")


@on_worker_start
async def warm_up() -> None:
    await asyncio.sleep(0.01)
    log.append("warm")


@on_worker_stop
def deregister() -> None:
    run_sync(asyncio.sleep(0.01))  # calls are still served
    registry.get().remove("this worker")
    log.append("deregistered")


async def task() -> None:
    try:
        await asyncio.sleep(3600)
    finally:
        log.append(f"task cancelled, with {await registry}")


async def first_call() -> asyncio.Task:
    log.append(f"first call, with {await registry}")
    running = asyncio.create_task(task())
    await asyncio.sleep(0)
    return running


kept = run_sync(first_call())
print(log)  # -> ['warm', "first call, with {'this worker'}"]


# A bridge that runs already, as where gunicorn's worker loads the application: at once.
@on_worker_start
def late() -> None:
    print("late")  # -> late


sidecar.shutdown()  # the end of a worker does the same
print(log[2:])  # -> ['deregistered', 'task cancelled, with set()', 'registry closed']
