"""Requests flow on through harakiri, beside mules, the spooler and other applications, and by way of every front."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from harness import wait_for
from server.conftest import APPS
from server.flow import Flow, threads_end
from server.process import (
    Server,
    descendants,
    leave_background_tasks,
    wait_drained,
    wait_for_workers,
)

pytestmark = pytest.mark.usefixtures("first_uwsgi")

WORKERS = 2
KILLED = r"DAMN ! worker \d \(pid: \d+\) died, killed by signal 9"


@pytest.fixture
def start(serve, uwsgi):
    """``front``: in place of ``--http-socket``; requests reach it at the server's ``socket``, too."""

    def start(
        *options: str,
        processes: int = WORKERS,
        front: tuple[str, ...] = ("--http-socket", "{socket}"),
        app: tuple[str, ...] = ("--module", "life"),
    ) -> Server:
        command = uwsgi.command(
            "--master", "--processes", str(processes), *app, *options, "--disable-logging"
        )
        at = command.index("--http-socket")
        command[at : at + 2] = front
        return serve(*command, environment=uwsgi.environment)

    return start


@pytest.fixture
def threads(uwsgi) -> int:
    return 4 if threads_end(uwsgi) else 1


def unseen(threads: int) -> int:
    """See ``test_uwsgi_life``: what uWSGI itself may lose in a reload."""
    return WORKERS if threads == 1 else 0


def wait_up(server: Server, prefix: str = "") -> Server:
    server.wait_ready(f"{prefix}/plain")
    if not prefix:
        wait_for_workers(server, WORKERS)
    return server


def read(server: Server, name: str) -> str:
    wait_for((server.folder / name).exists, f"{name} is written; log:\n{server.log}")
    return (server.folder / name).read_text()


# -- harakiri --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "threads"),
    # Each request that ends takes back its worker's harakiri, whosesoever it was: with threads uWSGI ends a worker
    # only where none of them gets on.
    [("held", 1), ("stuck", 1), ("stuck_in_native_code", 1), ("stuck_in_native_code", 4)],
)
def test_harakiri(start, view, threads):
    """The master kills the worker that is stuck, whatever it is stuck in; the other one serves on.

    uWSGI compares whole seconds: with 1, a request could be killed at once.
    """
    server = wait_up(start("--harakiri", "2", "--sidecar-deadline", "0", "--threads", str(threads)))
    server.allow(KILLED, "HARAKIRI")
    before = leave_background_tasks(server, WORKERS)
    with Flow(server.socket) as flow:
        flow.happens()
        stuck = server.leave_request(f"/{view}?in_it", until="in_it")
        killed = int(read(server, "in_it"))
        with contextlib.closing(stuck), pytest.raises(ConnectionError):
            stuck.getresponse()
        after = flow.wait_for_workers(1, without=before)
        flow.wait_for_only({killed})
    # Those that the other threads of it were in.
    flow.check(lost=threads - 1, unseen=threads)
    assert len(after) == 1
    left = leave_background_tasks(server, WORKERS)
    assert left == after | before - {killed}
    server.stop()
    wait_drained(server, left)


def test_a_deadline_comes_before_harakiri(start):
    server = wait_up(start("--harakiri", "3", "--threads", "2"))
    before = leave_background_tasks(server, WORKERS)
    with Flow(server.socket) as flow:
        answer = server.get("/held?in_it")
    flow.check()
    assert answer.status == 504 and len(answer.ids) == 1
    assert flow.pids() == before


# -- mules and the spooler ---------------------------------------------------------


def reload_workers_and_mules(server: Server, flow: Flow, before: set[int]) -> None:
    flow.happens()
    server.send(signal.SIGHUP)
    flow.wait_for_workers(WORKERS, without=before)
    flow.wait_for_only(before)
    wait_for(lambda: not before & descendants(server.process.pid), "the workers from before are gone")


def test_a_mule_for_signals(start, threads):
    server = wait_up(start("--mule", "--threads", str(threads)))
    before = wait_for_workers(server, WORKERS)
    with Flow(server.socket) as flow:
        for _ in range(2):
            server.get("/signal_mule")
            name, pid, request = read(server, "signalled").split()
            (server.folder / "signalled").unlink()
            assert name == "mule" and request == "None"
            assert int(pid) in descendants(server.process.pid) - flow.pids()
            if not flow.event:
                reload_workers_and_mules(server, flow, before)
    flow.check(unseen=unseen(threads))
    server.stop()


@pytest.mark.parametrize("at_end", ["waits", "busy"])
def test_a_mule_of_ones_own(start, threads, at_end):
    """It has a bridge, and tasks in it, and ends when it is told to: waiting for uWSGI, or in ``run_sync``."""
    server = wait_up(start(f"--mule={APPS / 'life_mule.py'}", "--threads", str(threads)))
    before = wait_for_workers(server, WORKERS)
    mules: set[int] = set()

    def ask(message: str) -> int:
        server.get(f"/message_mule?{message}")
        name, pid, request = read(server, message).split()
        (server.folder / message).unlink()
        assert (name, request) == (message, "None")
        assert int(pid) in descendants(server.process.pid) - flow.pids()
        assert read(server, f"mule-{pid}") == f"mule {pid} None"
        return int(pid)

    with Flow(server.socket) as flow:
        mules.add(ask("first"))
        if at_end == "busy":
            assert ask("busy") in mules
        reload_workers_and_mules(server, flow, before)
        mules.add(ask("second"))
        if at_end == "busy":
            assert ask("busy") in mules
    flow.check(unseen=unseen(threads))
    assert len(mules) == 2
    server.stop()
    if at_end == "waits":
        wait_drained(server, mules)


@pytest.mark.parametrize("lazy", [False, True], ids=["preforked", "lazy"])
def test_the_spooler(start, threads, lazy, tmp_path):
    """Its processes have loaded the application where the master has."""
    options = ["--spooler", str(tmp_path), "--spooler-frequency", "1", "--threads", str(threads)]
    options += ["--lazy-apps", "--spooler-import", "life"] * lazy
    server = wait_up(start(*options))
    before = wait_for_workers(server, WORKERS)
    with Flow(server.socket) as flow:
        for at in range(4):
            response = server.get(f"/spool?job-{at}")
            name, pid, request = read(server, f"job-{at}").split()
            assert (name, request) == (f"job-{at}", response.ids[0])
            assert int(pid) in descendants(server.process.pid) - flow.pids()
            if at == 1:
                reload_workers_and_mules(server, flow, before)
    flow.check(unseen=unseen(threads))
    wait_for(lambda: not [path for path in tmp_path.iterdir() if path.is_file()], "no job is left")
    server.stop()


# -- mounts ------------------------------------------------------------------------

MOUNTS = (
    "--manage-script-name",
    "--mount",
    "/one=life:application",
    "--mount",
    "/two=life_second:application",
)


# uWSGI's, with or without a plugin, as it ends the first interpreter: before 3.13, and from then on with threads.
LEFT_BEHIND = [
    "PyInterpreterState_Delete: remaining subinterpreters",
    "Py_EndInterpreter: not the last thread",
]


@pytest.fixture
def several_interpreters(uwsgi):
    asked = [uwsgi.python, "-c", "import sys; print(sys.version_info >= (3, 12))"]
    if subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() != "True":
        pytest.skip("before 3.12 asyncio takes threads of different interpreters for the same one")


def check_mounts(start, single: bool, threads: int) -> None:
    app = (*MOUNTS, *["--single-interpreter"] * single)
    server = wait_up(start("--threads", str(threads), app=app), "/one")
    if not single:
        server.allow(*LEFT_BEHIND[: 1 if threads == 1 else 2])
    before = leave_background_tasks(server, WORKERS, "/two")
    with Flow(server.socket, "/one/served", "/two/served") as flow:
        flow.happens()
        server.send(signal.SIGHUP)
        wait_drained(server, before)
        after = flow.wait_for_workers(WORKERS, without=before)
        flow.wait_for_only(before)
    flow.check(unseen=unseen(threads))
    assert leave_background_tasks(server, WORKERS, "/two") == after
    server.stop()
    wait_drained(server, after)


def test_two_mounts_in_one_interpreter(start, threads):
    check_mounts(start, True, threads)


@pytest.mark.parametrize("threads", [1, 4])
def test_two_mounts_in_several_interpreters(start, several_interpreters, threads):
    """The bridge of the second one drains, too."""
    check_mounts(start, False, threads)


# -- the emperor -------------------------------------------------------------------


def write_vassal(uwsgi, folder: Path, name: str, threads: int) -> None:
    plugins = "sidecar" if uwsgi.is_embedded else f"{uwsgi.python_plugin}, sidecar"
    text = f"""[uwsgi]
plugins-dir = {uwsgi.plugin_folder}
plugin = {plugins}
http-socket = {folder}/{name}.socket
module = life
master = true
processes = {WORKERS}
threads = {threads}
die-on-term = true
disable-logging = true
"""
    (folder / f"{name}.new").write_text(text)
    (folder / f"{name}.new").rename(folder / f"{name}.ini")


def test_an_emperor_with_two_vassals(serve, uwsgi, threads):
    """One is reloaded by a touch, and then goes with its file; requests of the other one flow on."""
    # pyuwsgi's emperor would start the interpreter without it.
    command = [str(uwsgi.binary), "--emperor-wrapper", str(uwsgi.binary)]
    command += ["--emperor", ".", "--emperor-freq", "1", "--die-on-term"]
    server = serve(*command, environment=uwsgi.environment)
    for name in ("one", "two"):
        write_vassal(uwsgi, server.folder, name, threads)
    sockets = {name: server.folder / f"{name}.socket" for name in ("one", "two")}

    def pids_of(name: str) -> set[int]:
        server.socket = sockets[name]
        server.wait_ready()
        return leave_background_tasks(server, WORKERS)

    two, one = pids_of("two"), pids_of("one")
    with Flow(sockets["two"]) as others:
        with Flow(sockets["one"]) as flow:
            flow.happens()
            os.utime(server.folder / "one.ini", (2_000_000_000, 2_000_000_000))
            wait_drained(server, one)
            flow.wait_for_workers(WORKERS, without=one)
            flow.wait_for_only(one)
        flow.check(unseen=unseen(threads))
        again = pids_of("one")
        assert not again & one
        (server.folder / "one.ini").unlink()
        wait_drained(server, again)
        wait_for(lambda: not again & descendants(server.process.pid), "the vassal is gone")
        others.wait_for_answers()
    others.check()
    assert others.pids() == two
    server.stop(signal.SIGINT)
    wait_drained(server, two)


# -- fronts ------------------------------------------------------------------------

NGINX = """
daemon off;
user root;
pid nginx.pid;
error_log error.log notice;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path body;
    fastcgi_temp_path fastcgi;
    proxy_temp_path proxy;
    scgi_temp_path scgi;
    uwsgi_temp_path uwsgi;
    server {
        listen unix:socket;
        location / {
            uwsgi_pass unix:SOCKET;
            uwsgi_param QUERY_STRING $query_string;
            uwsgi_param REQUEST_METHOD $request_method;
            uwsgi_param CONTENT_TYPE $content_type;
            uwsgi_param CONTENT_LENGTH $content_length;
            uwsgi_param REQUEST_URI $request_uri;
            uwsgi_param PATH_INFO $document_uri;
            uwsgi_param SERVER_PROTOCOL $server_protocol;
            uwsgi_param REMOTE_ADDR $remote_addr;
            uwsgi_param SERVER_PORT 80;
            uwsgi_param SERVER_NAME localhost;
        }
    }
}
"""


@pytest.mark.parametrize("keep_alive", [False, True], ids=["", "keep-alive"])
def test_behind_nginx(start, serve, uwsgi, threads, keep_alive):
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    if threads == 1:
        pytest.skip("what uWSGI before 2.0.25 may lose as a worker goes is a 502 of nginx's")
    behind = start("--threads", str(threads), front=("--socket", "{socket}"))
    front = serve(
        *(nginx, "-p", ".", "-c", "nginx.conf", "-e", "error.log"),
        environment=uwsgi.environment,
        files={"nginx.conf": NGINX.replace("SOCKET", str(behind.socket))},
    )
    front.wait_ready()
    before = leave_background_tasks(front, WORKERS)
    with Flow(front.socket, notes=behind.folder, keep_alive=keep_alive) as flow:
        flow.happens()
        behind.send(signal.SIGHUP)
        wait_drained(behind, before)
        flow.wait_for_workers(WORKERS, without=before)
        flow.wait_for_only(before)
    flow.check()
    if keep_alive:
        assert len(flow.connections) == len(flow.threads)
    front.stop(signal.SIGQUIT)
    behind.stop()
    errors = [
        line for line in (front.folder / "error.log").read_text().splitlines() if "[notice]" not in line
    ]
    # nginx may be up before uWSGI.
    assert not [line for line in errors if "connect() to unix:" not in line], errors


@pytest.mark.parametrize("keep_alive", [False, True], ids=["", "keep-alive"])
def test_behind_the_http_router(start, uwsgi, threads, keep_alive):
    """It goes with the master's reload; the workers alone may go behind it."""
    front = ("--socket", "{socket}.inner", "--http", "{socket}", "--http-to", "{socket}.inner")
    if not uwsgi.is_embedded:
        front = ("--plugin", "http", *front)
    options = ["--touch-workers-reload", "file.bin", *["--http-keepalive"] * keep_alive]
    options += ["--threads", str(threads)]
    server = wait_up(start(*options, front=front))
    before = leave_background_tasks(server, WORKERS)
    with Flow(server.socket, keep_alive=keep_alive) as flow:
        flow.happens()
        os.utime(server.folder / "file.bin", (2_000_000_000, 2_000_000_000))
        wait_drained(server, before)
        after = flow.wait_for_workers(WORKERS, without=before)
        flow.wait_for_only(before)
    flow.check(unseen=unseen(threads))
    if keep_alive:
        assert len(flow.connections) == len(flow.threads)
    assert leave_background_tasks(server, WORKERS) == after
    server.stop()


def test_http_11_keeps_connections(start, threads):
    """Each request on a connection is one of its own. A worker that goes closes those it has kept, between requests."""
    if threads == 1:
        pytest.skip(
            "each connection that is kept takes a thread; before 2.0.25 a worker with threads may hang"
        )
    server = start("--threads", "8", front=("--http11-socket", "{socket}")).wait_ready("/slow?ready")
    with Flow(server.socket, "/slow", keep_alive=True, pause=0) as flow:
        flow.wait_for_answers(60)
        before = flow.pids()
        assert len(flow.connections) == len(flow.threads)
        flow.happens()
        server.send(signal.SIGHUP)
        wait_drained(server, before)
        flow.wait_for_workers(1, without=before)
        flow.wait_for_only(before)
    flow.check()
    assert len(flow.connections) <= 2 * len(flow.threads)
    server.stop()
