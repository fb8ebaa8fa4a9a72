"""Celery, real: a broker, a worker of two processes, and a server whose requests send the tasks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import servers
from harness import wait_for
from server.conftest import APPS, clean_environment
from server.process import Server, is_alive

import sidecar

pytest.importorskip("celery", reason="celery is not installed")
pytest.importorskip("redis", reason="redis, Celery's transport, is not installed")
pytest.importorskip("gunicorn", reason="gunicorn is not installed")

TRACE = "0af7651916cd43dd8448eb211c80319c"
SENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "tracestate": "a=1", "baggage": "user=7"}
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
DEADLINE = 30.0


@pytest.fixture(scope="module")
def broker() -> Iterator[servers.Redis]:
    try:
        redis = servers.Redis()
    except servers.Unavailable as reason:
        pytest.skip(str(reason))
    try:
        redis.start()
        yield redis
    finally:
        redis.stop()


def environment_of(broker: servers.Redis, database: int = 0) -> dict[str, str]:
    """The workers of one database share its tasks."""
    environment = clean_environment(Path(sidecar.__path__[0]).parent, APPS, EXAMPLES)
    return {**environment, "REDIS_URL": f"redis+socket://{broker.socket}?virtual_host={database}"}


class Worker(Server):
    def __init__(self, broker: servers.Redis, database: int = 0, pool: str = "prefork", *more: str) -> None:
        folder = Path(tempfile.mkdtemp(prefix="sidecar-"))
        options = ["--pool", pool, "--concurrency", "2", "--loglevel", "INFO", *more]
        options += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        command = [sys.executable, "-X", "faulthandler", "-m", "celery", "--app", "celery_served", "worker", *options]
        super().__init__(command, folder, environment_of(broker, database))

    def wait_until_ready(self) -> Worker:
        def ready() -> bool:
            assert self.process.poll() is None, self.log
            return " ready." in self.log

        wait_for(ready, f"the worker is ready:\n{self.log}", 40)
        return self


def ended_well(server: Server, number: int = signal.SIGTERM) -> None:
    """Its end, and that its log has shown no alarm."""
    try:
        server.stop(number)
    finally:
        server.kill()
        print(f"--- {' '.join(server.command)}\n{server.log}")
        shutil.rmtree(server.folder)


@pytest.fixture(scope="module")
def worker(broker) -> Iterator[Worker]:
    worker = Worker(broker)
    # What the tasks of these tests raise is logged by Celery.
    worker.allow("LookupError: ", "OSError: once more", r"celery\.exceptions\.Retry", "SoftTimeLimitExceeded")
    log = ""
    try:
        yield worker.wait_until_ready()
        worker.stop()
        log = worker.log
        alarms = worker.alarms()
    finally:
        ended_well(worker)
    assert not alarms, alarms
    assert "Signal handler" not in log


@pytest.fixture(scope="module")
def web(broker) -> Iterator[Server]:
    """Its requests have a deadline, and take a client's trace."""
    folder = Path(tempfile.mkdtemp(prefix="sidecar-"))
    options = ["--bind", "unix:{socket}", "--worker-class", "gthread", "--threads", "8", "-c", "gunicorn.conf.py"]
    (folder / "gunicorn.conf.py").write_text(
        "from sidecar.gunicorn import configure, post_fork\n"
        f"configure(trust='always', deadline={DEADLINE}, name='web')\n"
    )
    command = [sys.executable, "-m", "gunicorn", *options, "celery_served:application"]
    server = Server(command, folder, environment_of(broker))
    try:
        yield server.wait_ready()
        server.stop()
        alarms = server.alarms()
    finally:
        ended_well(server)
    assert not alarms, alarms


def run(web: Server, path: str, **headers: str) -> tuple[dict, list]:
    response = web.get(path, **headers)
    assert response.status == 200, web.log
    told = response.json()
    return told, told["result"]


def test_the_example(web, worker):
    told, result = run(web, "/example")
    assert result == {"total": 8, "request": told["id"]}


def test_a_task_runs_inside_the_request_that_sent_it(web, worker):
    told, [found] = run(web, "/look", X_Request_Id="theirs-1", **SENT)
    assert told == {"id": "theirs-1", "trace": TRACE, "result": [found]}
    assert found["id"] == found["log"] == "theirs-1"
    assert found["trace"] == TRACE
    assert found["state"] == "a=1" and found["baggage"] == "user=7"
    assert found["same"] is True
    # It outlives the request, and its deadline.
    assert found["left"] is None


def test_many_requests_at_once(web, worker):
    responses = web.get_many(["/look?count=4"] * 40, 8)
    ids = set()
    for response in responses:
        told = response.json()
        assert [found["id"] for found in told["result"]] == [told["id"]] * 4
        assert [found["log"] for found in told["result"]] == [told["id"]] * 4
        assert all(found["same"] for found in told["result"])
        ids.add(told["id"])
    assert len(ids) == 40


def test_each_process_has_a_bridge_of_its_own(web, worker):
    """Although the worker's main process had one before the fork; it is started before the first task."""
    found = run(web, "/look?count=30")[1]
    pids = {one["pid"] for one in found}
    assert len(pids) == 2
    for one in found:
        assert one["started_in"] == one["pid"]
        assert one["imported_in"] == one["parent"] == worker.process.pid


def test_nothing_is_left_for_the_next_task(web, worker):
    """Not its id, not its mapping, and nothing that it has begun; also after a task that fails."""
    told, left = run(web, "/leave_state?count=8")
    wait_for((worker.folder / "ended").exists, "what it began has ended")
    assert (worker.folder / "ended").read_text() == told["id"]
    failed, errors = run(web, "/fails?count=8")
    assert errors == [{"error": failed["id"]}] * 8
    for found in left:
        assert found["mapping"] is None and found["id"] == told["id"]
    for sent_by, headers in (("/background?count=8", {}), ("/background?count=8", {"X_Request_Id": "own"})):
        told, after = run(web, sent_by, **headers)
        assert {one["id"] for one in after} == {told["id"]}
        assert all(one["mapping"] is None and one["tasks"] == 0 for one in after)


def send_bare(broker: servers.Redis, name: str, database: int = 0, request: bool = False) -> dict:
    """From a process that is no server; request: in one of its own."""
    script = f"""
import json, sidecar, celery_served as served

def send(environ, start_response):
    print("told", json.dumps(served.app.tasks["celery_served.{name}"].delay().get(timeout=20)))
    start_response("204 No Content", [])
    return []

if {request}:
    send = sidecar.WSGIMiddleware(send, trust="always")
body = send({{"HTTP_X_REQUEST_ID": "of-a-script"}}, lambda status, headers, error=None: print)
getattr(body, "close", bool)()
"""
    folder = Path(tempfile.mkdtemp(prefix="sidecar-"))
    sender = Server([sys.executable, "-c", script], folder, environment_of(broker, database))
    try:
        assert sender.wait(30) == 0, sender.log
        [line] = [line for line in sender.log.splitlines() if line.startswith("told ")]
        return json.loads(line.partition(" ")[2])
    finally:
        sender.kill()
        shutil.rmtree(folder)


def test_a_task_of_no_request_has_none(web, worker, broker):
    run(web, "/leave_state?count=4")
    found = send_bare(broker, "background")
    assert found["id"] is None and found["log"] == "-" and found["mapping"] is None
    assert found["tasks"] == 0


def test_a_retry_has_the_same_id(web, worker):
    told, [found] = run(web, "/again", **SENT)
    assert [one["id"] for one in found] == [told["id"]] * 3
    assert [one["trace"] for one in found] == [TRACE] * 3
    assert [one["baggage"] for one in found] == ["user=7"] * 3
    told, [found] = run(web, "/by_itself")
    assert found["id"] == told["id"] == (worker.folder / "try-0").read_text()


def test_what_a_task_sends_has_the_id_too(web, worker):
    told, [found] = run(web, "/sends_another", **SENT)
    assert found["id"] == told["id"]
    _, after = run(web, f"/fetch/{found['sent']}")
    assert after["id"] == told["id"] and after["trace"] == TRACE


def test_in_place_a_task_stays_in_the_request(web):
    told, found = run(web, "/eager")
    assert found["id"] == told["id"] and found["same"] is True
    assert 0 < found["left"] <= DEADLINE


def test_a_time_limit_ends_a_wait_on_the_bridge(web, worker):
    told, [found] = run(web, "/too_long")
    assert found["left_in_time"] is True and found["id"] == told["id"] and found["same"] is True
    after = run(web, "/background?count=4")[1]
    assert all(one["tasks"] == 0 for one in after)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT], ids=lambda number: number.name)
def test_a_stop_drains(broker, number):
    """A warm stop lets what runs for no request clean up; after any stop no process is left."""
    worker = Worker(broker, database=1).wait_until_ready()
    try:
        pids = {send_bare(broker, "waits", database=1)["pid"]}
        worker.send(number)
        status = worker.wait(30)
        if number == signal.SIGTERM:
            assert status == 0, worker.log
            assert {path.name for path in worker.folder.glob("drained-*")} == {f"drained-{pid}" for pid in pids}
        assert not any(map(is_alive, pids))
        assert not worker.alarms()
    finally:
        ended_well(worker)


def test_a_process_that_has_had_its_tasks_drains(broker):
    worker = Worker(broker, 2, "prefork", "--max-tasks-per-child", "1").wait_until_ready()
    try:
        pids = [send_bare(broker, "waits", database=2)["pid"] for _ in range(2)]
        assert len(set(pids)) == 2
        for pid in pids:
            wait_for((worker.folder / f"drained-{pid}").exists, f"{pid} has drained:\n{worker.log}")
    finally:
        ended_well(worker)


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_pool_in_one_process(broker, pool):
    """Its one bridge is drained as that of any process is."""
    worker = Worker(broker, 3, pool).wait_until_ready()
    try:
        found = send_bare(broker, "waits", database=3)
        assert found["pid"] == worker.process.pid and found["id"] is None
        carried = send_bare(broker, "look", database=3, request=True)
        assert carried["id"] == carried["log"] == "of-a-script" and carried["same"] is True
        assert send_bare(broker, "look", database=3)["id"] is None
        assert worker.stop(seconds=30) == 0
        assert (worker.folder / f"drained-{worker.process.pid}").exists()
        assert not worker.alarms()
    finally:
        ended_well(worker)


def test_a_killed_process_is_replaced(web, worker):
    """The next one has a bridge, too."""
    before = {one["pid"] for one in run(web, "/look?count=30")[1]}
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    worker.allow(r"WorkerLostError", r"\[ERROR\]", "Process 'ForkPoolWorker")
    wait_for(lambda: len(worker.workers() - {victim}) >= 2, "there is another one")

    def answers() -> bool:
        found = run(web, "/look?count=10")[1]
        assert all(one["started_in"] == one["pid"] for one in found)
        return bool({one["pid"] for one in found} - before)

    wait_for(answers, "the new one works, too", 15)
