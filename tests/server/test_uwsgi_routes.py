"""``route = ^/slow sidecar:deadline=30``: other options of requests, and limits, by route."""

from __future__ import annotations

import concurrent.futures
import subprocess

import pytest
from harness import wait_for


@pytest.fixture
def start(serve, uwsgi):
    flags = subprocess.run([uwsgi.binary, "--cflags"], capture_output=True, text=True, check=True).stdout
    if "-DUWSGI_ROUTING" not in flags:
        pytest.skip(f"{uwsgi.binary} was built without PCRE, and so without internal routing")

    def start(*options: str, ready: bool = True):
        command = uwsgi.command("--master", "--threads", "6", "--module", "routed", *options)
        server = serve(*command, environment=uwsgi.environment)
        return server.wait_ready("/plain") if ready else server

    return start


def test_a_route_overrides_options(start):
    server = start("--sidecar-deadline", "5", "--route", "^/slow sidecar:deadline=300,trust=always")
    plain = server.get("/plain", X_Request_Id="theirs").json()
    assert plain["trusted"] is False and plain["id"] != "theirs" and 4 < plain["left"] <= 5
    for _ in range(2):
        slow = server.get("/slow/one", X_Request_Id="theirs").json()
        assert slow["trusted"] is True and slow["id"] == "theirs" and 299 < slow["left"] <= 300


def test_routes_add_up_and_the_later_one_wins(start):
    routes = ["^/ sidecar:deadline=10", "^/a sidecar:trust=always", "^/a/b sidecar:deadline=20"]
    server = start(*(word for route in routes for word in ("--route", route)))
    assert 9 < server.get("/x").json()["left"] <= 10
    found = server.get("/a").json()
    assert found["trusted"] is True and 9 < found["left"] <= 10
    found = server.get("/a/b").json()
    assert found["trusted"] is True and 19 < found["left"] <= 20
    assert server.get("/x").json()["trusted"] is False


def test_a_route_without_a_deadline(start):
    server = start("--sidecar-deadline", "5", "--route", "^/ever sidecar:deadline=0")
    assert server.get("/ever").json()["left"] is None
    assert server.get("/plain").json()["left"] is not None


@pytest.mark.parametrize("path", ["/held", "/held/streamed"])
def test_a_limit(start, path):
    server = start("--route", "^/held sidecar:limit=2")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        taken = [pool.submit(server.get, path) for _ in range(2)]
        wait_for(lambda: len(list(server.folder.glob("held-*"))) == 2, "two are in progress")
        for _ in range(3):
            refused = server.get(path)
            assert refused.status == 503
            assert len(refused.ids) == 1
            assert ("Retry-After", "1") in refused.headers
        assert server.get("/plain").status == 200
        (server.folder / "go-on").write_text("")
        assert [future.result(30).status for future in taken] == [200, 200]
    # Its room is given back.
    assert [server.get(path).status for _ in range(4)] == [200] * 4


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ("deadline=soon", "deadline"),
        ("trust=everybody", "trust"),
        ("colour=red", "colour"),
        ("limit=0", "limit=0: must be a whole number from 1 on"),
        ("limit=many", "limit=many: must be a whole number from 1 on"),
    ],
)
def test_a_wrong_action_is_refused_at_the_start(start, action, reason):
    server = start("--route", f"^/x sidecar:{action}", ready=False)
    assert server.wait() == 1
    said = [line for line in server.log.splitlines() if line.startswith("[sidecar]")]
    assert any(reason in line for line in said), server.log
