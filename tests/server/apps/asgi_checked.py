"""An ASGI application, in the middleware, that reports the ids it sees: on asyncio or Trio."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import sidecar

FOLDER = Path(os.environ.get("SIDECAR_TEST_FOLDER", "."))
CROWD = 200

bridge_of_lifespan: list[object] = []
in_the_crowd = 0


def is_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_run()


async def sleep(seconds: float) -> None:
    if is_trio():
        await sys.modules["trio"].sleep(seconds)
    else:
        await asyncio.sleep(seconds)


async def run_all(*functions: Callable[[], Awaitable[None]]) -> None:
    """Each in a task of its own."""
    if is_trio():
        async with sys.modules["trio"].open_nursery() as nursery:
            for function in functions:
                nursery.start_soon(function)
    else:
        await asyncio.gather(*(asyncio.ensure_future(function()) for function in functions))


def current_id() -> str:
    request = sidecar.current()
    return "none" if request is None else request.id


async def lookup() -> str:
    await asyncio.sleep(0.001)
    return current_id()


async def all_ids(scope: Any) -> list[str]:
    """As the application, its tasks and its jobs see it."""
    ids = [scope["sidecar.request"].id, current_id()]
    ids += [text.decode() for name, text in scope["headers"] if name == b"x-request-id"]

    async def child() -> None:
        ids.append(current_id())
        await sleep(0.001)
        ids.append(current_id())

    await run_all(child, child)
    if not is_trio():
        ids.append(await sidecar.to_async(current_id)())
        ids.append(await sidecar.to_async(lambda: sidecar.run_sync(lookup()))())
    await sleep(0)
    return [*ids, current_id()]


async def start(send: Any, headers: Any = ((b"content-type", b"text/plain"),), status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def finish(send: Any, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode()})


# -- the pages -------------------------------------------------------------------


async def plain(scope: Any, receive: Any, send: Any) -> None:
    await start(send)
    await finish(send, "plain")


async def check(scope: Any, receive: Any, send: Any) -> None:
    """A line of ids, then lines of what a streamed body sees."""
    await receive()
    ids = await all_ids(scope)
    await start(send)
    for _ in range(3):
        await send({"type": "http.response.body", "body": f"{json.dumps(ids)}\n".encode(), "more_body": True})
        await sleep(0.001)
        ids = [current_id()]
    await finish(send, json.dumps(ids))


async def crowd(scope: Any, receive: Any, send: Any) -> None:
    """Answers once so many requests are in progress at the same time."""
    global in_the_crowd
    in_the_crowd += 1
    deadline = time.monotonic() + 60
    ids = [current_id()]
    while in_the_crowd < CROWD:
        assert time.monotonic() < deadline, f"only {in_the_crowd} came"
        await sleep(0.02)
        ids.append(current_id())
    ids += await all_ids(scope)
    await start(send)
    await finish(send, json.dumps(sorted(set(ids))))


async def own_header(scope: Any, receive: Any, send: Any) -> None:
    await start(send, [(b"x-request-id", b"own"), (b"content-type", b"text/plain")])
    await finish(send, current_id())


async def state(scope: Any, receive: Any, send: Any) -> None:
    given = scope.get("state", {}).get("sidecar")
    same = given is sidecar.get_bridge() and bridge_of_lifespan == [given]
    await start(send)
    await finish(send, json.dumps({"bridge": same, "has_state": "state" in scope}))


async def boom(scope: Any, receive: Any, send: Any) -> None:
    await sleep(0)
    raise LookupError("announced boom")


async def wait(scope: Any, receive: Any, send: Any) -> None:
    """Until the client has gone; notes what it saw."""
    (FOLDER / "waiting").touch()
    while (await receive())["type"] != "http.disconnect":
        pass
    same = current_id() == scope["sidecar.request"].id
    (FOLDER / "gone").write_text(json.dumps([receive.disconnected, same]))


async def socket(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        assert message["type"] == "websocket.receive"
        answer = {"echo": message["text"], "ids": await all_ids(scope)}
        await send({"type": "websocket.send", "text": json.dumps(answer)})


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    assert sidecar.current() is None
    if "state" in scope:
        bridge_of_lifespan.append(scope["state"]["sidecar"])
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


PAGES = {f"/{page.__name__}": page for page in (plain, check, crowd, own_header, state, boom, wait)}


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif scope["type"] == "websocket":
        await socket(scope, receive, send)
    else:
        await PAGES[scope["path"]](scope, receive, send)


application = sidecar.ASGIMiddleware(app)
mounted_twice = sidecar.ASGIMiddleware(application)


async def without_lifespan(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] != "lifespan"
    await app(scope, receive, send)


no_lifespan = sidecar.ASGIMiddleware(without_lifespan)
