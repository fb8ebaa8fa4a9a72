"""Spools jobs from requests; a job writes down whose it is."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os

import uwsgi

import sidecar

FOLDER = os.environ.get("SIDECAR_TEST_FOLDER", ".")


async def inside():
    await asyncio.sleep(0)
    return sidecar.current()


def job(told):
    name = told.pop(b"name", b"").decode()
    request = sidecar.run_sync(inside())
    found = {"told": sorted(key.decode() for key in told if isinstance(key, bytes))}
    if request is not None:
        headers = request.headers()
        found.update(id=request.id, trace=request.trace_id)
        found.update(baggage=headers.get("baggage"), state=headers.get("tracestate"))
        found.update(same=request is sidecar.current(), left=request.time_left())
    with open(os.path.join(FOLDER, f"job-{name}.new"), "w") as out:
        json.dump(found, out)
    os.rename(out.name, out.name[:-4])
    return uwsgi.SPOOL_OK


uwsgi.spooler = job


def application(environ, start_response):
    name = environ["PATH_INFO"].strip("/")
    if name == "nobodys":
        contextvars.Context().run(uwsgi.spool, {b"name": b"nobodys"})
    elif name != "plain":
        uwsgi.spool({b"name": name.encode(), b"more": b"1"})
    request = sidecar.current()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"id": request.id, "trace": request.trace_id}).encode()]
