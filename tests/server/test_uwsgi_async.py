"""uWSGI's async modes with the plugin alone: gevent, and ``async`` without an engine."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys

import pytest
from harness import wait_for
from server.process import check_many, check_workers, leave_background_tasks, wait_drained

REQUESTS = 200
CLIENTS = 8
LOG = ["--log-format", "id=%(request_id) trace=%(trace_id) uri=%(uri)"]


def options_of(mode: str, uwsgi) -> list[str]:
    if mode == "async":
        return ["--async", "4"]
    listed = subprocess.run([uwsgi.binary, "--plugins-list"], capture_output=True, text=True).stderr
    if "gevent" not in listed:
        pytest.skip(f"{uwsgi.binary} has no gevent in it")
    if uwsgi.python.samefile(sys.executable) and importlib.util.find_spec("gevent") is None:
        pytest.skip("gevent is not installed (or not for this Python)")
    if sys.version_info >= (3, 15) and uwsgi.python.samefile(sys.executable):
        pytest.skip("gevent 26.9 in a uWSGI on CPython 3.15 crashes as it makes a greenlet, without Sidecar, too")
    patch = {"gevent": ["--gevent-monkey-patch"], "gevent-early": ["--gevent-early-monkey-patch"]}
    return ["--gevent", "4", *patch[mode]]


@pytest.fixture(params=["async", "gevent", "gevent-early"])
def server(request, serve, uwsgi):
    options = [*options_of(request.param, uwsgi), "--master", "--module", "checked", *LOG]
    return serve(*uwsgi.command(*options), environment=uwsgi.environment).wait_ready()


def test_requests_do_not_mix(server):
    """Ids and context variables: in the view, in coroutines and their tasks, in each step of the body, in close()."""
    check_many(server, ["/check"] * REQUESTS, CLIENTS)
    assert check_workers(server)


def test_the_response_and_the_log_have_the_id(server):
    responses = server.get_many(["/plain", "/own_header", "/write", "/file"] * 3, 4)
    assert all(len(response.ids) == 1 for response in responses)
    assert all(response.text.endswith(response.ids[0]) for response in responses[:3])
    lines = [f"id={response.ids[0]} trace=" for response in responses]
    wait_for(lambda: all(line in server.log for line in lines), "a line for each")


def test_an_inbound_id_is_not_adopted(server):
    response = server.get("/environ_id", X_Request_Id="theirs")
    assert response.ids == [response.text] != ["theirs"]


def test_a_stop_drains(server):
    pids = leave_background_tasks(server, 1)
    server.stop(signal.SIGTERM)
    wait_drained(server, pids)
