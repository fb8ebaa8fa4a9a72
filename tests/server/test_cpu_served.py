"""``run_cpu`` under real servers: what is seen over there, what dies, and that nothing is left."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from harness import wait_for
from server.conftest import stand_ins
from server.process import descendants, is_alive

from sidecar import _core

CONFIG = "from sidecar.gunicorn import post_fork\n"
GUNICORN = {"sync": [], "gthread": ["--worker-class", "gthread", "--threads", "4"]}
ENGINES = ["threads", "processes"]
if hasattr(_core, "InterpreterPool"):
    ENGINES.append("interpreters")


@pytest.fixture(params=["uwsgi", *GUNICORN])
def start(request, serve):
    """Start it with an engine: two workers, of several threads but for gunicorn's sync ones."""

    def start_uwsgi(engine, options, variables):
        uwsgi = request.getfixturevalue("uwsgi_of")(stand_ins()[0])
        environment = {**uwsgi.environment, "SIDECAR_CPU": engine, "SIDECAR_CPU_WORKERS": "2", **variables}
        command = uwsgi.command("--master", "--processes", "2", "--threads", "4", "--module", "cpu_served", *options)
        return serve(*command, environment=environment)

    def start_gunicorn(engine, options, variables):
        environment = request.getfixturevalue("gunicorn_environment")
        command = request.getfixturevalue("gunicorn_command")
        environment = {**environment, "SIDECAR_CPU": engine, "SIDECAR_CPU_WORKERS": "2", **variables}
        chosen = [*GUNICORN[request.param], "-c", "gunicorn.conf.py", *options]
        return serve(
            *command(*chosen, "cpu_served:application"), environment=environment, files={"gunicorn.conf.py": CONFIG}
        )

    def start(engine, *options, deadline=None):
        variables = {"SIDECAR_DEADLINE": deadline} if deadline else {}
        server = (start_uwsgi if request.param == "uwsgi" else start_gunicorn)(engine, options, variables)
        return server.wait_ready()

    return start


def is_python(pid: int) -> bool:
    """A worker process of ours, or the helper that multiprocessing has beside them."""
    try:
        return "multiprocessing" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def far_processes(server) -> set[int]:
    return {pid for pid in descendants(server.process.pid) if is_python(pid)}


@pytest.mark.parametrize("engine", ENGINES)
def test_ids_are_seen_over_there(start, engine):
    server = start(engine)
    pids = set()
    for response in server.get_many(["/check"] * 60, 6):
        assert response.status == 200
        told = response.json()
        assert [told["id"]] == response.ids
        for seen in told["seen"]:
            assert (seen["id"], seen["trace"], seen["log"]) == (told["id"], told["trace"], told["id"])
            assert (seen["pid"] != told["pid"]) == (engine == "processes")
            if engine == "processes":
                assert seen["parent"] == told["pid"] and seen["sockets"] == 0
        pids.add(told["pid"])
    assert server.get("/plain").json()["cpu"] == engine
    assert server.stop(signal.SIGTERM) in (0, -signal.SIGTERM)


def test_nothing_starts_before_the_first_call(start):
    server = start("processes")
    assert not far_processes(server)
    server.get("/check")
    assert far_processes(server)


def test_a_killed_worker_process(start):
    server = start("processes")
    for _ in range(3):
        told = server.get("/kill").json()
        assert "was killed by SIGKILL in the middle of cpu_far.die" in told["told"]
        assert told["others"] == 4 and told["again"]["id"]
    response = server.get("/check")
    assert response.status == 200
    # The workers of the server are those that it had.
    assert "worker 1 killed" not in server.log and "Worker exiting" not in server.log.replace("SIGTERM", "")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_deadline(start, engine):
    """The client has its answer; what goes on is an orphan until it ends."""
    server = start(engine, deadline="1")
    server.allow("DeadlineExceeded")
    assert server.get("/late").status == 504
    (server.folder / "go").touch()

    def ended():
        return "orphan: cpu_far.wait has ended" in server.log or server.get("/stats").json()["cpu_orphans"] == 0

    wait_for(ended, "it has ended")
    assert server.log.count("orphan: cpu_far.wait of request") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_stop_leaves_nothing(start, number):
    server = start("processes")
    server.get_many(["/check"] * 8, 4)
    far = far_processes(server)
    assert far
    server.stop(number)  # waits for all that it had
    assert not any(map(is_alive, far))


def test_a_worker_that_is_killed_leaves_nothing(start):
    """Its worker processes, one of them in the middle of a call that never ends, go with it."""
    server = start("processes")
    server.allow("SIGKILL", r"\[ERROR\] Worker \(pid:\d+\)", "DAMN")
    server.get("/check")
    connection = server.leave_request("/leave", "spins")
    spinning = int((server.folder / "spins").read_text())
    worker = int(Path(f"/proc/{spinning}/stat").read_text().rpartition(")")[2].split()[1])
    own = {pid for pid in descendants(worker) if pid != worker}
    assert spinning in own
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: not any(map(is_alive, own)), f"{own} have gone")
    connection.close()
    server.wait_ready("/check")


def test_the_whole_server_is_killed(start):
    server = start("processes")
    server.get_many(["/check"] * 8, 4)
    far = far_processes(server)
    workers = descendants(server.process.pid) - {server.process.pid}
    # The master first, which would start others.
    for pid in (server.process.pid, *sorted(workers - far)):
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
    server.process.wait(10)
    wait_for(lambda: not any(map(is_alive, workers)), "all have gone")


def test_preloaded(start, request):
    """What was imported before the fork starts nothing there."""
    options = [] if "uwsgi" in request.node.name else ["--preload"]
    server = start("processes", *options)
    told = server.get("/check").json()
    assert told["seen"][0]["parent"] == told["pid"] and told["seen"][0]["sockets"] == 0
