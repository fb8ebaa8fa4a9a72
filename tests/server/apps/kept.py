"""A WSGI application with a resource and worker hooks, which note what happens to them, for each worker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import sidecar

FOLDER = os.environ.get("SIDECAR_TEST_FOLDER", ".")


def note(what: str) -> None:
    with open(os.path.join(FOLDER, f"notes-{os.getpid()}"), "a") as notes:
        notes.write(f"{what}\n")


@sidecar.resource
async def client() -> AsyncIterator[int]:
    note("made")
    yield os.getpid()
    await asyncio.sleep(0.01)
    note("closed")


@sidecar.on_worker_start
async def begin() -> None:
    await asyncio.sleep(0.001)
    note(f"started, request {sidecar.current()}")


@sidecar.on_worker_stop
def end() -> None:
    note(f"stopping, {sidecar.run_sync(asyncio.sleep(0.001, 'served'))}, {client.get() == os.getpid()}")


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(client.get()).encode()]
