"""Before the master kills a worker it says what the worker was doing."""

from __future__ import annotations

import re

import pytest
from harness import wait_for
from server.conftest import APPS

pytestmark = pytest.mark.usefixtures("first_uwsgi")

APP = APPS / "stuck.py"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def line_of(marker: str) -> int:
    for number, text in enumerate(APP.read_text().splitlines(), 1):
        if text.endswith(f"# marker: {marker}"):
            return number
    raise LookupError(marker)


def wait_idle(server, answered: int):
    """A worker of several threads takes the end of any request for that of the one it watches."""
    server.wait_ready("/")
    wait_for(lambda: server.log.count(" GET / => ") >= answered, "its line is in the log")
    return server


@pytest.fixture
def start(serve, uwsgi):
    def start(*options: str):
        command = ["--master", "--processes", "1", "--module", "stuck", "--harakiri", "2"]
        command += ["--sidecar-deadline", "0", "--sidecar-trust", "always", *options]
        server = serve(*uwsgi.command(*command), environment=uwsgi.environment)
        server.allow("HARAKIRI", "DAMN")
        return wait_idle(server, 1)

    return start


def told_of(server, view: str, **headers: str) -> str:
    """What the master says of the request before it kills the worker."""
    client = server.leave_request(f"/{view}?secret=of+the+client", until="stuck", **headers)
    wait_for(lambda: "DAMN ! worker 1" in server.log, "the kill", 20)
    request_id = (server.folder / "stuck").read_text().split()[0]
    found = [line for line in server.log.splitlines() if f"request {request_id} " in line]
    assert len(found) == 1, server.log
    assert re.search(rf"\[sidecar\] worker 1 \(pid \d+\) core \d+: request {request_id} ", found[0])
    assert re.search(rf" GET /{view}, for [1-4]\.\d s; ", found[0]), found[0]
    assert "secret" not in found[0]
    client.close()
    # A worker that is not yet up would miss the signal that ends the server.
    wait_idle(server, 2)
    return found[0]


@pytest.mark.parametrize("threads", [1, 4])
def test_it_waits_in_a_call(start, threads):
    said = told_of(start("--threads", str(threads)), "in_a_call", traceparent=f"00-{TRACE}-b7ad6b7169203331-01")
    assert f" trace {TRACE} " in said
    assert f"; waits for fetch at {APP}:" in said
    assert f", last seen at {APP}:{line_of('awaits')} in inner, awaiting asyncio's sleep;" in said
    assert said.endswith(f"; its thread is at {APP}:{line_of('in_a_call')} in in_a_call")


def test_it_waits_for_an_item(start):
    said = told_of(start("--threads", "2"), "in_a_stream")
    assert f"; waits for items at {APP}:" in said
    assert f", last seen at {APP}:{line_of('awaits')} in inner, awaiting asyncio's sleep;" in said
    assert said.endswith(f"; its thread is at {APP}:{line_of('in_a_stream')} in in_a_stream")


def test_it_runs_python(start):
    said = told_of(start("--threads", "2"), "in_python")
    assert "waits for" not in said
    assert said.endswith(f"; its thread is at {APP}:{line_of('in_python')} in in_python")


@pytest.mark.parametrize("threads", [1, 4])
def test_it_holds_the_interpreter(start, threads):
    said = told_of(start("--threads", str(threads)), "in_native_code")
    assert said.endswith(f"; its thread is at {APP}:{line_of('in_native_code')} in in_native_code")


def test_its_coroutine_holds_the_interpreter(start):
    said = told_of(start("--threads", "2"), "in_a_callback")
    assert f"; waits for never_lets_go at {APP}:" in said
    assert said.endswith(f"; its thread is at {APP}:{line_of('in_a_callback')} in never_lets_go")


def test_all_requests_of_the_worker_are_told(start):
    server = start("--threads", "4")
    clients = [server.leave_request("/in_python", until="stuck") for _ in range(3)]
    wait_for(lambda: len((server.folder / "stuck").read_text().split()) == 3, "all are stuck")
    wait_for(lambda: "DAMN ! worker 1" in server.log, "the kill", 20)
    for request_id in (server.folder / "stuck").read_text().split():
        assert server.log.count(f"request {request_id} ") == 1
    for client in clients:
        client.close()
    wait_idle(server, 2)


def test_the_next_worker_starts_with_an_empty_board(start):
    server = start()
    told_of(server, "in_python")
    (server.folder / "stuck").unlink()
    told = server.log.count("core 0: request ")
    client = server.leave_request("/in_a_call", until="stuck")
    wait_for(lambda: server.log.count("DAMN ! worker 1") == 2, "the second kill", 20)
    client.close()
    assert server.log.count("core 0: request ") == told + 1
    wait_idle(server, 3)


def test_what_a_client_sends_cannot_break_the_line(start):
    server = start("--threads", "2")
    client = server.leave_request("/in_python%0a[sidecar]%20forged%1b[31m%5c", until="stuck")
    wait_for(lambda: "DAMN ! worker 1" in server.log, "the kill", 20)
    assert r" GET /in_python\x0a[sidecar] forged\x1b[31m\x5c, for " in server.log
    client.close()
    wait_idle(server, 2)
