"""A Flask application whose views look at their request from everywhere they can: a JSON list a line."""

from __future__ import annotations

import asyncio
import json
import os
import threading

import flask
from flask import g, request

import sidecar
from sidecar.flask import Sidecar

app = flask.Flask(__name__)
Sidecar(app)
if os.environ.get("SIDECAR_TEST_TWICE"):
    app.wsgi_app = sidecar.WSGIMiddleware(app.wsgi_app)  # type: ignore[method-assign]

_lock = threading.Lock()
_loops: dict[int, object] = {}
closed: list[str] = []


def ids() -> list[str]:
    return [
        sidecar.current().id,
        g.own,
        request.environ["HTTP_X_REQUEST_ID"],
        request.headers["X-Request-Id"],
        request.environ["sidecar.request"].id,
    ]


async def child(seconds: float) -> list[str]:
    await asyncio.sleep(seconds)
    return ids()


async def work() -> list[str]:
    """Ids from a coroutine that waits, and from tasks of it."""
    seen = ids()
    await asyncio.sleep(0.002)
    seen += ids()
    for more in await asyncio.gather(*(child(at / 1000) for at in range(3))):
        seen += more
    return seen


@app.before_request
async def begin() -> None:
    g.own = sidecar.current().id
    await asyncio.sleep(0)


@app.get("/plain")
def plain():
    return request.environ["HTTP_X_REQUEST_ID"]


@app.get("/sync_view")
def sync_view():
    job = sidecar.submit(ids)
    return json.dumps(ids() + sidecar.run_sync(work()) + job.result())


@app.get("/async_view")
async def async_view():
    return json.dumps(ids() + await work())


@app.get("/stream")
def stream():
    def lines():
        try:
            for _ in range(3):
                yield json.dumps(ids() + sidecar.run_sync(work())) + "\n"
        finally:
            closed.append(sidecar.current().id)

    return flask.Response(flask.stream_with_context(lines()))


@app.get("/async_stream")
async def async_stream():
    async def lines():
        try:
            for _ in range(3):
                yield json.dumps(await work()) + "\n"
        finally:
            closed.append(sidecar.current().id)

    return flask.Response(flask.stream_with_context(sidecar.stream(lines)))


@app.get("/where")
async def where():
    """The loop that an async view runs on."""
    loop = asyncio.get_running_loop()
    with _lock:
        _loops[id(loop)] = loop  # kept: no other loop ever gets its id
    bridge = sidecar.get_bridge().get_loop()
    return {"pid": os.getpid(), "loop": id(loop), "bridge": id(bridge), "loops": len(_loops)}


class _Kept:
    """Made on the loop of the first request, and used by all of them."""

    client = None


@app.get("/kept")
async def kept():
    import httpx

    if _Kept.client is None:
        _Kept.client = httpx.AsyncClient(trust_env=False)
        sidecar.on_worker_stop(_Kept.client.aclose)
    answer = await _Kept.client.get(request.args["url"])
    return answer.text


@app.get("/file")
def file():
    return flask.send_file(__file__)


@app.get("/state")
def state():
    return {"pid": os.getpid(), "closed": closed}
