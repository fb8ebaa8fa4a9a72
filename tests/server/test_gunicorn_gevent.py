"""gunicorn's gevent workers: requests that wait in a call at once, ids and contexts kept apart, the bridge drained."""

from __future__ import annotations

import itertools
import signal
import time

import pytest
from server.process import check_many, check_workers, leave_background_tasks, wait_drained, wait_for_workers

pytest.importorskip("gevent", reason="gevent is not installed (it has no wheel for free-threaded CPython)")

CONFIG = "from sidecar.gunicorn import post_fork\n"
KINDS = ("gevent", "gunicorn.workers.ggevent.GeventPyWSGIWorker")


@pytest.fixture
def start(serve, gunicorn_command, gunicorn_environment):
    def start(*options: str, workers: int = 2):
        command = gunicorn_command(*options, "--workers", str(workers), "--graceful-timeout", "3", "green:application")
        server = serve(*command, environment=gunicorn_environment, files={"gunicorn.conf.py": CONFIG})
        server.wait_ready()
        wait_for_workers(server, workers)
        return server

    return start


@pytest.mark.parametrize("kind,preload", list(itertools.product(KINDS, (False, True))))
def test_matrix(start, kind, preload):
    server = start("--worker-class", kind, *["--preload"] * preload)
    check_many(server, ["/check"] * 200, 8)
    check_workers(server)
    pids = leave_background_tasks(server, 2)
    assert server.stop(signal.SIGTERM) == 0
    wait_drained(server, pids)
    assert "not covered" not in server.log


def test_requests_of_one_worker_wait_at_once(start):
    server = start("--worker-class", "gevent", workers=1)
    worker = server.get("/state").json()["pid"]
    begin = time.monotonic()
    answers = {response.text for response in server.get_many(["/second"] * 10, 10)}
    assert time.monotonic() - begin < 5
    assert answers == {f"no hub in {worker}"}
