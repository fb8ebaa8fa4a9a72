"""A worker that uWSGI asks to stop: what its bridge is told while requests are still in progress."""

from __future__ import annotations

import contextlib
import signal

import pytest
from harness import wait_for

pytestmark = pytest.mark.usefixtures("first_uwsgi")


@pytest.mark.parametrize("threads", ["1", "4"])
def test_a_stream_may_end_by_itself(serve, uwsgi, threads):
    command = uwsgi.command("--master", "--processes", "1", "--threads", threads, "--module", "stopping")
    server = serve(*command, "--worker-reload-mercy", "30", environment=uwsgi.environment)
    server.wait_ready()
    with contextlib.closing(server.leave_request("/stream", until="streaming")) as client:
        server.send(signal.SIGHUP)
        body = client.getresponse().read()
    assert body.startswith(b"more\n")
    assert body.endswith(b"goodbye\n")
    wait_for(lambda: server.get("/").status == 200, "the next worker serves")
    server.stop(signal.SIGTERM)


def test_the_background_is_cleaned_up_before_the_patience_ends(serve, uwsgi):
    """The worker itself is killed then: its request ends for nobody."""
    command = uwsgi.command("--master", "--processes", "1", "--threads", "4", "--module", "stopping")
    command += ["--worker-reload-mercy", "5", "--sidecar-shutdown-timeout", "2"]
    server = serve(*command, environment=uwsgi.environment)
    server.wait_ready()
    server.allow(r"worker \d \(pid: \d+\) is taking too much time to die\.\.\.NO MERCY !!!")
    server.allow("cancelled in the background")
    with contextlib.closing(server.leave_request("/held", until="held")) as client:
        server.send(signal.SIGHUP)
        wait_for(lambda: (server.folder / "cleaned-up").exists(), "the task has cleaned up")
        assert "NO MERCY" not in server.log
        with pytest.raises(ConnectionError):
            client.getresponse()
    assert "cancelled in the background: work" in server.log
    wait_for(lambda: server.get("/").status == 200, "the next worker serves")
    server.stop(signal.SIGTERM)
