"""What an application may return, for uWSGI's plugin, which sends lists and tuples of bytes itself."""

from __future__ import annotations

import asyncio
import os
import time

import sidecar

FOLDER = os.environ.get("SIDECAR_TEST_FOLDER", ".")


class Closing(list):
    """A list that can be closed, as a subclass may."""

    def close(self) -> None:
        with open(os.path.join(FOLDER, "closed"), "w") as out:
            out.write(sidecar.current().id)


def of_a_list():
    return [b"one ", b"", b"two"]


def of_a_tuple():
    return (b"one ", b"two")


def empty():
    return []


def raw():
    return b"one two"


def closing():
    return Closing([b"one ", b"two"])


def odd():
    """uWSGI passes None over, and logs what it can't send."""
    return [b"one ", None, "not bytes", b"two"]


def gone():
    """Nobody reads it: the client's side of the socket is closed before the second block."""
    with open(os.path.join(FOLDER, "asked"), "w"):
        pass
    deadline = time.monotonic() + 20
    while not os.path.exists(os.path.join(FOLDER, "client-gone")) and time.monotonic() < deadline:
        time.sleep(0.005)
    return [b"x" * 2_000_000] * 4


def trace():
    request = sidecar.current()
    return [f"{request.id} {request.trace_id}".encode()]


async def items():
    yield 1
    yield 2


def calls():
    for _ in range(3):
        sidecar.run_sync(asyncio.sleep(0.02))
    assert list(sidecar.stream(items)) == [1, 2]
    return [sidecar.current().id.encode()]


def application(environ, start_response):
    result = globals()[environ["PATH_INFO"].strip("/")]()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return result
