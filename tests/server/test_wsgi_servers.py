"""Servers that reuse their threads, and have neither plugin nor hook: ``WSGIMiddleware`` alone keeps requests apart."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from server.conftest import APPS, clean_environment, uwsgi_binaries
from server.process import check_many, check_workers

import sidecar

REQUESTS = 200
CLIENTS = 8

# By name: the command, and what it needs. Each has four threads, or greenlets, for eight clients.
COMMANDS = {
    "waitress": (
        ["-m", "waitress", "--unix-socket", "{socket}", "--threads", "4", "wrapped:application"],
        ["waitress"],
    ),
    "werkzeug": ([str(APPS / "wrapped.py"), "{socket}"], ["werkzeug"]),
    "granian": (
        "-m granian --uds {socket} --interface wsgi --blocking-threads 4 wrapped:application".split(),
        ["granian"],
    ),
}
GEVENT = [
    "--http-socket",
    "{socket}",
    "--master",
    "--die-on-term",
    "--gevent",
    "4",
    "--gevent-monkey-patch",
    "--module",
    "wrapped",
]


def command_of(kind: str, uwsgi_of) -> tuple[list[str], dict[str, str]]:
    """The command and its environment; skips the test where something is missing."""
    if kind in COMMANDS:
        arguments, needs = COMMANDS[kind]
        for name in needs:
            pytest.importorskip(name, reason=f"{name} is not installed (or not for this Python)")
        if kind == "granian" and sys.version_info < (3, 10):
            pytest.skip("granian's last for CPython 3.9 hangs in its stop now and then, whatever the application")
        return [sys.executable, *arguments], clean_environment(Path(sidecar.__path__[0]).parent, APPS)
    uwsgi = uwsgi_of(kind)
    if not uwsgi.is_embedded or "gevent" not in listed_plugins(uwsgi.binary):
        pytest.skip(f"{uwsgi.binary} has no gevent in it")
    if uwsgi.python == Path(sys.executable) and importlib.util.find_spec("gevent") is None:
        pytest.skip("gevent is not installed (or not for this Python)")
    return [str(uwsgi.binary), *GEVENT], uwsgi.environment


def listed_plugins(binary: Path) -> str:
    return subprocess.run([binary, "--plugins-list"], capture_output=True, text=True).stderr


@pytest.fixture(params=[*COMMANDS, *uwsgi_binaries()])
def server(request, serve, uwsgi_of):
    command, environment = command_of(request.param, uwsgi_of)
    return serve(*command, environment=environment).wait_ready()


def test_requests_do_not_mix(server):
    """Ids and context variables: in the view, in coroutines and their tasks, in each step of the body, in close()."""
    check_many(server, ["/check"] * REQUESTS, CLIENTS)
    (state,) = check_workers(server).values()
    assert state["closed"] == REQUESTS
    assert server.stop(signal.SIGTERM) in (0, -signal.SIGTERM)


def test_one_id_in_environ_and_header(server):
    own = server.get("/own_header", X_Request_Id="theirs")
    assert own.ids == [own.text] != ["theirs"]
    assert server.get("/environ_id", X_Request_Id="theirs").text != "theirs"
    head = server.get("/plain", X_Request_Id="theirs")
    assert head.ids == [head.text] != ["theirs"]


def test_an_application_that_raises(server):
    """What it had set goes with it."""
    server.allow("announced boom", "Exception while serving", "Application callable raised")
    assert server.get("/check").status == 200
    try:
        server.get("/boom")
    except OSError:
        pass  # uWSGI closes the connection without an answer.
    check_many(server, ["/check"] * 20)
    check_workers(server)
