"""Views whose ``run_cpu`` goes to a cluster of Dask's, by the configuration or by an executor of one's own."""

from __future__ import annotations

import functools
import json
import os
import threading
from urllib.parse import parse_qs

import dask_far

import sidecar

FOLDER = os.environ["SIDECAR_TEST_FARM"]
HEADERS = [("Content-Type", "application/json")]
lock = threading.Lock()


@functools.cache
def own_bridge():
    """With an executor that the application has made: in the worker, not before the fork."""
    from distributed import Client

    client = Client(os.environ["OWN_SCHEDULER"], set_as_default=False)
    return sidecar.Sidecar(cpu=client.get_executor(), cpu_workers=2, name="own")


def bridge_of(query):
    with lock:
        return own_bridge() if "own" in query else sidecar.get_bridge()


def plain(query):
    stats = bridge_of(query).stats()
    return {"pid": os.getpid(), "cpu": stats["cpu"], "reason": stats["cpu_reason"]}


def squares(query):
    first, count = int(query["first"][0]), int(query["count"][0])
    square = functools.partial(dask_far.square, FOLDER)
    found = list(bridge_of(query).map(square, range(first, first + count)))
    return {"id": sidecar.current().id, "trace": sidecar.current().trace_id, "found": found}


def hold(query):
    """Calls that stay until they are let go; then one that does not come to run before the deadline."""
    run = bridge_of(query).run_cpu
    return {"told": run(dask_far.wait, FOLDER, query["name"][0])}


VIEWS = {f"/{view.__name__}": view for view in (plain, squares, hold)}


def application(environ, start_response):
    body = json.dumps(VIEWS[environ["PATH_INFO"]](parse_qs(environ["QUERY_STRING"]))).encode()
    start_response("200 OK", [*HEADERS, ("Content-Length", str(len(body)))])
    return [body]
