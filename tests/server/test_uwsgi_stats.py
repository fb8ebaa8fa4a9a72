"""``sidecar-stats``: uWSGI's stats with the requests in flight."""

from __future__ import annotations

import json
import socket

import pytest
from harness import wait_for


def ask(server) -> dict:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(20)
        asking.connect(str(server.folder / "sidecar.stats"))
        # uWSGI shows the bytes of a request's variables as they came.
        return json.loads(b"".join(iter(lambda: asking.recv(65536), b"")).decode("latin-1"))


@pytest.fixture
def server(serve, uwsgi):
    options = ["--master", "--processes", "2", "--threads", "3", "--module", "stuck"]
    options += ["--sidecar-stats", "sidecar.stats", "--sidecar-disconnect", "reset"]
    return serve(*uwsgi.command(*options), environment=uwsgi.environment).wait_ready("/")


def test_the_requests_in_flight(server):
    assert ask(server)["sidecar"] == {"requests": []}
    client = server.leave_request('/in_a_call%0a"\\%e9?secret=1', until="stuck")
    request_id = (server.folder / "stuck").read_text().strip()
    wait_for(lambda: "waits_for" in ask(server)["sidecar"]["requests"][0], "what it waits for is told")
    found = ask(server)
    # uWSGI's own are there, too.
    assert len(found["workers"]) == 2
    (request,) = found["sidecar"]["requests"]
    assert request["id"] == request_id
    assert len(request["trace_id"]) == 32
    assert (request["method"], request["path"]) == ("GET", '/in_a_call\n"\\\xe9')
    assert request["waits_for"].startswith("fetch at ")
    assert request["waits_at"].endswith(" in inner, awaiting asyncio's sleep")
    assert 0 < request["waits_seconds"] <= request["seconds"] < 60
    assert request["pid"] in {worker["pid"] for worker in found["workers"]}
    client.close()
    wait_for(lambda: ask(server)["sidecar"]["requests"] == [], "it has ended with its client")


@pytest.mark.parametrize("address", ["0.0.0.0:0", ":0", "192.0.2.1:9191", "[::]:0"])
def test_an_address_that_others_reach_is_refused(serve, uwsgi, address):
    command = uwsgi.command("--master", "--module", "stuck", "--sidecar-stats", address)
    server = serve(*command, environment=uwsgi.environment)
    assert server.wait() == 1
    assert f"[sidecar] sidecar-stats = {address}: must be a unix socket's path or an address of this" in server.log


def test_unless_told_otherwise(serve, uwsgi):
    command = uwsgi.command("--master", "--module", "stuck", "--sidecar-stats", "0.0.0.0:0", "--sidecar-stats-anywhere")
    server = serve(*command, environment=uwsgi.environment).wait_ready("/")
    assert "[sidecar] stats at 0.0.0.0:0" in server.log


def test_only_a_master_has_stats(serve, uwsgi):
    server = serve(*uwsgi.command("--module", "stuck", "--sidecar-stats", "x.stats"), environment=uwsgi.environment)
    assert server.wait() == 1
    assert "[sidecar] sidecar-stats = x.stats: only a master has stats" in server.log
