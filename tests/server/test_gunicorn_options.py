"""``sidecar.gunicorn.configure``: what it says counts in each worker, and what is wrong ends gunicorn at once."""

from __future__ import annotations

import signal

import pytest
from harness import wait_for

APP = """
import json
import sidecar

def application(environ, start_response):
    request, bridge = sidecar.current(), sidecar.get_bridge()
    shown = {"id": request.id, "has_deadline": request.deadline is not None, "workers": bridge._workers,
             "max_calls": bridge._max_calls, "name": bridge.name}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(shown).encode()]
"""
PRELOADED = "import sidecar, asyncio\nsidecar.run_sync(asyncio.sleep(0))\n" + APP
IMPORT = "from sidecar.gunicorn import configure, post_fork\n"


@pytest.fixture
def start(serve, gunicorn_command, gunicorn_environment):
    """With this configuration; not waited for."""

    def start(config: str, *options: str, app: str = APP, **variables: str):
        files = {"gunicorn.conf.py": IMPORT + config, "options_app.py": app}
        command = gunicorn_command(*options, "options_app:application")
        return serve(*command, environment={**gunicorn_environment, **variables}, files=files)

    return start


def said(server):
    mark = "sidecar: configuration: "
    return [line.partition(mark)[2] for line in server.log.splitlines() if mark in line]


def test_the_configuration_wins_over_the_environment(start):
    config = 'configure(workers=3, trust="always", name="shop")\nraw_env = ["SIDECAR_MAX_CALLS=7"]\n'
    server = start(config, SIDECAR_WORKERS="9", SIDECAR_DEADLINE="5").wait_ready()
    shown = server.get(X_Request_Id="theirs").json()
    assert shown == {"id": "theirs", "has_deadline": True, "workers": 3, "max_calls": 7, "name": "shop"}
    # By the first worker only: the others say it where the log's level is debug.
    assert said(server) == [
        "trust = always (configure())",
        "deadline = 5 s (environment)",
        "workers = 3 (configure())",
        "max_calls = 7 (environment)",
        "name = shop (configure())",
    ]


def test_each_worker_says_it_to_who_debugs(start):
    server = start("", "--log-level", "debug", "--worker-class", "gthread").wait_ready()
    wait_for(lambda: said(server) == ["all defaults"] * 2, "both workers")


def test_a_deadline_from_gunicorns_timeout(start):
    server = start("configure(deadline_margin=2)", "--timeout", "30").wait_ready()
    assert said(server) == ["deadline = 28 s (timeout less the margin)", "deadline_margin = 2 s (configure())"]
    assert server.get().json()["has_deadline"] is True


def test_no_deadline_at_all(start):
    server = start("configure(deadline=0)", "--timeout", "30").wait_ready()
    assert server.get().json()["has_deadline"] is False
    assert said(server)[-1] == "deadline = no limit is not below timeout (30 s), which ends the worker first"


def test_an_application_that_is_preloaded_and_makes_a_bridge(start):
    server = start("configure(workers=3)", "--preload", app=PRELOADED).wait_ready()
    assert server.get().json()["workers"] == 3


def test_a_reload_takes_the_new_configuration(start):
    server = start("configure(workers=3, max_calls=7)").wait_ready()
    (server.folder / "gunicorn.conf.py").write_text(IMPORT + "configure(workers=4)")
    server.allow(r"Worker \(pid:\d+\) was sent SIGTERM!")  # gunicorn 23 calls its own reload an error
    server.send(signal.SIGHUP)

    def is_new() -> bool:
        shown = server.wait_ready().get().json()
        return (shown["workers"], shown["max_calls"]) == (4, -1)

    wait_for(is_new, "the new workers have the new options", 20)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("configure(worker=8)", "TypeError: worker is no option of Sidecar's; did you mean workers?"),
        ("configure(workers=0)", "ValueError: workers: workers must be a whole number from 1 on, or None, not 0"),
        ("configure(trust='everybody')", "ValueError: trust: trust: "),
    ],
)
def test_what_is_wrong_ends_gunicorn_at_its_start(start, config, reason):
    server = start(config)
    server.allow(reason[:20])
    assert server.wait() == 1
    assert reason in server.log
    assert "Booting worker" not in server.log


def test_what_is_wrong_in_the_environment_ends_the_worker(start):
    server = start("", SIDECAR_TRUST="everybody")
    server.allow("ValueError: SIDECAR_TRUST = everybody: trust: ", r"\[ERROR\]", "HaltServer")
    server.wait()
    assert "ValueError: SIDECAR_TRUST = everybody: trust: " in server.log
