"""A WSGI application whose clients go and whose deadlines pass: it notes in files what its threads hear."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import sidecar

FOLDER = Path(os.environ.get("SIDECAR_TEST_FOLDER", "."))
HEADERS = [("Content-Type", "text/plain")]
LONG = 60.0


def note(name: str, text: str = "") -> None:
    """All at once: who waits for the file reads the whole of it."""
    path = FOLDER / f"{name}.new"
    path.write_text(text)
    path.rename(FOLDER / name)


async def wait(name: str) -> None:
    note(f"{name}-begun")
    try:
        await asyncio.sleep(LONG)
    finally:
        note(f"{name}-ended", sidecar.current().id)


async def leave(name: str) -> None:
    task = asyncio.create_task(wait(name))
    await asyncio.sleep(0)
    del task


def listen(call):
    """What it raises, and at which moment the thread hears of it."""
    try:
        return call()
    except BaseException as error:
        note("heard", json.dumps([time.monotonic(), type(error).__name__, os.getpid()]))
        raise


def plain(start_response):
    start_response("200 OK", HEADERS)
    return [b"plain"]


def waiting(start_response):
    listen(lambda: sidecar.run_sync(wait("wait")))
    return plain(start_response)


def caught(start_response):
    try:
        listen(lambda: sidecar.run_sync(wait("wait")))
    except sidecar.ClientDisconnected:
        pass
    try:
        return plain(start_response)
    except sidecar.ClientDisconnected:
        note("refused")
        raise


def leaving(start_response):
    """Both of these run until the response is closed, or the client goes."""
    sidecar.run_sync(leave("task"))
    sidecar.submit(wait, "work")
    while not (FOLDER / "work-begun").exists():
        sidecar.run_sync(asyncio.sleep(0.002))
    return plain(start_response)


def brief(start_response):
    note("brief-begun")
    sidecar.run_sync(asyncio.sleep(0.3))
    return plain(start_response)


def stepwise(start_response):
    start_response("200 OK", HEADERS)
    yield b"one\n"
    listen(lambda: sidecar.run_sync(wait("wait")))
    yield b"never\n"


def late_step(start_response):
    start_response("200 OK", HEADERS)
    sidecar.run_sync(wait("wait"))
    yield b"never\n"


PATHS = {
    "/plain": plain,
    "/wait": waiting,
    "/caught": caught,
    "/leave": leaving,
    "/brief": brief,
    "/steps": stepwise,
    "/late_step": late_step,
}


def app(environ, start_response):
    return PATHS[environ["PATH_INFO"]](start_response)


application = sidecar.WSGIMiddleware(app, **json.loads(os.environ.get("SIDECAR_TEST_OPTIONS", "{}")))

if __name__ == "__main__":
    import sys

    from werkzeug.serving import run_simple

    run_simple(f"unix://{sys.argv[1]}", 0, application, threaded=True)
