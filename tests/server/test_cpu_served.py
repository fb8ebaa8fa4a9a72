"""``run_cpu`` under real servers: what is seen over there, what dies, and that nothing is left."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from harness import wait_for
from server.conftest import stand_ins
from server.process import descendants, is_alive
from unit.cpu_bridges import picked
from unit.cpu_interpreter_work import is_broken

from sidecar import _core

CONFIG = "from sidecar.gunicorn import post_fork\n"
GUNICORN = {"sync": [], "gthread": ["--worker-class", "gthread", "--threads", "4"]}
ENGINES = ["threads", "processes"]
if hasattr(_core, "InterpreterPool") and not is_broken():
    ENGINES.append("interpreters")
with_processes = pytest.mark.parametrize("engine", ["processes"])


@pytest.fixture(params=["uwsgi", *GUNICORN])
def start(request, serve):
    """Start it with an engine: two workers by default, of several threads but for gunicorn's sync ones."""

    def start_uwsgi(engine, options, variables):
        uwsgi = request.getfixturevalue("uwsgi_of")(stand_ins()[0])
        environment = {**uwsgi.environment, "SIDECAR_CPU": engine, "SIDECAR_CPU_WORKERS": "2", **variables}
        command = uwsgi.command("--master", "--threads", "4", "--module", "cpu_served", *options)
        return serve(*command, environment=environment)

    def start_gunicorn(engine, options, variables):
        environment = request.getfixturevalue("gunicorn_environment")
        command = request.getfixturevalue("gunicorn_command")
        environment = {**environment, "SIDECAR_CPU": engine, "SIDECAR_CPU_WORKERS": "2", **variables}
        chosen = [*GUNICORN[request.param], "-c", "gunicorn.conf.py", *options]
        return serve(
            *command(*chosen, "cpu_served:application"), environment=environment, files={"gunicorn.conf.py": CONFIG}
        )

    def start(engine, *options, deadline=None, processes=2):
        options = (*options, "--processes" if request.param == "uwsgi" else "--workers", str(processes))
        variables = {"SIDECAR_DEADLINE": deadline} if deadline else {}
        server = (start_uwsgi if request.param == "uwsgi" else start_gunicorn)(engine, options, variables)
        # gunicorn's way to leave at once, be it from the end of a request that has its answer.
        server.allow("Error handling request", "SystemExit: 0")
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


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
def test_ids_are_seen_over_there(start, engine):
    server = start(engine)
    pids = set()
    for response in server.get_many(["/check"] * 60, 6):
        assert response.status == 200
        told = response.json()
        assert [told["id"]] == response.ids
        for seen in told["seen"]:
            assert (seen["id"], seen["trace"], seen["log"]) == (told["id"], told["trace"], told["id"])
            assert (seen["pid"] != told["pid"]) == (picked(engine) == "processes")
            if picked(engine) == "processes":
                assert seen["parent"] == told["pid"] and seen["sockets"] == 0
        pids.add(told["pid"])
    assert server.get("/plain").json()["cpu"] == picked(engine)
    assert server.stop(signal.SIGTERM) in (0, -signal.SIGTERM)


@with_processes
def test_nothing_starts_before_the_first_call(start, engine):
    server = start(engine)
    assert not far_processes(server)
    server.get("/check")
    assert far_processes(server)


@with_processes
def test_a_killed_worker_process(start, engine):
    server = start(engine)
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
    server = start(engine, deadline="1", processes=1)
    server.allow("DeadlineExceeded")
    # Its workers are warm: what is late is the function alone.
    wait_for(lambda: server.get("/check").status == 200, "it is in time")
    assert server.get("/late").status == 504
    assert server.get("/stats").json()["cpu_orphans"] == 1
    (server.folder / "go").touch()
    wait_for(lambda: server.get("/stats").json()["cpu_orphans"] == 0, "it has ended")
    assert server.log.count("orphan: cpu_far.wait of request") == 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_stop_leaves_nothing(start, engine, number):
    server = start(engine)
    pids: set[int] = set()

    def all_answer() -> bool:
        pids.update(response.json()["pid"] for response in server.get_many(["/check"] * 8, 4))
        return len(pids) == 2

    # gunicorn's worker that is told to stop while it boots does not hear of it.
    wait_for(all_answer, "both workers have started")
    far = far_processes(server)
    assert bool(far) is (engine == "processes")
    server.stop(number)  # waits for all that it had
    assert not any(map(is_alive, far))


@with_processes
def test_a_worker_that_is_killed_leaves_nothing(start, engine):
    """Its worker processes, one of them in the middle of a call that never ends, go with it."""
    server = start(engine)
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

    def another():
        told = [response.json()["pid"] for response in server.get_many(["/plain"] * 12, 6)]
        return len(set(told)) == 2

    # Stopped while it boots, gunicorn's new worker misses that, and is waited for.
    wait_for(another, "the one in its place answers")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_whole_server_is_killed(start, engine):
    server = start(engine)
    server.get_many(["/check"] * 8, 4)
    far = far_processes(server)
    workers = descendants(server.process.pid) - {server.process.pid}
    # The master first, which would start others.
    for pid in (server.process.pid, *sorted(workers - far)):
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
    server.process.wait(10)
    wait_for(lambda: not any(map(is_alive, workers)), "all have gone")


@with_processes
def test_preloaded(start, engine, request):
    """What was imported before the fork starts nothing there."""
    options = [] if "uwsgi" in request.node.name else ["--preload"]
    server = start(engine, *options)
    told = server.get("/check").json()
    assert told["seen"][0]["parent"] == told["pid"] and told["seen"][0]["sockets"] == 0
