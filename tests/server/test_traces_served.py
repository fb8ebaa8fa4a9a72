"""Trace Context and Baggage under real servers: all of tests/tracing's tables, with a caller that is trusted or not."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server.conftest import clean_environment
from server.process import Server
from tracing.cases import GOOD, TRACEPARENT, TRACESTATE, Lines
from tracing.service import Collector, post_over, serving
from tracing.test_baggage import BAGGAGE

import sidecar

TESTS = Path(__file__).parents[1]
PATHS = (Path(sidecar.__path__[0]).parent, TESTS)
APP = """
import sidecar
from tracing.service import application as service

application = sidecar.WSGIMiddleware(service, trust="{trust}")
"""

Sent = dict[str, str]
Send = Callable[[Lines], Sent]


@pytest.fixture
def sending() -> Iterator[Callable[[Server], Send]]:
    """Call the service of a server; the headers of the call that it makes in turn."""
    collector = Collector()
    numbers = iter(range(1_000_000))
    with serving(collector) as base:

        def sending(server: Server) -> Send:
            def send(lines: Lines) -> Sent:
                name = f"/{next(numbers)}"
                connection = socket.socket(socket.AF_UNIX)
                connection.settimeout(20)
                connection.connect(str(server.socket))
                post_over(connection, "/", lines, [{"url": base + name, "arguments": []}])
                (call,) = collector.calls.pop(name)
                found = {key.lower(): value for key, value in call}
                assert len(found) == len(call), call
                return found

            return send

        yield sending


def check(send: Send, trusted: bool) -> None:
    for name, (lines, meant) in TRACEPARENT.items():
        trace_id = send(lines)["traceparent"].split("-")[1]
        if meant is not None and trusted:
            assert trace_id == meant.trace_id, name
        else:
            assert not any(trace_id in value for _, value in lines), name
    for name, (lines, listed) in TRACESTATE.items():
        assert send([("traceparent", GOOD), *lines]).get("tracestate", "") == (listed if trusted else ""), name
    for name, (lines, passed_on, _) in BAGGAGE.items():
        assert send(lines).get("baggage", "") == (passed_on if trusted else ""), name


@pytest.mark.parametrize("trust", ["always", "untrusted"])
def test_uwsgi(serve, uwsgi, sending, trust):
    options = ["--master", "--module", "tracing.service:application", "--need-app", "--sidecar-trust", trust]
    # The last of an option counts: some of the headers are long.
    command = uwsgi.command(*options, "--buffer-size", "65535")
    server = serve(*command, environment=clean_environment(uwsgi.package_folder, TESTS))
    server.wait_ready()
    check(sending(server), trust == "always")


@pytest.mark.parametrize("trust", ["always", "untrusted"])
def test_gunicorn(serve, gunicorn_command, sending, trust):
    # One worker, that has answered: gunicorn loses a stop that reaches a worker before its signals are set up.
    command = gunicorn_command("--workers", "1", "--limit-request-field_size", "60000", "traced:application")
    server = serve(*command, environment=clean_environment(*PATHS), files={"traced.py": APP.format(trust=trust)})
    server.wait_ready()
    check(sending(server), trust == "always")
