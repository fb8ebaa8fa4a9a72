"""What the tests of Celery run: tasks beside those of the example, and a WSGI application that sends them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from urllib.parse import parse_qs

import celery.exceptions
from celery_app import app, total

import sidecar
from sidecar import context
from sidecar.logging import RequestFormatter

FOLDER = os.environ["SIDECAR_TEST_FOLDER"]
HERE: dict[str, int] = {}
app.conf.update(
    worker_hijack_root_logger=False,
    worker_prefetch_multiplier=1,
    task_acks_late=True,
    broker_connection_retry_on_startup=True,
    result_expires=60,
)


def note(name: str, text: str = "") -> None:
    path = os.path.join(FOLDER, name)
    with open(f"{path}.{os.getpid()}.new", "w") as out:
        out.write(text)
    os.rename(out.name, path)


@sidecar.on_worker_start
async def started():
    HERE["started_in"] = os.getpid()


# As a module does that reads its configuration by an async client: the worker's main process has a bridge of its own.
async def nothing():
    await asyncio.sleep(0)


sidecar.run_sync(nothing())
HERE["imported_in"] = os.getpid()


async def inside():
    await asyncio.sleep(0.001)
    return sidecar.current()


def seen():
    request = sidecar.current()
    record = logging.LogRecord("task", logging.INFO, __file__, 1, "told", (), None)
    found = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "started_in": HERE.get("started_in"),
        "imported_in": HERE["imported_in"],
        "log": RequestFormatter("%(request_id)s").format(record),
        "mapping": context.get_request_ctx(),
        "id": request and request.id,
    }
    if request is not None:
        headers = request.headers()
        found.update(
            trace=request.trace_id,
            state=headers.get("tracestate"),
            baggage=headers.get("baggage"),
            left=request.time_left(),
            same=sidecar.run_sync(inside()) is request,
        )
    return found


@app.task
def look():
    return seen()


@app.task
def leave_state():
    """All that a task might leave to the next one."""
    found = seen()
    context.set_request_ctx({"whose": found["id"]})
    sidecar.submit(forever)
    return found


async def forever():
    try:
        await asyncio.sleep(600)
    finally:
        note("ended", sidecar.current().id)


@app.task
def background():
    """Counts the tasks of the bridge, without one of its own."""
    return {**seen(), "tasks": sidecar.get_bridge().stats()["tasks"]}


@app.task(bind=True, max_retries=3)
def again(self, before=()):
    if self.request.retries < 2:
        raise self.retry(args=([*before, seen()],), countdown=0)
    return [*before, seen()]


@app.task(bind=True, autoretry_for=(OSError,), retry_backoff=False, max_retries=2, default_retry_delay=0)
def by_itself(self):
    note(f"try-{self.request.retries}", seen()["id"])
    if self.request.retries < 1:
        raise OSError("once more")
    return seen()


@app.task
def sends_another():
    return {**seen(), "sent": look.delay().id}


@app.task
def fails():
    raise LookupError(seen()["id"])


@app.task(soft_time_limit=1)
def too_long():
    try:
        sidecar.run_sync(asyncio.sleep(60))
    except celery.exceptions.SoftTimeLimitExceeded:
        return {**seen(), "left_in_time": True}


@app.task
def waits():
    """Something that only the bridge's drain ends."""

    async def drained():
        try:
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(0.01)
            note(f"drained-{os.getpid()}")

    sidecar.submit(drained)
    return seen()


def result(sent):
    try:
        return sent.get(timeout=20)
    except LookupError as error:
        return {"error": str(error.args[0])}


def send(name, query):
    count = int(query.get("count", ["1"])[0])
    task = app.tasks[f"celery_served.{name}"]
    sent = [task.delay() for _ in range(count)]
    if name == "too_long" and "late" in query:
        return [one.id for one in sent]
    return [result(one) for one in sent]


def fetch(task_id):
    return result(app.AsyncResult(task_id))


def application(environ, start_response):
    name, query = environ["PATH_INFO"].strip("/"), parse_qs(environ["QUERY_STRING"])
    request = sidecar.current()
    told = {"id": request.id, "trace": request.trace_id}
    if name == "example":
        told["result"] = total.delay(["tea", "bread"]).get(timeout=20)
    elif name == "eager":
        told["result"] = look.apply().get()
    elif name.startswith("fetch/"):
        told["result"] = fetch(name.partition("/")[2])
    elif name != "plain":
        told["result"] = send(name, query)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]
