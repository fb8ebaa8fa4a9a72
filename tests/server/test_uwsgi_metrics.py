"""Sidecar's counters among uWSGI's metrics and in its stats."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest
from harness import wait_for
from server.process import check_workers


@pytest.fixture
def server(serve, uwsgi):
    options = ["--master", "--processes", "2", "--threads", "2", "--module", "checked", "--enable-metrics"]
    options += ["--stats", "{socket}.stats", "--sidecar-trust", "always"]
    command = uwsgi.command(*options)
    server = serve(*[part.replace("{socket}.stats", "stats.socket") for part in command], environment=uwsgi.environment)
    return server.wait_ready()


def metrics(server) -> dict[str, int]:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(20)
        asking.connect(str(server.folder / "stats.socket"))
        said = b"".join(iter(lambda: asking.recv(65536), b""))
    return {name: found["value"] for name, found in json.loads(said)["metrics"].items() if "sidecar" in name}


def test_they_count(server):
    before = metrics(server)
    assert before["sidecar.calls"] == 0
    server.get_many(["/check"] * 40, 4)
    server.get("/plain", X_Request_Id="not an id")

    def arrived() -> bool:
        now = metrics(server)
        return now["sidecar.requests"] - before["sidecar.requests"] >= 41 and now["sidecar.bad_ids"] == 1

    wait_for(arrived, "the master has collected them")
    now = metrics(server)
    # Two calls in the view, and one in each of three steps.
    assert now["sidecar.calls"] == 40 * 5
    for name in ("requests", "calls", "bad_ids"):
        parts = [now[f"worker.{worker}.sidecar.{name}"] for worker in (1, 2)]
        assert sum(parts) == now[f"sidecar.{name}"]
    assert now["sidecar.refused"] == now["sidecar.late"] == now["sidecar.left"] == 0


def test_a_worker_that_follows_another_counts_on(server):
    server.allow("DAMN")
    server.get_many(["/check"] * 10, 2)
    wait_for(lambda: metrics(server)["sidecar.calls"] == 50, "the master has collected them")
    killed = list(check_workers(server))
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: server.log.count("Respawned uWSGI worker") == len(killed), "new workers are up")
    server.wait_ready()
    # A worker tells four times a second, and the master collects once: it may know less, never less than before.
    known = metrics(server)["sidecar.calls"]
    assert known >= 50
    server.get_many(["/check"] * 10, 2)
    wait_for(lambda: metrics(server)["sidecar.calls"] >= known + 50, "the master has collected them")
