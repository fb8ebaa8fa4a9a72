"""gunicorn: both ways to switch it on, sync and threaded workers, preloaded or not."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import signal

import pytest
from harness import wait_for
from server.process import check_many, check_workers, leave_background_tasks, wait_drained, wait_for_workers

REQUESTS = 200
CLIENTS = 8
IMPORTED = "from sidecar.gunicorn import post_fork\n"
WORKERS = {"sync": [], "gthread": ["--worker-class", "gthread", "--threads", "4"]}


def rows():
    for kind, preload, way in itertools.product(WORKERS, (False, True), ("module", "import")):
        options = WORKERS[kind] + ["--preload"] * preload
        options += ["-c", "python:sidecar.gunicorn" if way == "module" else "gunicorn.conf.py"]
        yield pytest.param(options, id="-".join([kind, "preload" if preload else "late", way]))


@pytest.fixture
def start(serve, gunicorn_command, gunicorn_environment):
    def start(*options: str, config: str = IMPORTED, app: str = "checked:application"):
        command = gunicorn_command(*options, app)
        server = serve(*command, environment=gunicorn_environment, files={"gunicorn.conf.py": config})
        server.wait_ready()
        wait_for_workers(server, 2)
        return server

    return start


@pytest.mark.parametrize("options", list(rows()))
def test_matrix(start, options):
    server = start(*options)
    check_many(server, ["/check"] * REQUESTS, CLIENTS)
    check_workers(server)
    pids = leave_background_tasks(server, 2)
    assert server.stop(signal.SIGTERM) == 0
    wait_drained(server, pids)


@pytest.fixture(params=WORKERS)
def one(request, start):
    return start(*WORKERS[request.param])


def test_headers_and_bodies(one):
    own = one.get("/own_header", X_Request_Id="theirs")
    assert own.ids == [own.text] != ["theirs"]
    written = one.get("/write")
    assert written.text == f"written {written.ids[0]}"
    file = one.get("/file")
    assert file.body == (one.folder / "file.bin").read_bytes()
    assert len(file.ids) == 1
    assert one.get("/file_in_memory").body == b"0123456789"


def test_an_app_that_raises(one):
    one.allow("announced boom", r"\[ERROR\] (Error handling request|Exception)")
    assert one.get("/boom").status == 500
    check_many(one, ["/check"] * 20)
    check_workers(one)


def test_headers_after_an_error_are_not_doubled(one):
    """gunicorn keeps the headers of the first start_response beside those of the second."""
    response = one.get("/twice")
    assert response.status == 503
    assert response.ids == [response.text]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=lambda number: number.name)
def test_a_quick_stop_drains(one, number):
    pids = leave_background_tasks(one, 2)
    assert one.stop(number) == 0
    wait_drained(one, pids)


def test_a_reload_drains_and_goes_on(one):
    # gunicorn 23, the last for CPython 3.9, calls its own reload of a worker an error.
    one.allow(r"Worker \(pid:\d+\) was sent SIGTERM!")
    before = leave_background_tasks(one, 2)
    one.send(signal.SIGHUP)
    wait_drained(one, before)
    one.wait_ready()
    check_many(one, ["/check"] * 50)
    assert not before & leave_background_tasks(one, 2)


def test_hooks_of_ones_own(start):
    """A configuration with hooks of its own calls post_fork; its worker_exit runs, and before the drain."""
    config = """
import sidecar
from sidecar import gunicorn as hooks

def post_fork(server, worker):
    hooks.post_fork(server, worker)
    server.log.info("own post_fork")

def worker_exit(server, worker):
    server.log.info("own worker_exit, bridge running: %s", sidecar.is_running())
"""
    server = start(config=config)
    pids = leave_background_tasks(server, 2)
    assert server.stop() == 0
    wait_drained(server, pids)
    assert server.log.count("own post_fork") == 2
    assert server.log.count("own worker_exit, bridge running: True") == 2


def test_both_hooks_imported(start):
    server = start(config="from sidecar.gunicorn import post_fork, worker_exit\n")
    pids = leave_background_tasks(server, 2)
    assert server.stop() == 0
    wait_drained(server, pids)


@pytest.mark.parametrize("kind", WORKERS)
def test_a_stop_while_a_request_waits(start, kind):
    """The worker gives it the graceful time, then cancels it, and does not hang on the thread that waits."""
    server = start(*WORKERS[kind], "--graceful-timeout", "2")
    server.allow("CancelledError", "SystemExit")
    server.allow(r"\[ERROR\] (Error handling request|Worker \(pid:\d+\) was sent SIG)")
    client = server.leave_request("/sleep", until="asleep")
    server.stop(signal.SIGTERM, seconds=15)
    client.close()


@pytest.mark.parametrize("kind", WORKERS)
def test_a_stream_may_end_when_the_worker_is_asked_to_stop(serve, gunicorn_command, gunicorn_environment, kind):
    options = ["--workers", "1", *WORKERS[kind], "-c", "python:sidecar.gunicorn"]
    command = gunicorn_command(*options, "stopping:application")
    server = serve(*command, environment=gunicorn_environment)
    server.wait_ready()
    with contextlib.closing(server.leave_request("/stream", until="streaming")) as client:
        server.send(signal.SIGTERM)
        assert client.getresponse().read().endswith(b"goodbye\n")
    assert server.wait() == 0


def test_another_worker_class_is_said_to_be_uncovered(serve, gunicorn_command, gunicorn_environment):
    config = """
import time
from gunicorn.workers.base import Worker
from sidecar.gunicorn import post_fork

class Own(Worker):
    def run(self):
        self.log.info("ran with %s", type(self.wsgi).__name__)
        while self.alive:
            self.notify()
            time.sleep(0.02)

worker_class = Own
"""
    server = serve(
        *gunicorn_command("checked:application"),
        environment=gunicorn_environment,
        files={"gunicorn.conf.py": config},
    )
    wait_for(lambda: server.log.count("ran with WSGIMiddleware") == 2, "both workers run")
    assert server.stop() == 0
    assert server.log.count("worker class Own is not covered yet") == 2


HANDS_OUT_A_REQUEST = """
import os, signal

def post_worker_init(worker):
    submit = worker.tpool.submit

    def submit_and_quit(*args):
        if os.path.exists("quit"):
            with worker.tpool._shutdown_lock:  # as submit() itself does
                os.kill(os.getpid(), signal.SIGQUIT)
                os.getpid()
        return submit(*args)

    worker.tpool.submit = submit_and_quit
"""


def test_a_quit_while_a_request_is_handed_out(start):
    """gunicorn's own handler waits there for a lock that the main thread holds."""
    server = start(*WORKERS["gthread"], config=IMPORTED + HANDS_OUT_A_REQUEST)
    (server.folder / "quit").touch()
    with contextlib.suppress(OSError, http.client.HTTPException):
        server.get("/plain")
    (server.folder / "quit").unlink()
    wait_for(lambda: "Worker exiting" in server.log, "the worker has gone")
    server.wait_ready()
