"""Jobs of uWSGI's spooler carry the request that has spooled them."""

from __future__ import annotations

import json

import pytest
from harness import wait_for

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(params=["preforked", "lazy"])
def server(request, serve, uwsgi, tmp_path):
    options = ["--master", "--threads", "2", "--module", "spooled", "--spooler", str(tmp_path)]
    options += ["--spooler-frequency", "1", "--sidecar-trust", "always", "--sidecar-deadline", "30"]
    options += ["--lazy-apps", "--spooler-import", "spooled"] * (request.param == "lazy")
    return serve(*uwsgi.command(*options), environment=uwsgi.environment).wait_ready()


def job_of(server, name: str) -> dict:
    path = server.folder / f"job-{name}"
    wait_for(path.exists, "the job has run")
    return json.loads(path.read_text())


def test_a_job_has_the_id_and_the_trace_of_its_request(server):
    sent = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "tracestate": "a=1", "baggage": "user=7"}
    told = server.get("/one", X_Request_Id="theirs-1", **sent).json()
    found = job_of(server, "one")
    assert told == {"id": "theirs-1", "trace": TRACE}
    assert found["id"] == told["id"] and found["trace"] == told["trace"]
    assert found["baggage"] == "user=7" and found["state"] == "a=1"
    assert found["same"] is True
    # It outlives the request, and its deadline.
    assert found["left"] is None
    # The application's function sees nothing of the envelope.
    assert "sidecar" not in found["told"] and "more" in found["told"]


def test_a_job_of_no_request_has_none(server):
    server.get("/one")
    assert "id" in job_of(server, "one")
    server.get("/nobodys")
    assert "id" not in job_of(server, "nobodys")
