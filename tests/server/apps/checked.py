"""The WSGI application that the server tests serve: it looks at its own request from everywhere it can."""

from __future__ import annotations

import asyncio
import contextvars
import io
import json
import os
import sys
import threading
import weakref

import sidecar

LEAK: contextvars.ContextVar[str] = contextvars.ContextVar("leak", default="")

# What cannot be told to the client: seen after the response, or in close(). Read by /troubles.
troubles: list[str] = []
finished_tasks = 0
closed_bodies = 0
lock = threading.Lock()
alive: weakref.WeakSet[Body] = weakref.WeakSet()

FILE = os.path.join(os.environ.get("SIDECAR_TEST_FOLDER", "."), "file.bin")


def ids_here(environ) -> list[str]:
    return [sidecar.current().id, environ["sidecar.request"].id, environ["HTTP_X_REQUEST_ID"]]


async def background(own: str) -> None:
    global finished_tasks
    await asyncio.sleep(0.002)
    with lock:
        finished_tasks += 1
        if sidecar.current().id != own:
            troubles.append(f"a background task of {own} saw {sidecar.current().id}")


async def work(seen: list[str]) -> None:
    async def child() -> str:
        await asyncio.sleep(0)
        return sidecar.current().id

    own = sidecar.current().id
    seen.append(own)
    await asyncio.sleep(0)
    seen.append(sidecar.current().id)
    tasks = [asyncio.create_task(child()) for _ in range(2)]
    await asyncio.sleep(0.001)
    seen.append(sidecar.current().id)
    seen.extend(await asyncio.gather(*tasks))
    KEPT.add(task := asyncio.create_task(background(own)))
    task.add_done_callback(KEPT.discard)


KEPT: set[asyncio.Task[None]] = set()


class Body:
    """Three steps, each with a call of its own, and a close()."""

    def __init__(self, environ, seen: list[str]) -> None:
        self.environ = environ
        self.own = sidecar.current().id
        self.seen = seen
        self.step = 0
        alive.add(self)

    def __iter__(self) -> Body:
        return self

    def __next__(self) -> bytes:
        self.step += 1
        if self.step > 3:
            raise StopIteration
        self.seen += ids_here(self.environ)
        sidecar.run_sync(work(self.seen))
        if LEAK.get() != self.own:
            self.seen.append(f"the context of the body has {LEAK.get()!r}")
        seen, self.seen = self.seen, []
        return json.dumps(seen).encode() + b"\n"

    def close(self) -> None:
        global closed_bodies
        with lock:
            closed_bodies += 1
            if sidecar.current() is None or sidecar.current().id != self.own:
                troubles.append(f"close() of {self.own} saw {sidecar.current()}")


def check(environ, start_response):
    seen = ids_here(environ)
    if LEAK.get():
        seen.append(f"leaked from {LEAK.get()}")
    LEAK.set(sidecar.current().id)
    sidecar.run_sync(work(seen))
    environ["sidecar.request"].run_sync(work(seen))
    seen += ids_here(environ)
    start_response("200 OK", [("Content-Type", "application/json")])
    return Body(environ, seen)


def plain(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [sidecar.current().id.encode()]


def environ_id(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["HTTP_X_REQUEST_ID"].encode()]


def own_header(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("x-REQUEST-id", "mine")])
    return [sidecar.current().id.encode()]


def file(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return environ["wsgi.file_wrapper"](open(FILE, "rb"), 4096)


def file_in_memory(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return environ["wsgi.file_wrapper"](io.BytesIO(b"0123456789"), 4)


def write(environ, start_response):
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"written ")
    return [sidecar.current().id.encode()]


def boom(environ, start_response):
    raise RuntimeError("announced boom")


def boom_later(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"first\n"
    raise RuntimeError("announced boom")


def twice(environ, start_response):
    headers = [("Content-Type", "text/plain"), ("x-request-id", "mine")]
    start_response("200 OK", headers)
    try:
        raise RuntimeError("announced boom")
    except RuntimeError:
        start_response("503 Sorry", headers, sys.exc_info())
    return [sidecar.current().id.encode()]


async def until_cancelled(path: str) -> None:
    """A background task that only a drain ends; it leaves a file that says so."""
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0)
        with open(path, "w") as out:
            out.write(str(os.getpid()))


async def leave_behind() -> None:
    path = os.path.join(os.environ["SIDECAR_TEST_FOLDER"], f"drained-{os.getpid()}")
    # No request's, with which it would end.
    KEPT.add(task := contextvars.Context().run(asyncio.create_task, until_cancelled(path)))
    task.add_done_callback(KEPT.discard)
    await asyncio.sleep(0)


def background_task(environ, start_response):
    sidecar.run_sync(leave_behind())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


def sleep(environ, start_response):
    """Blocks for an hour, and says in a file that it does."""

    async def work() -> None:
        open(os.path.join(os.environ["SIDECAR_TEST_FOLDER"], "asleep"), "w").close()
        await asyncio.sleep(3600)

    try:
        sidecar.run_sync(work())
    except BaseException as error:
        start_response("503 Sorry", [("Content-Type", "text/plain")])
        return [repr(error).encode()]
    raise AssertionError("an hour has passed")


def state(environ, start_response):
    """This worker's troubles so far, and whether its background tasks are all through."""
    start_response("200 OK", [("Content-Type", "application/json")])
    with lock:
        found = {
            "pid": os.getpid(),
            "troubles": troubles[:],
            "tasks": len(KEPT),
            "finished": finished_tasks,
            "closed": closed_bodies,
            "bodies": len(alive),
        }
    return [json.dumps(found).encode()]


def application(environ, start_response):
    view = globals().get(environ["PATH_INFO"].rpartition("/")[2])
    if view is None:
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"no such view"]
    return view(environ, start_response)
