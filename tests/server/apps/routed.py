"""Tells what applies to its request; /held waits until it may go."""

from __future__ import annotations

import json
import os
import time

import sidecar

FOLDER = os.environ.get("SIDECAR_TEST_FOLDER", ".")


def held() -> None:
    """Blocks its thread: a limit counts requests, whatever they do."""
    with open(os.path.join(FOLDER, f"held-{sidecar.current().id}"), "w"):
        pass
    deadline = time.monotonic() + 20
    while not os.path.exists(os.path.join(FOLDER, "go-on")) and time.monotonic() < deadline:
        time.sleep(0.005)


def application(environ, start_response):
    if environ["PATH_INFO"].startswith("/held"):
        held()
    request = sidecar.current()
    start_response("200 OK", [("Content-Type", "application/json")])
    found = {"trusted": request.trusted, "id": request.id, "left": request.time_left()}
    if environ["PATH_INFO"].endswith("/streamed"):
        return iter([json.dumps(found).encode()])
    return [json.dumps(found).encode()]
