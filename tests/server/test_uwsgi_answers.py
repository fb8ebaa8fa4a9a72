"""What the plugin does with an application's result, and what it tells uWSGI's log of a request."""

from __future__ import annotations

import re

import pytest
from harness import wait_for

LOG_FORMAT = (
    "id=%(request_id) trace=%(trace_id) uri=%(uri) status=%(status) calls=%(bridge_calls) ms=%(bridge_ms) all=%(msecs)"
)


@pytest.fixture
def answers(serve, uwsgi):
    options = ["--master", "--threads", "2", "--module", "answers", "--log-format", LOG_FORMAT]
    options += ["--check-static", "{socket}.static"]
    # No watch: the client that goes is found by the write.
    options += ["--sidecar-disconnect", "off"]
    server = serve(*uwsgi.command(*options), environment=uwsgi.environment)
    (server.folder / "socket.static").mkdir()
    (server.folder / "socket.static" / "page.txt").write_text("static")
    return server.wait_ready("/of_a_list")


@pytest.mark.parametrize("path", ["of_a_list", "of_a_tuple", "raw", "closing"])
def test_each_kind_of_result_is_sent_whole(answers, path):
    response = answers.get(f"/{path}")
    assert response.body == b"one two"
    assert len(response.ids) == 1


def test_an_empty_result_has_headers(answers):
    response = answers.get("/empty")
    assert (response.status, response.body) == (200, b"")
    assert len(response.ids) == 1


def test_a_list_with_a_close_is_closed_in_its_request(answers):
    response = answers.get("/closing")
    wait_for((answers.folder / "closed").exists, "it is closed")
    wait_for(lambda: (answers.folder / "closed").read_text() == response.ids[0], "it has written its id")


def test_what_uwsgi_cannot_send_is_left_to_it(answers):
    answers.allow("Unhandled object from iterator: 'not bytes'")
    assert answers.get("/odd").body == b"one two"
    assert "Unhandled object from iterator: 'not bytes'" in answers.log


def test_a_client_that_is_gone_is_reported_as_uwsgi_reports_it(answers):
    answers.allow("OSError: write error")
    client = answers.leave_request("/gone", until="asked")
    client.close()
    (answers.folder / "client-gone").write_text("")
    wait_for(lambda: answers.log.count("OSError: write error") == 1, "uWSGI tells of it, once")
    assert answers.get("/of_a_list").body == b"one two"


def test_the_log_names_request_and_trace(answers):
    request_id, trace_id = answers.get("/trace").text.split()
    line = f"id={request_id} trace={trace_id} uri=/trace status=200 calls=0 ms=0.000 "
    wait_for(lambda: line in answers.log, "its line is in the log")


def test_a_file_that_uwsgi_serves_has_no_id(answers):
    """Not even that of the core's last request."""
    assert answers.get("/trace").status == 200
    answers.get_many(["/page.txt"] * 4, 2)
    line = "id=- trace=- uri=/page.txt status=200 calls=- ms=- "
    wait_for(lambda: answers.log.count(line) == 4, "a line for each")


def test_the_log_tells_what_the_bridge_took(answers):
    request_id = answers.get("/calls").text
    found = re.compile(rf"id={request_id} .* uri=/calls status=200 calls=(\d+) ms=([\d.]+) all=(\d+)")
    wait_for(lambda: found.search(answers.log), "its line is in the log")
    line = found.search(answers.log)
    assert line is not None
    # Three calls of 20 ms, and a stream of two items and its end.
    assert int(line[1]) == 6
    assert 60 <= float(line[2]) <= int(line[3]) + 1
