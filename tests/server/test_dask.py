"""Dask, real: a scheduler and two worker processes on loopback, and servers whose requests send them calls."""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import wait_for
from server.conftest import APPS, clean_environment, stand_ins
from server.process import Server

import sidecar

pytest.importorskip("distributed", reason="distributed is not installed (there may be none for this Python yet)")

PACKAGE = Path(sidecar.__path__[0]).parent
GTHREAD = ["--worker-class", "gthread", "--threads", "4", "-c", "gunicorn.conf.py"]
# Dask says that it was told to leave, and that somebody else was killed, in its own words.
QUIET = {"DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "critical", "DASK_DISTRIBUTED__ADMIN__TICK__LIMIT": "1h"}
# A worker for which there is no such package.
WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sidecar":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from distributed.cli.dask_worker import main
main()
"""


class Farm:
    """A scheduler, and processes of one thread each that work for it."""

    workers: list[Server]

    def __init__(self, port: str = "0", **variables: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sidecar-"))
        self.environment = {**clean_environment(PACKAGE, APPS), **QUIET, **variables}
        self.processes: list[Server] = []
        # It listens for HTTP without its dashboard, too.
        ports = ["--port", port, "--dashboard-address", "127.0.0.1:0"]
        self.scheduler = self._start("-m", "distributed.cli.dask_scheduler", *ports)
        wait_for(self._tells, f"the scheduler says where it is:\n{self.scheduler.log}", 30)

    def _start(self, *command: str) -> Server:
        file = str(self.folder / "scheduler.json")
        options = ["--scheduler-file", file, "--host", "127.0.0.1", "--no-dashboard"]
        folder = Path(tempfile.mkdtemp(prefix="sidecar-"))
        self.processes.append(Server([sys.executable, *command, *options], folder, self.environment))
        return self.processes[-1]

    def _tells(self) -> bool:
        assert self.scheduler.process.poll() is None, self.scheduler.log
        try:
            self.address = json.loads((self.folder / "scheduler.json").read_text())["address"].partition("//")[2]
        except (OSError, ValueError):
            return False
        return True

    def add(self, without: bool = False) -> Server:
        command = ["-c", WITHOUT] if without else ["-m", "distributed.cli.dask_worker"]
        return self._start(*command, "--nthreads", "1", "--no-nanny")

    @property
    def url(self) -> str:
        return f"dask://{self.address}"

    def calls(self, worker: Server) -> int:
        path = self.folder / f"calls-{worker.process.pid}"
        return path.stat().st_size if path.exists() else 0

    def stop(self) -> None:
        # The workers first: one without its scheduler looks for it.
        for process in reversed(self.processes):
            process.kill()
            print(f"--- {process.process.pid}: {' '.join(process.command)}\n{process.log}")
            shutil.rmtree(process.folder)
        shutil.rmtree(self.folder)


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    farm = Farm()
    try:
        farm.workers = [farm.add(), farm.add()]
        wait_for_workers(farm, farm.workers)
        yield farm
    finally:
        farm.stop()


ASK = """
import json, sys
from distributed import Client
with Client(sys.argv[1], set_as_default=False) as client:
    client.wait_for_workers(int(sys.argv[2]))
    print(json.dumps(list(client.run(lambda: __import__("os").getpid()).values())))
"""


def wait_for_workers(farm: Farm, workers: list[Server]) -> None:
    command = [sys.executable, "-c", ASK, f"tcp://{farm.address}", str(len(workers))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40, env=farm.environment)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {worker.process.pid for worker in workers}


@pytest.fixture
def start(request, serve, farm) -> Callable[..., Server]:
    """By name: which server, and the form in which it is told of the cluster."""

    def gunicorn(configuration: str = "", **variables: str) -> Server:
        environment = request.getfixturevalue("gunicorn_environment")
        command = request.getfixturevalue("gunicorn_command")(*GTHREAD, "dask_served:application")
        config = f"from sidecar.gunicorn import configure, post_fork\n{configuration}\n"
        return serve(*command, environment=told(environment, variables), files={"gunicorn.conf.py": config})

    def uwsgi(*lines: str, **variables: str) -> Server:
        found = request.getfixturevalue("uwsgi_of")(stand_ins()[0])
        has = subprocess.run([found.python, "-c", "import distributed"], capture_output=True)
        if has.returncode != 0:
            pytest.skip(f"no distributed in {found.python}, the Python of {found.binary}")
        ini = ["[uwsgi]", "module = dask_served", "master = true", "processes = 2", "threads = 4", *lines, ""]
        command = found.command("--ini", "uwsgi.ini")
        environment = told(found.environment, variables)
        return serve(*command, environment=environment, files={"uwsgi.ini": "\n".join(ini)})

    def told(environment: dict[str, str], variables: dict[str, str]) -> dict[str, str]:
        own = {"SIDECAR_TEST_FARM": str(farm.folder), "OWN_SCHEDULER": f"tcp://{farm.address}"}
        return {**environment, **QUIET, **own, **variables}

    forms = {
        "uwsgi-ini": lambda: uwsgi(f"sidecar-cpu = {farm.url}"),
        "uwsgi-variable": lambda: uwsgi(SIDECAR_CPU=farm.url),
        "gunicorn-configure": lambda: gunicorn(f"configure(cpu={farm.url!r})"),
        "gunicorn-variable": lambda: gunicorn(SIDECAR_CPU=farm.url),
        "gunicorn-executor": gunicorn,
        "gunicorn-deadline": lambda: gunicorn(
            f"configure(cpu={farm.url!r}, deadline_header='X-Deadline', trust='always')"
        ),
    }
    return lambda form: forms[form]().wait_ready()


@pytest.mark.parametrize("form", ["uwsgi-ini", "gunicorn-executor"])
def test_a_thousand_calls_and_a_killed_worker(start, farm, form):
    """Nothing is lost: each result is right, there once, and was made inside the request that asked for it."""
    server = start(form)
    own = "&own=1" if form == "gunicorn-executor" else ""
    kind = "executor" if own else "dask"
    assert server.get(f"/plain?{own}").json()["cpu"] == kind
    victim, survivor = farm.workers
    before = farm.calls(victim)
    paths = [f"/squares?first={first}&count=100{own}" for first in range(0, 1000, 100)]
    with concurrent.futures.ThreadPoolExecutor(5) as clients:
        asked = [clients.submit(server.get, path, seconds=60) for path in paths]
        wait_for(lambda: farm.calls(victim) - before >= 150, "the victim is in the middle of it", 40)
        assert not all(future.done() for future in asked)
        os.kill(victim.process.pid, signal.SIGKILL)
        responses = [future.result() for future in asked]
    assert [response.status for response in responses] == [200] * 10, server.log
    numbers, pids, ids = [], set(), set()
    for response in responses:
        told = response.json()
        assert [told["id"]] == response.ids
        ids.add(told["id"])
        for found in told["found"]:
            assert found["square"] == found["number"] ** 2
            assert found["id"] == found["log"] == told["id"] and found["trace"] == told["trace"]
            numbers.append(found["number"])
            pids.add(found["pid"])
    assert numbers == list(range(1000)) and len(ids) == 10
    assert pids == {victim.process.pid, survivor.process.pid}
    # For the next one.
    farm.workers = [survivor, farm.add()]
    wait_for_workers(farm, farm.workers)


@pytest.mark.parametrize("form", ["uwsgi-variable", "gunicorn-configure", "gunicorn-variable"])
def test_it_is_told_by_the_configuration(start, farm, form):
    server = start(form)
    shown = server.get("/plain").json()
    assert (shown["cpu"], shown["reason"]) == ("dask", f"given: {farm.url}")
    response = server.get("/squares?first=7&count=1")
    [found] = response.json()["found"]
    assert found["square"] == 49 and [found["id"]] == response.ids
    assert found["pid"] in {worker.process.pid for worker in farm.workers}


def test_the_deadline_goes_along_and_cancels_the_call_over_there(start, farm):
    server = start("gunicorn-deadline")
    server.allow("DeadlineExceeded")
    [found] = server.get("/squares?first=1&count=1", X_Deadline="20").json()["found"]
    assert 0 < found["left"] <= 20
    with concurrent.futures.ThreadPoolExecutor(2) as clients:
        # Each of the two workers has one that it is in the middle of.
        held = [clients.submit(server.get, f"/hold?name=held-{number}") for number in range(2)]
        for number in range(2):
            wait_for((farm.folder / f"held-{number}").exists, "it runs")
        response = server.get("/hold?name=late", X_Deadline="0.7")
        assert response.status == 504
        (farm.folder / "go").touch()
        assert [future.result().json()["told"] for future in held] == ["held-0", "held-1"]
    # What comes after it on both workers has run; it has not, for the scheduler knows that nobody waits for it.
    assert len(server.get("/squares?first=0&count=20").json()["found"]) == 20
    assert not (farm.folder / "late").exists()


# -- in a script -----------------------------------------------------------------------

HEAD = """
import sys, time
sys.path.insert(0, {apps!r})
import dask_far, sidecar

def told(function, *args):
    begun = time.monotonic()
    try:
        print("result", function(*args))
    except Exception as error:
        cause = error.__cause__
        print(type(error).__name__, str(error).replace(chr(10), " "), flush=True)
        print("cause", type(cause).__name__, str(cause).replace(chr(10), " "), flush=True)
    return time.monotonic() - begun

if __name__ == "__main__":
    bridge = sidecar.Sidecar(cpu={url!r})
"""


@pytest.fixture
def script(run_script, monkeypatch):
    for name, text in QUIET.items():
        monkeypatch.setenv(name, text)

    def run(url: str, body: str) -> list[str]:
        indented = "\n".join(f"    {line}" for line in body.splitlines())
        done = run_script(HEAD.format(apps=str(APPS), url=url) + indented)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    return run


def test_errors_come_back(farm, script):
    """The function's own, with its traceback; what cannot be pickled is said; the workers live on."""
    body = """
told(bridge.run_cpu, dask_far.fail, 7)
told(bridge.run_cpu, dask_far.lock)
told(bridge.run_cpu, lambda number: number + 1, 41)
told(list, bridge.map(abs, range(-3, 3)))
print(bridge.stats()["cpu_workers"], bridge.shutdown())
"""
    lines = script(farm.url, body)
    assert lines[0] == "LookupError no 7"
    assert lines[1].startswith("cause RemoteTraceback") and "dask_far.py" in lines[1] and "in fail" in lines[1]
    assert lines[2].startswith("CpuPickleError run_cpu: the result of dask_far.lock")
    assert lines[4:] == ["result 42", "result [3, 2, 1, 0, 1, 2]", "2 True"]
    wait_for_workers(farm, farm.workers)


@pytest.mark.parametrize("form", ["address", "executor"])
def test_the_same_call_twice_runs_twice(farm, script, form):
    """Dask calls a function pure, and takes the result of an equal call for it, where nobody says otherwise."""
    before = sum(map(farm.calls, farm.workers))
    body = ""
    if form == "executor":
        body = f"from distributed import Client; client = Client('tcp://{farm.address}')\n"
        body += "bridge = sidecar.Sidecar(cpu=client.get_executor())\n"
    body += f"futures = [bridge.run_cpu.future(dask_far.square, {str(farm.folder)!r}, 3) for _ in range(4)]\n"
    assert script(farm.url, f"{body}print([future.result()['square'] for future in futures])") == ["[9, 9, 9, 9]"]
    assert sum(map(farm.calls, farm.workers)) == before + 4


def test_no_scheduler(script, monkeypatch, unused_port):
    """Said in the time that Dask gives a connection, for all calls that wait for it, and for the next one."""
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "2s")
    body = """
futures = [bridge.run_cpu.future(abs, -1) for _ in range(5)]
took = told(lambda: [future.exception() for future in futures][-1])
took += told(bridge.run_cpu, abs, -1)
print("bounded" if took < 12 else took)
begun = time.monotonic()
bridge.shutdown()
print("bounded" if time.monotonic() - begun < 12 else "late")
"""
    lines = script(f"dask://127.0.0.1:{unused_port}", body)
    said = f"no scheduler of Dask's answers at 127.0.0.1:{unused_port}"
    assert lines[0].startswith(f"result run_cpu: {said}")
    assert lines[1].startswith(f"CpuEngineError run_cpu: {said}")
    assert lines[-2:] == ["bounded", "bounded"]


def test_a_wait_for_a_scheduler_ends_with_its_time_out(script, unused_port):
    body = """
async def within():
    import asyncio
    await asyncio.wait_for(bridge.run_cpu.aio(abs, -1), 0.5)
print(told(bridge.run_sync, within()) < 5)
import os; sys.stdout.flush(); os._exit(0)
"""
    lines = script(f"dask://127.0.0.1:{unused_port}", body)
    assert lines[0].startswith("TimeoutError") and lines[-1] == "True"


def test_a_scheduler_that_goes(script, monkeypatch):
    """What runs fails, once Dask has given up; a call that comes later finds the next scheduler."""
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "2s")
    first = Farm()
    second = None
    try:
        first.add()
        body = f"""
import os, signal, pathlib
folder = pathlib.Path({str(first.folder)!r})
print(bridge.run_cpu(abs, -1))
future = bridge.run_cpu.future(dask_far.wait, str(folder), "held")
while not (folder / "held").exists(): time.sleep(0.01)
os.kill({first.scheduler.process.pid}, signal.SIGKILL)
begun = time.monotonic()
told(future.result)
told(bridge.run_cpu, abs, -1)
while bridge._cpu.engine()._client.status != "closed": time.sleep(0.01)
told(bridge.run_cpu, abs, -1)
print(time.monotonic() - begun < 15)
(folder / "gone").touch()
while not (folder / "back").exists(): time.sleep(0.01)
print(bridge.run_cpu(abs, -2))
bridge.shutdown()
"""
        with concurrent.futures.ThreadPoolExecutor(1) as beside:
            running = beside.submit(script, first.url, body)
            wait_for(lambda: running.done() or (first.folder / "gone").exists(), "the script has seen it go", 30)
            second = Farm(port=first.address.rpartition(":")[2])
            second.add()
            (first.folder / "back").touch()
            lines = running.result()
        assert lines[0] == "1"
        assert lines[1].startswith("CpuWorkerDied run_cpu: the scheduler of Dask's went in the middle of dask_far.wait")
        assert lines[3].startswith("CpuEngineError run_cpu: the connection to Dask's scheduler at ")
        assert lines[5].startswith("CpuEngineError run_cpu: no scheduler of Dask's answers at ")
        assert lines[-2:] == ["True", "2"]
    finally:
        for farm in (first, second):
            if farm is not None:
                farm.stop()


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def test_a_call_that_kills_its_workers(script):
    """Where it has killed as many as Dask lets it, it fails, and no other does."""
    farm = Farm(DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0")
    try:
        wait_for_workers(farm, [farm.add(), farm.add()])
        lines = script(farm.url, "told(bridge.run_cpu, dask_far.die)\ntold(bridge.run_cpu, abs, -1)\n")
        assert lines[0].startswith("CpuWorkerDied run_cpu: ") and "dask_far.die" in lines[0]
        assert lines[-1] == "result 1"
    finally:
        farm.stop()


def test_a_worker_without_sidecar(script):
    farm = Farm()
    try:
        wait_for_workers(farm, [farm.add(without=True)])
        lines = script(farm.url, "told(bridge.run_cpu, abs, -1)\n")
        assert lines[0].startswith("CpuEngineError run_cpu: Sidecar is not installed where builtins.abs was to run")
    finally:
        farm.stop()
