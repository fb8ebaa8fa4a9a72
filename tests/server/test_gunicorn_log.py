"""gunicorn's access log names the request: by the response's header, and by the atoms of our logger class."""

from __future__ import annotations

import json

import pytest
from harness import wait_for
from server.process import Server

TRACE = "0af7651916cd43dd8448eb211c80319c"
APP = """
import json
import sidecar

def application(environ, start_response):
    request = sidecar.current()
    told = [request.id, request.trace_id, request.span_id] if request else []
    body = json.dumps(told).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    yield body
"""
CONFIG = """
from sidecar.gunicorn import post_fork
accesslog = "-"
"""
LOGGER = 'logger_class = "sidecar.gunicorn_log.Logger"\n'
WORKERS = {"sync": [], "gthread": ["--worker-class", "gthread", "--threads", "4"]}


@pytest.fixture
def start(serve, gunicorn_command, gunicorn_environment):
    def start(config: str, *options: str) -> Server:
        # One worker, that has answered: gunicorn loses a stop that reaches a worker before its signals are set up.
        server = serve(
            *gunicorn_command("--workers", "1", *options, "logged:application"),
            environment=gunicorn_environment,
            files={"gunicorn.conf.py": config, "logged.py": APP},
        )
        return server.wait_ready()

    return start


def access_lines(server: Server, count: int) -> list[str]:
    """What the log has of those that answered, beyond the requests that waited for the server to be ready."""

    def lines() -> list[str]:
        return [line.split()[1:] for line in server.log.splitlines() if line.startswith("ACCESS ")]

    wait_for(lambda: len(lines()) >= count, f"{count} lines in the access log:\n{server.log}")
    return lines()


@pytest.mark.parametrize("kind", WORKERS)
def test_the_responses_header(start, kind):
    server = start(CONFIG + "access_log_format = 'ACCESS %({x-request-id}o)s %(s)s'\n", *WORKERS[kind])
    answers = server.get_many(["/x"] * 20, 4, X_Request_ID="theirs")
    lines = access_lines(server, 21)
    for answer in answers:
        assert [*answer.ids, "200"] in lines
    assert ["theirs", "200"] not in lines


@pytest.mark.parametrize("kind", WORKERS)
def test_the_atoms(start, kind):
    form = "access_log_format = 'ACCESS %(id)s %(trace_id)s %(span_id)s %({x-request-id}o)s %(s)s'\n"
    server = start(CONFIG + LOGGER + form, *WORKERS[kind])
    answers = server.get_many(["/x"] * 20, 4, traceparent=f"00-{TRACE}-b7ad6b7169203331-01")
    lines = access_lines(server, 21)
    for answer in answers:
        told = json.loads(answer.body)
        assert told[0] == answer.ids[0]
        assert told[1] != TRACE  # nobody is trusted
        assert [*told, answer.ids[0], "200"] in lines


def test_a_request_without_a_scope(start):
    server = start('accesslog = "-"\n' + LOGGER + "access_log_format = 'ACCESS %(id)s %(trace_id)s %(m)s'\n")
    assert server.get("/x").json() == []
    assert ["-", "-", "GET"] in access_lines(server, 2)
