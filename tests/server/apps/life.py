"""``checked``, and views for a server to whom something happens while it serves.

Under uWSGI only: its mules and its spooler run functions of this module, too.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import itertools
import json
import os
import time
import urllib.parse
from pathlib import Path

import checked
import uwsgi

import sidecar

FOLDER = Path(os.environ["SIDECAR_TEST_FOLDER"])
HEADERS = [("Content-Type", "application/json")]
SEEN: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="")
grown: list[bytearray] = []


def note(name: str, text: str = "") -> None:
    """All at once: who waits for the file reads the whole of it."""
    path = FOLDER / f"{name}.{os.getpid()}.new"
    path.write_text(text)
    path.rename(FOLDER / name)


def answer(start_response, told) -> list[bytes]:
    body = json.dumps(told).encode()
    start_response("200 OK", [*HEADERS, ("Content-Length", str(len(body)))])
    return [body]


async def look(seconds: float = 0.001) -> list[str]:
    async def child() -> str:
        await asyncio.sleep(0)
        return sidecar.current().id

    before = sidecar.current().id
    task = asyncio.create_task(child())
    await asyncio.sleep(seconds)
    return [before, await task, sidecar.current().id]


def served(environ, start_response, seconds: float = 0.001):
    """What ``flow.py`` asks for: the request's own ids, from everywhere, and its token."""
    token = environ["QUERY_STRING"]
    begun = os.open(FOLDER / f"begun-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(begun, f"{token}\n".encode())
    os.close(begun)
    troubles = [f"leaked from {SEEN.get()}"] if SEEN.get() else []
    SEEN.set(token)
    ids = [*checked.ids_here(environ), *sidecar.run_sync(look(seconds)), sidecar.current().id]
    return answer(start_response, {"ids": ids, "token": token, "pid": os.getpid(), "troubles": troubles})


def slow(environ, start_response):
    """Its worker has a task that only a drain ends, from the first of these on."""
    if not checked.KEPT:
        sidecar.run_sync(checked.leave_behind())
    return served(environ, start_response, 0.05)


async def clean_up_slowly() -> None:
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0.5)


def leave_slow_cleanup(environ, start_response):
    async def leave() -> None:
        checked.KEPT.add(contextvars.Context().run(asyncio.create_task, clean_up_slowly()))
        await asyncio.sleep(0)

    sidecar.run_sync(leave())
    note(f"slow-{os.getpid()}")
    return answer(start_response, {"pid": os.getpid()})


def held(environ, start_response):
    """Waits until it is ended, and leaves the file that its query names, with the worker's pid."""
    note(environ["QUERY_STRING"], str(os.getpid()))
    sidecar.run_sync(asyncio.sleep(3600))
    raise AssertionError("an hour has passed")


def stuck(environ, start_response):
    """As ``held``, where no coroutine waits."""
    note(environ["QUERY_STRING"], str(os.getpid()))
    time.sleep(3600)
    raise AssertionError("an hour has passed")


def stuck_in_native_code(environ, start_response):
    """And never lets go of the GIL."""
    note(environ["QUERY_STRING"], str(os.getpid()))
    collections.deque(itertools.repeat(None), maxlen=0)
    raise AssertionError("there is no end of None")


def grow(environ, start_response):
    """Each page is touched, so that it is resident."""
    grown.append(bytearray(b"x" * 200_000_000))
    return answer(start_response, {"pid": os.getpid()})


# -- mules and the spooler ---------------------------------------------------------


async def work(name: str) -> str:
    await asyncio.sleep(0.002)
    return f"{name} {os.getpid()} {sidecar.current() and sidecar.current().id}"


def on_signal(number: int) -> None:
    note("signalled", sidecar.run_sync(work("mule")))


if uwsgi.opt.get("mule"):
    uwsgi.register_signal(17, "mule1", on_signal)


def signal_mule(environ, start_response):
    uwsgi.signal(17)
    return answer(start_response, {"pid": os.getpid()})


def message_mule(environ, start_response):
    uwsgi.mule_msg(environ["QUERY_STRING"].encode(), 1)
    return answer(start_response, {"pid": os.getpid()})


def spooled(arguments) -> int:
    name = arguments[b"name"].decode()
    note(name, sidecar.run_sync(work(name)))
    return uwsgi.SPOOL_OK


uwsgi.spooler = spooled


def spool(environ, start_response):
    name = urllib.parse.unquote(environ["QUERY_STRING"])
    uwsgi.spool({b"name": name.encode()})
    return answer(start_response, {"pid": os.getpid()})


VIEWS = {
    view.__name__: view
    for view in (
        served,
        slow,
        leave_slow_cleanup,
        held,
        stuck,
        stuck_in_native_code,
        grow,
        signal_mule,
        message_mule,
        spool,
    )
}


def application(environ, start_response):
    view = VIEWS.get(environ["PATH_INFO"].rpartition("/")[2], checked.application)
    return view(environ, start_response)
