"""A sync Flask application whose views call async code on their worker's own loop.

Nothing here turns Sidecar on: ``plugin = sidecar`` in deploy/uwsgi.ini does.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable
from typing import Any

import httpx
import sidecar
from flask import Flask, Response, jsonify, render_template_string

from demo_app.page import PAGE

ITEMS = range(1, 11)
UPSTREAM = os.environ["SIDECAR_DEMO_UPSTREAM"]

app = Flask(__name__)


class Worker:
    """What lives as long as a server worker, on its loop: the client with its open connections."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None
        self.uses = 0

    async def client(self) -> httpx.AsyncClient:
        """Made by the first request that needs it; coroutines of one loop need no lock for that."""
        if self._client is None:
            self._client = httpx.AsyncClient(base_url=UPSTREAM, timeout=10.0, trust_env=False)
        return self._client


worker = Worker()


async def fetch(item: int, origin: float) -> dict[str, Any]:
    """One call to the upstream, and when it began and ended, in seconds after ``origin``."""
    client = await worker.client()
    request = sidecar.current()
    headers = {} if request is None else {"X-Request-ID": request.id}
    begin = time.perf_counter() - origin
    response = await client.get(f"/item/{item}", headers=headers)
    response.raise_for_status()
    end = time.perf_counter() - origin
    return {"item": item, "begin": begin, "end": end, "id_seen": response.json()["request_id"]}


async def all_at_once(origin: float) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*(fetch(item, origin) for item in ITEMS)))


async def one_after_another(origin: float) -> list[dict[str, Any]]:
    return [await fetch(item, origin) for item in ITEMS]


def timed(origin: float, work: Awaitable[list[dict[str, Any]]]) -> dict[str, Any]:
    calls = sidecar.run_sync(work)
    return {"total": time.perf_counter() - origin, "calls": calls}


def run_both() -> dict[str, Any]:
    """Everything that the page and its JSON variant show."""
    request = sidecar.current()
    if request is None:
        raise RuntimeError("no request scope: is `plugin = sidecar` in the uWSGI configuration?")
    worker.uses += 1
    origin = time.perf_counter()
    together = timed(origin, all_at_once(origin))
    origin = time.perf_counter()
    apart = timed(origin, one_after_another(origin))
    seen = [call.pop("id_seen") for run in (together, apart) for call in run["calls"]]
    return {
        "request_id": request.id,
        "pid": os.getpid(),
        "worker": worker_name(),
        "thread": threading.current_thread().name,
        "client_uses": worker.uses,
        "ids_seen": seen.count(request.id),
        "ids_expected": len(seen),
        "times_faster": apart["total"] / together["total"],
        "together": together,
        "apart": apart,
    }


def worker_name() -> str:
    import uwsgi  # only inside the server

    return f"uWSGI worker {uwsgi.worker_id()}"


@app.get("/")
def page() -> str:
    result = run_both()
    scale = max(result["together"]["total"], result["apart"]["total"])
    return render_template_string(PAGE, result=result, scale=scale)


@app.get("/api")
def api() -> Response:
    return jsonify(run_both())


@app.get("/ready")
def ready() -> tuple[str, int]:
    """Says that the server serves; calls nothing."""
    return "", 204
