"""An application that its server asks to stop while it is busy."""

from __future__ import annotations

import asyncio
import contextvars
import os
import time
from pathlib import Path

import sidecar

FOLDER = Path(os.environ["SIDECAR_TEST_FOLDER"])
HEADERS = [("Content-Type", "text/plain")]
KEPT = set()


def note(name: str, text: str = "") -> None:
    """All at once: who waits for the file reads the whole of it."""
    path = FOLDER / f"{name}.{os.getpid()}.new"
    path.write_text(text)
    path.rename(FOLDER / name)


async def work() -> None:
    """For nobody: its clean-up takes some time."""
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0.3)
        note("cleaned-up", str(time.monotonic()))


async def begin_work() -> None:
    KEPT.add(contextvars.Context().run(asyncio.create_task, work()))
    await asyncio.sleep(0)


def stream(environ, start_response):
    """Would go on for an hour."""
    start_response("200 OK", HEADERS)
    note("streaming")
    while not sidecar.is_stopping():
        yield b"more\n"
        sidecar.run_sync(asyncio.sleep(0.01))
    sidecar.run_sync(asyncio.wait_for(sidecar.stopping(), 5))
    yield b"goodbye\n"


def held(environ, start_response):
    """Longer than its server has patience, in native code that holds no lock."""
    sidecar.run_sync(begin_work())
    note("held", str(os.getpid()))
    time.sleep(3600)


def application(environ, start_response):
    if environ["PATH_INFO"] == "/stream":
        return stream(environ, start_response)
    if environ["PATH_INFO"] == "/held":
        return held(environ, start_response)
    start_response("200 OK", HEADERS)
    return [str(os.getpid()).encode()]
