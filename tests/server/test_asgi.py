"""ASGIMiddleware under real ASGI servers, on asyncio, uvloop and Trio."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from harness import wait_for
from server.conftest import APPS, clean_environment
from server.process import check_many

import sidecar

CROWD = 200


@dataclass
class Kind:
    """How one server is started, and what it cannot do."""

    command: list[str]
    needs: list[str]
    has_state: bool = True
    # Whether an accept's headers reach the client of a websocket.
    has_accept_headers: bool = True
    # Whether it ends by SIGTERM, always.
    stops: bool = True
    # What it logs for an application that raises.
    says: list[str] = field(default_factory=list)


def uvicorn(loop: str, http: str) -> Kind:
    options = ["--uds", "{socket}", "--loop", loop, "--http", http]
    needs = ["uvicorn", "websockets", {"h11": "h11", "httptools": "httptools"}[http]]
    says = ["Exception in ASGI application"]
    return Kind(["uvicorn", *options], needs + ["uvloop"] * (loop == "uvloop"), says=says)


def hypercorn(worker: str) -> Kind:
    # Of more connections at once than its backlog holds it may lose some, whatever the application.
    command = ["hypercorn", "--bind", "unix:{socket}", "--worker-class", worker, "--backlog", "1000"]
    says = ["Error in ASGI Framework"]
    return Kind(command, ["hypercorn"] + ["trio"] * (worker == "trio"), says=says)


def granian(loop: str, tasks: str) -> Kind:
    options = ["--uds", "{socket}", "--interface", "asgi", "--loop", loop, "--task-impl", tasks]
    says = ["Application callable raised"]
    # Its last for CPython 3.9 hangs in its stop now and then, whatever the application.
    stops = sys.version_info >= (3, 10)
    return Kind(["granian", *options], ["granian"], has_accept_headers=False, stops=stops, says=says)


def gunicorn(worker: str, *needs: str) -> Kind:
    command = ["gunicorn", "--bind", "unix:{socket}", "--worker-class", worker]
    says = ["Exception in ASGI application", "Error in ASGI application", "Error handling"]
    return Kind(command, ["gunicorn", *needs], says=says)


def daphne() -> Kind:
    command = ["daphne", "-e", "unix:{socket}:backlog=1000"]
    return Kind(command, ["daphne"], has_state=False, has_accept_headers=False)


KINDS = {
    "uvicorn-asyncio-h11": uvicorn("asyncio", "h11"),
    "uvicorn-uvloop-httptools": uvicorn("uvloop", "httptools"),
    "hypercorn-asyncio": hypercorn("asyncio"),
    "hypercorn-trio": hypercorn("trio"),
    "granian-asyncio": granian("asyncio", "asyncio"),
    "granian-rust": granian("asyncio", "rust"),
    "gunicorn-asgi": gunicorn("asgi", "gunicorn.asgi"),
    "gunicorn-uvicorn": gunicorn("uvicorn_worker.UvicornWorker", "uvicorn_worker", "websockets"),
    "daphne": daphne(),
}


@pytest.fixture(params=KINDS)
def kind(request) -> Kind:
    found = KINDS[request.param]
    for name in found.needs:
        pytest.importorskip(name, reason=f"{name} is not installed (or not for this Python)")
    if request.param == "granian-rust" and sys.version_info >= (3, 12):
        pytest.skip("granian has tasks of its own up to CPython 3.11")
    return found


@pytest.fixture
def start(serve, kind):
    servers = []

    def start(app: str = "application"):
        environment = clean_environment(Path(sidecar.__path__[0]).parent, APPS)
        server = serve(sys.executable, "-m", *kind.command, f"asgi_checked:{app}", environment=environment)
        # gunicorn 23, the last for CPython 3.9, calls its own stop of a worker an error.
        server.allow(r"Worker \(pid:\d+\) was sent SIGTERM!")
        servers.append(server)
        return server.wait_ready()

    yield start
    for server in servers:
        if not kind.stops:
            server.send(signal.SIGKILL)
            server.kill()
            continue
        # uvicorn raises the signal again once it has shut down.
        assert server.stop(signal.SIGTERM) in (0, -signal.SIGTERM), server.log


def test_ids(start):
    server = start()
    check_many(server, ["/check"] * 40)
    own = server.get("/own_header", X_Request_Id="theirs")
    assert own.ids == [own.text]
    assert len(own.text) == 36


@pytest.mark.parametrize("worker", ["asgi", "uvicorn_worker.UvicornWorker"])
@pytest.mark.parametrize("app", ["app", "application"])
def test_gunicorns_hook(serve, worker, app):
    """It puts the middleware around the application, unless it has one."""
    pytest.importorskip("gunicorn.asgi" if worker == "asgi" else "uvicorn_worker", reason="not installed")
    environment = clean_environment(Path(sidecar.__path__[0]).parent, APPS)
    command = ["gunicorn", "-c", "python:sidecar.gunicorn", "--bind", "unix:{socket}", "--worker-class", worker]
    server = serve(sys.executable, "-m", *command, f"asgi_checked:{app}", environment=environment)
    server.wait_ready()
    check_many(server, ["/check"] * 40)
    assert server.stop(signal.SIGTERM) in (0, -signal.SIGTERM), server.log


def test_many_at_once_do_not_mix(start):
    server = start()
    check_many(server, ["/crowd"] * CROWD, threads=CROWD)


def test_nested(start):
    check_many(start("mounted_twice"), ["/check"] * 10)


def test_lifespan_state(start, kind):
    assert start().get("/state").json() == {"bridge": kind.has_state, "has_state": kind.has_state}


def test_an_application_without_lifespan(start, kind):
    """It raises there; the server goes on as it does without us."""
    server = start("no_lifespan")
    server.allow("AssertionError", "lifespan", *kind.says)
    check_many(server, ["/check"] * 10)


def test_an_application_that_raises(start, kind):
    server = start()
    server.allow("announced boom", *kind.says)
    assert server.get("/boom").status == 500
    check_many(server, ["/check"] * 10)


def test_a_client_that_goes(start):
    server = start()
    server.leave_request("/wait", until="waiting").close()
    gone = server.folder / "gone"
    wait_for(lambda: gone.exists() and gone.read_text(), "the application sees the client go")
    assert json.loads(gone.read_text()) == [True, True]


def test_websockets(start, kind):
    client = pytest.importorskip("websockets.sync.client", reason="websockets is not installed")
    server = start()
    with contextlib.ExitStack() as stack:
        connections = [client.unix_connect(str(server.socket), uri="ws://localhost/socket") for _ in range(5)]
        sockets = [stack.enter_context(connection) for connection in connections]
        seen = set()
        for turn in range(3):
            for socket in sockets:
                socket.send(f"turn {turn}")
            for socket in sockets:
                answer = json.loads(socket.recv(timeout=20))
                assert answer["echo"] == f"turn {turn}"
                [id] = set(answer["ids"])
                assert socket.response.headers.get_all("x-request-id") == [id] * kind.has_accept_headers
                seen.add(id)
        assert len(seen) == len(sockets)
