"""An ASGI application that sidecar.serve_asgi serves: it reports what it sees, and writes down how it ends."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import time
from pathlib import Path
from typing import Any

import sidecar

FOLDER = Path(os.environ.get("SIDECAR_TEST_FOLDER", "."))
CROWD = int(os.environ.get("SIDECAR_TEST_CROWD", "8"))

held: contextvars.ContextVar[str] = contextvars.ContextVar("held", default="nothing")
in_the_crowd = 0


def note(name: str, text: str = "") -> None:
    """Whole at once: a test waits for the file."""
    part = FOLDER / f".{name}"
    part.write_text(text)
    part.rename(FOLDER / name)


def current_id() -> str:
    request = sidecar.current()
    return "none" if request is None else request.id


async def all_ids(scope: Any) -> list[str]:
    """As the application, its tasks and its jobs see it."""
    ids = [scope["sidecar.request"].id, current_id()]
    ids += [text.decode() for name, text in scope["headers"] if name == b"x-request-id"]
    assert sidecar.current() is scope["sidecar.request"]

    async def child() -> None:
        ids.append(current_id())
        await asyncio.sleep(0.001)
        ids.append(current_id())

    await asyncio.gather(child(), child())
    ids.append(await sidecar.to_async(current_id)())
    ids.append(await sidecar.to_caller(current_id))
    return ids


async def start(send: Any, status: int = 200, headers: Any = ((b"content-type", b"text/plain"),)) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def part(send: Any, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def finish(send: Any, text: str | bytes = b"") -> None:
    await send({"type": "http.response.body", "body": text.encode() if isinstance(text, str) else text})


async def whole_body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        body += message["body"]
        if not message["more_body"]:
            return body


# -- the pages -------------------------------------------------------------------


async def plain(scope: Any, receive: Any, send: Any) -> None:
    await start(send)
    await finish(send, "plain")


async def scope(scope: Any, receive: Any, send: Any) -> None:
    shown = {key: repr(value) for key, value in sorted(scope.items())}
    await start(send)
    await finish(send, json.dumps(shown))


async def check(scope: Any, receive: Any, send: Any) -> None:
    """A line of ids, then lines of what a streamed body sees."""
    mine = current_id()
    assert held.get() == "nothing", "another request's"
    held.set(mine)
    ids = await all_ids(scope)
    await start(send)
    for _ in range(3):
        await part(send, f"{json.dumps(ids)}\n".encode())
        await asyncio.sleep(0.001)
        assert held.get() == mine
        ids = [current_id()]
    await finish(send, json.dumps(ids))


async def ids(scope: Any, receive: Any, send: Any) -> None:
    found = await all_ids(scope)
    await start(send)
    await finish(send, json.dumps(found))


async def crowd(scope: Any, receive: Any, send: Any) -> None:
    """Answers once so many requests are in progress at the same time."""
    global in_the_crowd
    in_the_crowd += 1
    deadline = time.monotonic() + 30
    while in_the_crowd < CROWD:
        assert time.monotonic() < deadline, f"only {in_the_crowd} came"
        await asyncio.sleep(0.005)
    await start(send)
    await finish(send, json.dumps(await all_ids(scope)))


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body = await whole_body(receive)
    await start(send)
    await finish(send, body)


async def echo_stream(scope: Any, receive: Any, send: Any) -> None:
    """Each part goes out before the next one is read."""
    await start(send)
    sizes = []
    while True:
        message = await receive()
        sizes.append(len(message["body"]))
        await part(send, message["body"])
        if not message["more_body"]:
            break
    await finish(send)
    note("sizes", json.dumps(sizes))


async def events(scope: Any, receive: Any, send: Any) -> None:
    """Each event waits for the file that the client makes once it has seen the one before."""
    await start(send, headers=[(b"content-type", b"text/event-stream")])
    for number in range(3):
        await part(send, f"data: {number}\n\n".encode())
        while not (FOLDER / f"seen-{number}").exists():
            await asyncio.sleep(0.002)
    await finish(send)


async def flood(scope: Any, receive: Any, send: Any) -> None:
    """More than any buffer holds; notes how far it has come."""
    await start(send)
    try:
        for number in range(100_000):
            await part(send, b"x" * 16_384)
            if number % 16 == 0:
                note("flooded", str(number))
    except asyncio.CancelledError:
        note("cancelled", str(number))
        raise
    await finish(send)


async def boom(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0)
    raise LookupError("announced boom")


async def boom_late(scope: Any, receive: Any, send: Any) -> None:
    await start(send, headers=[(b"content-length", b"100")])
    await part(send, b"some")
    await asyncio.sleep(0.01)
    raise LookupError("announced boom")


async def silent(scope: Any, receive: Any, send: Any) -> None:
    pass


async def nothing_to_say(scope: Any, receive: Any, send: Any) -> None:
    await start(send, status=204, headers=[])
    await finish(send)


async def wait(scope: Any, receive: Any, send: Any) -> None:
    """Until it is cancelled; it sees why, and cleans up."""
    note("waiting")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(0.01)
        note("cancelled", json.dumps((await receive())["type"]))
        raise


async def background(scope: Any, receive: Any, send: Any) -> None:
    """Goes on after its response, until the file ``go`` is there."""
    id = current_id()
    await start(send)
    await finish(send, id)
    assert (await receive())["type"] == "http.disconnect"
    ids = [id]
    while not (FOLDER / "go").exists():
        await asyncio.sleep(0.005)

    async def child() -> None:
        await asyncio.sleep(0.01)
        ids.append(current_id())

    await asyncio.gather(child(), child())
    ids.append(await sidecar.to_async(current_id)())
    note("background", json.dumps(ids))


async def background_boom(scope: Any, receive: Any, send: Any) -> None:
    await start(send)
    await finish(send, current_id())
    await asyncio.sleep(0.01)
    raise LookupError("announced boom")


async def drained(scope: Any, receive: Any, send: Any) -> None:
    """Goes on until the lifespan's shutdown would begin: a drain waits for it."""
    await start(send)
    await finish(send, current_id())
    note("left_behind")
    await asyncio.sleep(0.5)
    note("done_after_response", str(stopped))


async def leave(scope: Any, receive: Any, send: Any) -> None:
    """A task left behind when the application returns: it ends with the request."""

    async def forever() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            note("task_cancelled")
            raise

    left.append(asyncio.ensure_future(forever()))
    await asyncio.sleep(0)
    await plain(scope, receive, send)


async def state(scope: Any, receive: Any, send: Any) -> None:
    given = scope["state"]
    shown = {
        "pid": os.getpid(),
        "made_in": given.get("made_in"),
        "bridge": given.get("sidecar") is sidecar.get_bridge(),
        "started": started,
        "copied": "mine" not in given,
    }
    given["mine"] = True
    await start(send)
    await finish(send, json.dumps(shown))


left: list[Any] = []
started = 0
stopped = 0


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    global started, stopped
    assert (await receive())["type"] == "lifespan.startup"
    if os.environ.get("SIDECAR_TEST_STARTUP") == "fails":
        await send({"type": "lifespan.startup.failed", "message": "announced failure"})
        return
    await asyncio.sleep(0.01)
    started += 1
    scope["state"]["made_in"] = os.getpid()
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    stopped += 1
    note(f"stopped-{os.getpid()}")
    await send({"type": "lifespan.shutdown.complete"})


PAGES = {
    f"/{page.__name__}": page
    for page in (
        *(plain, scope, check, ids, crowd, echo, echo_stream, events, flood, boom, boom_late, silent, wait),
        *(nothing_to_say, background, background_boom, drained, leave, state),
    )
}


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    else:
        await PAGES[scope["path"]](scope, receive, send)


async def no_lifespan(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await app(scope, receive, send)


wrapped = sidecar.ASGIMiddleware(app)
