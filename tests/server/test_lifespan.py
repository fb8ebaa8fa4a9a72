"""Resources and worker hooks in the workers of real servers: once for each, to the end, in order."""

from __future__ import annotations

import concurrent.futures
import signal

import pytest
from harness import wait_for

CLIENTS = 8
LIFE = ["started, request None", "made", "stopping, served, True", "closed"]


def check(server, workers=2):
    server.wait_ready()
    pids = set()

    def ask(_):
        response = server.get("/plain")
        assert response.status == 200, response.text
        pids.add(int(response.text))

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as executor:

        def all_seen():
            list(executor.map(ask, range(4 * CLIENTS)))
            return len(pids) == workers

        wait_for(all_seen, f"{workers} workers answer")
    server.stop(signal.SIGTERM)
    for pid in pids:
        notes = server.folder / f"notes-{pid}"
        wait_for(lambda notes=notes: notes.read_text().splitlines() == LIFE, f"{notes.read_text()}: {LIFE}")
    assert {path.name for path in server.folder.glob("notes-*")} == {f"notes-{pid}" for pid in pids}


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["late", "preload"])
@pytest.mark.parametrize("kind", [[], ["--worker-class", "gthread", "--threads", "4"]], ids=["sync", "gthread"])
def test_gunicorn(serve, gunicorn_command, gunicorn_environment, kind, preload):
    options = [*kind, *preload, "-c", "python:sidecar.gunicorn"]
    check(serve(*gunicorn_command(*options, "kept:application"), environment=gunicorn_environment))


@pytest.mark.parametrize("lazy", [[], ["--lazy-apps"]], ids=["preforked", "lazy"])
def test_uwsgi(serve, uwsgi, lazy):
    options = ["--master", "--processes", "2", "--threads", "4", *lazy, "--module", "kept"]
    check(serve(*uwsgi.command(*options), environment=uwsgi.environment))
