"""Overload under gunicorn and uWSGI: 503 at once for what is too much; the others go on, and then it is over."""

from __future__ import annotations

import concurrent.futures
import os
import signal

import pytest
from harness import wait_for

APP = """
import asyncio, os, time
import sidecar

FOLDER = os.environ["SIDECAR_TEST_FOLDER"]

async def until_told():
    open(os.path.join(FOLDER, f"waits-{sidecar.current().id}"), "w").close()
    while not os.path.exists(os.path.join(FOLDER, "go-on")):
        await asyncio.sleep(0.002)
    return b"answered"

async def at_once():
    return b"other"

@sidecar.limit("payments", 2)
def pay():
    return sidecar.run_sync(until_told())

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/limited":
        body = pay()
    elif path == "/slow":
        body = sidecar.run_sync(until_told())
    elif path == "/pool":
        bridge = sidecar.get_bridge()
        body = f"{bridge._workers} threads, {bridge._max_queue} may wait".encode()
    elif path == "/raises":
        raise sidecar.Overloaded("not now", retry_after=7)
    else:
        body = sidecar.run_sync(at_once())
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
CONFIG = "from sidecar.gunicorn import post_fork\n"
THREADED = ["--workers", "1", "--worker-class", "gthread", "--threads", "6"]


@pytest.fixture
def start(serve, gunicorn_command, gunicorn_environment):
    def start(*options: str, **environment: str):
        command = gunicorn_command("-c", "gunicorn.conf.py", *options, "overloaded_app:application")
        files = {"gunicorn.conf.py": CONFIG, "overloaded_app.py": APP}
        server = serve(*command, environment={**gunicorn_environment, **environment}, files=files)
        return server.wait_ready()

    return start


def check_refusal(answer, seconds="1"):
    headers = {name.lower(): value for name, value in answer.headers}
    assert (answer.status, headers["retry-after"]) == (503, seconds)
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert len(answer.ids) == 1
    assert answer.text == f"There is too much to do just now.\nRequest: {answer.ids[0]}\n"


@pytest.mark.parametrize("options", [["--workers", "1"], THREADED], ids=["sync", "gthread"])
def test_an_unhandled_overload_is_answered(start, options):
    server = start(*options)
    for _ in range(3):
        check_refusal(server.get("/raises"), "7")
    assert server.get().text == "other"
    assert server.stop(signal.SIGTERM) == 0


def check_load(server, path, others_answer):
    """Two get in, four do not; then there is room again."""

    def waiting():
        return [name for name in os.listdir(server.folder) if name.startswith("waits-")]

    with concurrent.futures.ThreadPoolExecutor(2) as clients:
        slow = [clients.submit(server.get, path) for _ in range(2)]
        try:
            wait_for(lambda: len(waiting()) == 2, "two are inside")
            for _ in range(4):
                check_refusal(server.get(path))
            if others_answer:
                assert [server.get().text for _ in range(4)] == ["other"] * 4
            else:
                check_refusal(server.get())
        finally:
            (server.folder / "go-on").touch()
        assert [one.result().text for one in slow] == ["answered"] * 2
    assert server.get(path).text == "answered"
    assert server.log.count("answered with 503") >= 1
    assert server.stop(signal.SIGTERM) == 0


def test_a_named_limit_leaves_the_others_alone(start):
    check_load(start(*THREADED), "/limited", others_answer=True)


def test_the_cap_of_calls_is_the_workers(start):
    check_load(start(*THREADED, SIDECAR_MAX_CALLS="2"), "/slow", others_answer=False)


@pytest.fixture
def start_uwsgi(serve, uwsgi):
    def start(*options: str):
        command = uwsgi.command("--master", "--threads", "6", "--module", "overloaded_app", *options)
        return serve(*command, environment=uwsgi.environment, files={"overloaded_app.py": APP}).wait_ready()

    return start


def test_uwsgis_options(start_uwsgi):
    check_load(start_uwsgi("--sidecar-max-calls", "2"), "/slow", others_answer=False)
    server = start_uwsgi("--sidecar-workers", "3", "--sidecar-max-queue", "0")
    assert server.get("/pool").text == "3 threads, 0 may wait"


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("workers", "some", "sidecar-workers = some: must be a whole number"),
        ("max-queue", "-1", "sidecar-max-queue = -1: must be a whole number"),
        ("workers", "0", "workers must be a whole number from 1 on, or None, not 0"),
        ("max-calls", "0", "max_calls must be a whole number from 1 on, or None, not 0"),
    ],
)
def test_a_wrong_one_ends_uwsgi_at_its_start(serve, uwsgi, option, value, reason):
    command = uwsgi.command("--module", "checked", f"--sidecar-{option}", value)
    server = serve(*command, environment=uwsgi.environment)
    assert server.wait() == 1
    assert reason in server.log
