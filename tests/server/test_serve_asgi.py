"""``sidecar.serve_asgi:application``: ASGI applications under uWSGI with the plugin, and under gunicorn."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import wait_for
from server.conftest import stand_ins
from server.process import Connection, Response, Server, wait_logged

CONFIG = {"gunicorn.conf.py": "from sidecar.gunicorn import post_fork\n"}
SERVERS = [*(f"uwsgi:{binary}" for binary in stand_ins()), "gthread", "sync"]
MODULE = "sidecar.serve_asgi:application"


@pytest.fixture(params=SERVERS, ids=lambda name: re.sub(r"/.*/([^/]*)$", r"\1", name))
def kind(request) -> str:
    return request.param


@pytest.fixture
def start(request, kind, serve) -> Callable[..., Server]:
    """Start a server with one worker; ``threads`` where it has any.

    other_moment: load the application before the fork where the server does so after it, and the other way.
    """

    def begin(
        app: str,
        *,
        threads: int = 4,
        deadline: str | None = None,
        ready: bool = True,
        other_moment: bool = False,
        **more: str,
    ) -> Server:
        extra = {"SIDECAR_ASGI": app, **more}
        if kind.startswith("uwsgi:"):
            uwsgi = request.getfixturevalue("uwsgi_of")(kind.partition(":")[2])
            options = ["--master", "--sidecar-asgi", app, "--threads", str(threads), "--single-interpreter"]
            options += ["--need-app", "--sidecar-trust", "untrusted"]
            options += ["--sidecar-deadline", deadline] if deadline else []
            options += ["--lazy-apps"] if other_moment else []
            command, environment = uwsgi.command(*options), uwsgi.environment
        else:
            options = ["--workers", "1", "--worker-class", kind, "--threads", str(threads if kind == "gthread" else 1)]
            options += ["--preload"] if other_moment else []
            command = request.getfixturevalue("gunicorn_command")(MODULE, *options)
            environment = request.getfixturevalue("gunicorn_environment")
            extra.update({"SIDECAR_DEADLINE": deadline} if deadline else {})
        server = serve(*command, environment={**environment, **extra}, files=CONFIG)
        return server.wait_ready() if ready else server

    return begin


@pytest.fixture
def raw(start) -> Server:
    return start("asgi_served:app")


def ask(
    server: Server, path: str, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None, **more: Any
) -> Response:
    connection = Connection(server.socket, 30)
    try:
        connection.request(method, path, body=body, headers=headers or {}, **more)
        answer = connection.getresponse()
        return Response(answer.status, answer.getheaders(), answer.read())
    finally:
        connection.close()


def wait_for_note(server: Server, name: str) -> str:
    wait_for((server.folder / name).exists, f"{name} is written; log:\n{server.log}", 15)
    return (server.folder / name).read_text()


def check_ids(response: Response) -> None:
    assert response.status == 200, response.text
    assert len(response.ids) == 1
    seen = {id for line in response.text.splitlines() for id in json.loads(line)}
    assert seen == set(response.ids)


# -- requests ----------------------------------------------------------------------


def test_the_scope(raw):
    given = {"X-One": "1", "Content-Type": "text/x", "X-Request-ID": "theirs"}
    response = ask(raw, "/scope?a=%20b&c", headers=given)
    scope = response.json()
    assert scope["type"] == "'http'"
    assert scope["http_version"] == "'1.1'"
    assert scope["method"] == "'GET'"
    assert scope["scheme"] == "'http'"
    assert scope["path"] == "'/scope'"
    assert scope["raw_path"] == "b'/scope'"
    assert scope["query_string"] == "b'a=%20b&c'"
    assert scope["root_path"] == "''"
    assert "(b'x-one', b'1')" in scope["headers"]
    assert "(b'content-type', b'text/x')" in scope["headers"]
    assert f"(b'x-request-id', b'{response.ids[0]}')" in scope["headers"]
    assert "theirs" not in scope["headers"]
    assert scope["sidecar.request"] == f"<sidecar.Request {response.ids[0]}>"


def test_ids_and_contexts_in_a_crowd(start, kind):
    threads = 1 if kind == "sync" else 8
    server = start("asgi_served:app", threads=threads, SIDECAR_TEST_CROWD=str(threads))
    responses = server.get_many(["/check", "/crowd"] * 100, threads, X_Request_Id="theirs")
    for response in responses:
        check_ids(response)
    assert len({response.ids[0] for response in responses}) == 200


def test_an_application_in_the_asgi_middleware_has_the_same_request(start):
    check_ids(start("asgi_served:wrapped").get("/check"))


@pytest.mark.parametrize("size", [0, 1, 65_536, 1_000_000])
def test_bodies(raw, size):
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    response = ask(raw, "/echo", "POST", body=body)
    assert response.status == 200
    assert response.body == body
    assert ("content-length", str(size)) in [(name.lower(), value) for name, value in response.headers]


def test_a_chunked_body(raw):
    parts = [b"a" * 10, b"b" * 100_000, b"c"]
    headers = {"Transfer-Encoding": "chunked"}
    response = ask(raw, "/echo", "POST", body=iter(parts), headers=headers, encode_chunked=True)
    assert response.status == 200
    assert response.body == b"".join(parts)


def test_a_body_in_both_directions(raw):
    body = b"0123456789" * 30_000
    assert ask(raw, "/echo_stream", "POST", body=body).body == body
    sizes = json.loads(wait_for_note(raw, "sizes"))
    assert sum(sizes) == len(body)
    assert max(sizes) <= 65_536


def test_an_upload_that_breaks_off(raw):
    """The application hears of it, and nobody else does."""
    raw.allow("AssertionError", r"\[ERROR\] Error handling request", "OSError", "ClientDisconnected")
    connection = Connection(raw.socket, 30)
    connection.request("POST", "/echo", body=b"short", headers={"Content-Length": "1000"})
    connection.close()
    assert raw.get("/plain").text == "plain"


# -- responses -----------------------------------------------------------------------


def test_events_arrive_one_by_one(raw):
    connection = Connection(raw.socket, 30)
    connection.request("GET", "/events")
    answer = connection.getresponse()
    assert answer.getheader("content-type") == "text/event-stream"
    for number in range(3):
        assert answer.readline() == f"data: {number}\n".encode()
        assert answer.readline() == b"\n"
        (raw.folder / f"seen-{number}").touch()
    assert answer.read() == b""
    connection.close()


@pytest.mark.parametrize("path", ["/plain", "/check", "/echo"])
def test_head_has_no_body(raw, path):
    connection = Connection(raw.socket, 30)
    connection.request("HEAD", path)
    answer = connection.getresponse()
    assert answer.status == 200
    assert connection.sock is None or connection.sock.recv(100) == b""
    connection.close()


def test_no_content(raw):
    response = raw.get("/nothing_to_say")
    assert (response.status, response.body) == (204, b"")
    assert "content-length" not in {name.lower() for name, _ in response.headers}


def test_an_error_before_the_response(raw):
    raw.allow("announced boom", r"\[ERROR\]")
    response = raw.get("/boom")
    assert response.status == 500
    assert "LookupError: announced boom" in raw.log
    assert raw.get("/plain").text == "plain"


def test_an_error_in_the_response_cuts_it(raw):
    raw.allow("announced boom", r"\[ERROR\]")
    connection = Connection(raw.socket, 30)
    connection.request("GET", "/boom_late")
    answer = connection.getresponse()
    with pytest.raises(Exception, match=r"4 bytes read, 96 more expected"):
        answer.read()
    connection.close()
    wait_for(lambda: "LookupError: announced boom" in raw.log, "it is logged")


def test_an_application_without_a_response(raw):
    raw.allow("RuntimeError", r"\[ERROR\]")
    assert raw.get("/silent").status == 500
    assert "returned without starting a response" in raw.log


def test_websockets_are_refused(raw):
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "x"}
    for _ in range(2):
        assert ask(raw, "/plain", headers=headers).status == 501
    assert raw.log.count("WebSockets are not served") == 1


# -- ends ------------------------------------------------------------------------------


def test_a_client_that_goes_while_the_application_waits(raw):
    connection = raw.leave_request("/wait", until="waiting")
    connection.close()
    assert json.loads(wait_for_note(raw, "cancelled")) == "http.disconnect"
    assert raw.get("/plain").text == "plain"


def test_a_client_that_goes_while_it_streams(raw):
    raw.allow("OSError", "ClientDisconnected")
    connection = raw.leave_request("/flood", until="flooded")
    connection.sock.recv(100)
    connection.close()
    assert int(wait_for_note(raw, "cancelled")) < 1000
    assert raw.get("/plain").text == "plain"


def test_a_slow_client_holds_the_application_back(raw):
    raw.allow("OSError", "ClientDisconnected")
    connection = raw.leave_request("/flood", until="flooded")
    counts: list[int] = []

    def stands_still() -> bool:
        counts.append(int((raw.folder / "flooded").read_text()))
        return len(counts) > 200 and counts[-1] == counts[-200]

    wait_for(stands_still, "it stands still")
    # The buffers of a unix socket, and 64 KiB.
    assert counts[-1] < 200
    connection.close()
    wait_for_note(raw, "cancelled")


def test_a_deadline(start):
    server = start("asgi_served:app", deadline="1")
    response = server.get("/wait")
    assert response.status == 504
    assert response.ids[0] in response.text
    assert json.loads(wait_for_note(server, "cancelled")) == "http.disconnect"


def test_what_follows_the_response(start):
    """The thread is free, the deadline passes, and the request is the same."""
    server = start("asgi_served:app", threads=1, deadline="1")
    response = server.get("/background")
    assert response.text == response.ids[0]
    assert server.get("/plain").text == "plain"
    assert server.get("/wait").status == 504  # so a second has passed
    (server.folder / "go").touch()
    assert set(json.loads(wait_for_note(server, "background"))) == {response.ids[0]}


def test_an_error_after_the_response(raw):
    raw.allow("announced boom")
    response = raw.get("/background_boom")
    assert response.status == 200
    text = f"request {response.text}: the ASGI application failed after its response"
    wait_for(lambda: text in raw.log and "LookupError: announced boom" in raw.log, "it is logged")


def test_a_task_left_behind_ends_with_the_request(raw):
    assert raw.get("/leave").status == 200
    wait_for_note(raw, "task_cancelled")


# -- the lifespan ----------------------------------------------------------------------


@pytest.mark.parametrize("other_moment", [False, True])
def test_the_lifespan(start, kind, other_moment):
    raw = start("asgi_served:app", other_moment=other_moment)
    for _ in range(2):
        state = raw.get("/state").json()
        assert state["made_in"] == state["pid"]
        assert state["bridge"] and state["copied"]
        assert state["started"] == 1
    if kind.startswith("uwsgi"):
        wait_logged(raw)
    assert raw.stop(signal.SIGTERM) == 0
    assert (raw.folder / f"stopped-{state['pid']}").exists()


def test_a_drain_waits_for_what_follows_the_response(raw):
    assert raw.get("/drained").status == 200
    wait_for_note(raw, "left_behind")
    assert raw.stop(signal.SIGTERM) == 0
    # It was done before the lifespan's shutdown began.
    assert wait_for_note(raw, "done_after_response") == "0"


def test_without_a_lifespan(start):
    check_ids(start("asgi_served:no_lifespan").get("/check"))


def test_a_startup_that_fails_ends_the_worker(start, kind):
    server = start("asgi_served:app", ready=False, SIDECAR_TEST_STARTUP="fails")
    # uWSGI starts the worker over and over: the test's SIGINT may find it in the middle of its exit.
    server.allow(r"\[ERROR\]", "SystemExit", "HaltServer", "KeyboardInterrupt")
    wait_for(lambda: "the ASGI application could not start: announced failure" in server.log, "the reason is logged")
    if not kind.startswith("uwsgi"):
        assert server.wait() == 3


def test_a_startup_that_fails_ends_the_server_that_needs_its_application(start, kind):
    if not kind.startswith("uwsgi"):
        pytest.skip("gunicorn always does")
    server = start("asgi_served:app", ready=False, other_moment=True, SIDECAR_TEST_STARTUP="fails")
    server.allow("SystemExit", "OOPS ! failed loading app")
    assert server.wait() == 22
    assert "need-app requested, destroying the instance" in server.log


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("asgi_served", "it must be named as package.module:app"),
        ("no_such_module:app", "there is no module 'no_such_module'"),
        ("asgi_served:no_such", "has no attribute 'no_such'"),
    ],
)
def test_a_wrong_name(start, kind, name, reason):
    server = start(name, ready=False)
    server.allow("ImportError", r"\[ERROR\]", "HaltServer")
    assert server.wait() != 0
    assert f"cannot load the ASGI application {name!r}" in server.log
    assert reason in server.log


# -- frameworks ------------------------------------------------------------------------


@pytest.fixture
def fastapi(start, kind, request) -> Iterator[Server]:
    pytest.importorskip("fastapi", reason="FastAPI is not installed")
    if kind.startswith("uwsgi:"):
        python = request.getfixturevalue("uwsgi_of")(kind.partition(":")[2]).python
        if subprocess.run([python, "-c", "import fastapi"], capture_output=True).returncode != 0:
            pytest.skip(f"FastAPI is not installed for {python}")
    yield start("asgi_served_fastapi:app")


def ids_of(response: Response) -> set[str]:
    assert response.status == 200, response.text
    return set(response.json()["ids"]) | set(response.ids)


def test_fastapi(fastapi):
    response = fastapi.get("/plain")
    assert response.json()["greeting"] == "hello"
    assert ids_of(response) == set(response.ids)
    assert ("x-marked", response.ids[0]) in response.headers
    assert ids_of(fastapi.get("/sync")) != ids_of(response)
    posted = ask(fastapi, "/echo", "POST", body=b"x" * 200_000)
    assert posted.json()["length"] == 200_000
    assert len(ids_of(posted)) == 1
    check_ids(fastapi.get("/stream"))
    fastapi.allow("announced boom", r"\[ERROR\]")
    assert fastapi.get("/boom").status == 500


def test_fastapi_background_tasks(fastapi):
    response = fastapi.get("/background")
    assert len(ids_of(response)) == 1
    assert fastapi.get("/plain").status == 200
    (fastapi.folder / "go").touch()
    assert json.loads(wait_for_note(fastapi, "background")) == [response.ids[0]] * 2


def test_django(start):
    pytest.importorskip("django", reason="Django is not installed")
    server = start("asgi_served_django:app")
    response = server.get("/plain")
    assert response.json()["path"] == "/plain"
    assert len(ids_of(response)) == 1
    assert len(ids_of(server.get("/sync"))) == 1
    body = b"0123456789" * 100_000
    assert ask(server, "/echo", "POST", body=body).body == body
    check_ids(server.get("/stream"))


def test_an_escaped_path(raw):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(raw.socket))
        client.sendall(b"GET /sc%6fpe?q HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = b""
        while part := client.recv(65_536):
            answer += part
    shown = json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1])
    assert shown["path"] == "'/scope'"
    assert shown["raw_path"] == "b'/sc%6fpe'"
