"""Requests that never end, each in a way of its own."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time

import sidecar

FOLDER = os.environ.get("SIDECAR_TEST_FOLDER", ".")


def note() -> None:
    with open(os.path.join(FOLDER, "stuck"), "a") as out:
        out.write(sidecar.current().id + "\n")


async def inner() -> None:
    await asyncio.sleep(3600)  # marker: awaits


async def fetch() -> None:
    await inner()


async def items():
    yield 1
    await inner()


def in_a_call():
    note()
    sidecar.run_sync(fetch())  # marker: in_a_call


def in_a_stream():
    note()
    for _ in sidecar.stream(items):  # marker: in_a_stream
        pass


def in_python():
    note()
    while True:
        time.sleep(0.01)  # marker: in_python


def in_native_code():
    """With the GIL held, for good."""
    note()
    ctypes.PyDLL(None).sleep(3600)  # marker: in_native_code


async def never_lets_go() -> None:
    await asyncio.sleep(0.05)
    ctypes.PyDLL(None).sleep(3600)  # marker: in_a_callback


def in_a_callback():
    """The call holds the GIL, some while after it has begun to wait."""
    note()
    sidecar.run_sync(never_lets_go())


def application(environ, start_response):
    view = globals().get(environ["PATH_INFO"].partition("\n")[0].strip("/"))
    if view is not None:
        view()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [sidecar.current().id.encode()]
