"""``sidecar.adapters`` under real servers: WSGI's applications under ASGI's, and the other way round."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import wait_for
from server.conftest import APPS, clean_environment, stand_ins
from server.process import Connection, Server

import sidecar

ASGI = {
    "uvicorn-asyncio": ["uvicorn", "--uds", "{socket}", "--loop", "asyncio", "--http", "h11"],
    "uvicorn-uvloop": ["uvicorn", "--uds", "{socket}", "--loop", "uvloop", "--http", "httptools"],
    "hypercorn": ["hypercorn", "--bind", "unix:{socket}"],
    "granian": ["granian", "--uds", "{socket}", "--interface", "asgi", "--loop", "asyncio", "--task-impl", "asyncio"],
    "daphne": ["daphne", "-e", "unix:{socket}"],
}
WSGI = ["gunicorn", *(f"uwsgi:{binary}" for binary in stand_ins()[:1])]
BODY = b"0123456789" * 30_000


def environment() -> dict[str, str]:
    return clean_environment(Path(sidecar.__path__[0]).parent, APPS)


@pytest.fixture(params=ASGI)
def asgi(request, serve) -> Server:
    name = request.param.partition("-")[0]
    for each in (name, *(["uvloop", "httptools"] if "uvloop" in request.param else [])):
        pytest.importorskip(each, reason=f"{each} is not installed (or not for this Python)")
    if name == "granian" and sys.version_info < (3, 10):
        pytest.skip("granian's last for CPython 3.9 hangs in its stop now and then, whatever the application")
    server: Server = serve(sys.executable, "-m", *ASGI[request.param], "adapted:asgi", environment=environment())
    server.allow("announced boom", "Exception in ASGI application", "Error in ASGI Framework", "callable raised")
    server.allow("ClientDisconnected")
    return server.wait_ready()


@pytest.fixture(params=WSGI, ids=lambda name: re.sub(r"/.*/([^/]*)$", r"\1", name))
def wsgi(request, serve) -> Server:
    if request.param == "gunicorn":
        options = ["--workers", "1", "--worker-class", "gthread", "--threads", "4", "adapted:wsgi"]
        files = {"gunicorn.conf.py": "from sidecar.gunicorn import post_fork\n"}
        command = request.getfixturevalue("gunicorn_command")(*options)
        server = serve(*command, environment=environment(), files=files)
    else:
        uwsgi = request.getfixturevalue("uwsgi_of")(request.param.partition(":")[2])
        options = ["--master", "--module", "adapted:wsgi", "--threads", "4", "--single-interpreter", "--need-app"]
        server = serve(*uwsgi.command(*options), environment=uwsgi.environment)
    found: Server = server
    return found.wait_ready()


def ask(server: Server, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, dict[str, str], bytes]:
    connection = Connection(server.socket, 30)
    try:
        connection.request(method, path, body=body, **more)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def check_answers(server: Server) -> None:
    assert ask(server, "GET", "/plain")[::2] == (200, b"plain")
    assert ask(server, "HEAD", "/plain")[::2] == (200, b"")
    assert ask(server, "POST", "/echo", BODY)[::2] == (200, BODY)
    assert ask(server, "POST", "/echo", iter([BODY, b"!"]), encode_chunked=True)[::2] == (200, BODY + b"!")


def test_wsgi_under_asgi(asgi):
    check_answers(asgi)
    assert ask(asgi, "GET", "/nothing")[::2] == (204, b"")
    status, headers, body = ask(asgi, "GET", "/ids")
    assert (status, body) == (200, headers["x-request-id"].encode() * 3)
    try:
        assert ask(asgi, "GET", "/boom")[0] == 500
    except OSError:
        pass  # daphne's and granian's way to say so
    assert ask(asgi, "GET", "/plain")[2] == b"plain"


def test_a_client_that_goes_in_the_middle_of_a_body(asgi):
    for number in range(2):
        connection = Connection(asgi.socket, 30)
        connection.request("GET", "/endless")
        assert connection.getresponse().read(100_000)
        connection.close()
        closed = asgi.folder / "closed"
        wait_for(lambda: closed.exists() and len(closed.read_text()) == number + 1, "the body is closed", 20)  # noqa: B023
    assert ask(asgi, "GET", "/plain")[2] == b"plain"
    assert (asgi.folder / "closed").read_text() == "xx"


def test_asgi_under_wsgi(wsgi):
    check_answers(wsgi)
    status, headers, body = ask(wsgi, "GET", "/ids")
    assert (status, body) == (200, headers["x-request-id"].encode())
    assert (wsgi.folder / "lifespan.startup").read_text() == "x"
    assert not (wsgi.folder / "lifespan.shutdown").exists()
