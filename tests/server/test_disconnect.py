"""Clients that go away, and deadlines that pass, under real servers: uWSGI, gunicorn, and werkzeug's own."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import wait_for
from server.conftest import uwsgi_binaries
from server.process import Server

# Promised are 50 ms; the machine of a test may be busy.
SOON = 5.0
KINDS = ["sync", "gthread", "werkzeug", *uwsgi_binaries()]
APP = Path(__file__).parent / "apps" / "leaving.py"


@pytest.fixture(params=KINDS)
def start(request, serve, gunicorn_command, gunicorn_environment, uwsgi_of) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start_uwsgi(**options: Any) -> Server:
        uwsgi = uwsgi_of(request.param)
        command = uwsgi.command("--master", "--threads", "2", "--module", "leaving:app")
        for name, value in options.items():
            command += [f"--sidecar-{name.replace('_', '-')}", str(value)]
        servers.append(serve(*command, environment=uwsgi.environment).wait_ready())
        return servers[-1]

    def start(**options: Any) -> Server:
        environment = {**gunicorn_environment, "SIDECAR_TEST_OPTIONS": json.dumps(options)}
        if request.param == "werkzeug":
            pytest.importorskip("werkzeug", reason="werkzeug is not installed")
            command = [sys.executable, str(APP), "{socket}"]
        else:
            # One that has answered: gunicorn loses a stop that comes before a worker has its handlers.
            command = gunicorn_command(
                "--workers", "1", "--worker-class", request.param, "-c", "python:sidecar.gunicorn"
            )
            command += ["--threads", "4"] * (request.param == "gthread") + ["leaving:application"]
        servers.append(serve(*command, environment=environment).wait_ready())
        return servers[-1]

    chosen = start_uwsgi if request.param in uwsgi_binaries() else start
    chosen.kind = request.param
    yield chosen
    for server in servers:
        # The one thread of a sync worker is through with what was asked before; a stop would cut that short.
        assert server.get("/plain").status == 200


class Client:
    """A connection of which each side can be closed alone."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.socket.connect(str(server.socket))

    def ask(self, path: str, until: str, method: str = "GET") -> None:
        self.socket.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        wait_for((self.server.folder / until).exists, f"{until}; log:\n{self.server.log}")

    def read(self) -> bytes:
        blocks = []
        while True:
            try:
                block = self.socket.recv(65536)
            except ConnectionResetError:
                block = b""
            if not block:
                return b"".join(blocks)
            blocks.append(block)


@pytest.fixture
def connect() -> Iterator[Callable[[Server], Client]]:
    clients: list[Client] = []

    def connect(server: Server) -> Client:
        clients.append(Client(server))
        return clients[-1]

    yield connect
    for client in clients:
        client.socket.close()


def heard(server: Server) -> tuple[float, str]:
    wait_for((server.folder / "heard").exists, f"the app's thread hears of it; log:\n{server.log}")
    moment, name, _ = json.loads((server.folder / "heard").read_text())
    return moment, name


def forget(server: Server) -> None:
    for name in ("heard", "refused", *(f"{what}-{how}" for what in ("wait", "task", "work") for how in ENDS)):
        (server.folder / name).unlink(missing_ok=True)


ENDS = ("begun", "ended")


def test_the_thread_that_waits_hears_of_it_soon(start, connect) -> None:
    server = start()
    delays = []
    for _ in range(10):
        client = connect(server)
        client.ask("/wait", until="wait-begun")
        gone = time.monotonic()
        client.socket.close()
        moment, name = heard(server)
        assert name == "ClientDisconnected"
        delays.append(moment - gone)
        wait_for((server.folder / "wait-ended").exists, "its work has ended")
        forget(server)
    print(f"{start.kind}: heard after {sorted(round(delay * 1000, 2) for delay in delays)} ms")
    assert max(delays) < SOON
    assert server.get("/plain").text == "plain"


def test_nothing_is_written_after(start, connect) -> None:
    server = start()
    client = connect(server)
    client.ask("/caught", until="wait-begun")
    client.socket.shutdown(socket.SHUT_WR)
    assert heard(server)[1] == "ClientDisconnected"
    if start.kind in ("sync", "gthread", "werkzeug"):
        wait_for((server.folder / "refused").exists, "start_response raises it again")
    else:
        server.allow("OSError: write error")  # uWSGI's start_response is its own; the server itself writes nothing
    assert client.read() == b""


def test_while_a_body_is_made(start, connect) -> None:
    server = start()
    client = connect(server)
    client.ask("/steps", until="wait-begun")
    assert b"one\n" in client.socket.recv(65536)
    client.socket.close()
    assert heard(server)[1] == "ClientDisconnected"
    wait_for((server.folder / "wait-ended").exists, "its work has ended")
    assert server.get("/plain").text == "plain"


def test_a_client_that_closes_its_side_gets_its_answer(start, connect) -> None:
    server = start(disconnect="reset")
    client = connect(server)
    client.ask("/brief", until="brief-begun")
    client.socket.shutdown(socket.SHUT_WR)
    answer = client.read()
    assert answer.startswith(b"HTTP/1.") and b" 200 OK" in answer and b"plain" in answer


def test_one_that_goes_for_good_is_missed_there_too(start, connect) -> None:
    server = start(disconnect="reset")
    client = connect(server)
    client.ask("/wait", until="wait-begun")
    client.socket.close()
    assert heard(server)[1] == "ClientDisconnected"


def test_off(start, connect) -> None:
    server = start(disconnect="off", deadline=1.0)
    client = connect(server)
    client.ask("/wait", until="wait-begun")
    client.socket.close()
    assert heard(server)[1] == "DeadlineExceeded"


def test_what_is_left_behind_ends_with_the_response(start) -> None:
    server = start()
    response = server.get("/leave")
    assert response.status == 200
    for name in ("task-ended", "work-ended"):
        wait_for((server.folder / name).exists, name)
        assert [(server.folder / name).read_text()] == response.ids


@pytest.mark.parametrize("path", ["/wait", "/late_step"])
def test_a_deadline_that_the_app_lets_pass(start, path) -> None:
    server = start(deadline=0.5)
    response = server.get(path)
    assert response.status == 504
    (own,) = response.ids
    assert own in response.text
    wait_for(lambda: f"request {own}: the deadline of the request has passed" in server.log, "it is logged")
    assert (server.folder / "wait-ended").read_text() == own
    assert server.get("/plain").text == "plain"


def test_in_a_later_step_the_answer_is_cut_short(start, connect) -> None:
    server = start(deadline=1.0)
    server.allow("DeadlineExceeded", "CancelledError", r"\[ERROR\] (Error handling request|Exception|Socket error)")
    client = connect(server)
    client.ask("/steps", until="wait-begun")
    answer = client.read()
    assert b"one\n" in answer and b"never" not in answer and b"504" not in answer
    assert heard(server)[1] == "DeadlineExceeded"


def test_of_a_trusted_header(start) -> None:
    server = start(deadline_header="X-Timeout", trust="always", deadline=60)
    assert server.get("/wait", X_Timeout="150ms").status == 504
    assert server.get("/plain", X_Timeout="nonsense").text == "plain"


def test_a_head_request_gets_no_body(start, connect) -> None:
    server = start(deadline=0.5)
    client = connect(server)
    client.ask("/wait", until="wait-begun", method="HEAD")
    head, _, body = client.read().partition(b"\r\n\r\n")
    assert b" 504 " in head.splitlines()[0]
    assert body == b""
    assert "no-body response" not in server.log
