"""uWSGI's workers come and go, and requests flow on: none is lost that uWSGI itself would not lose.

A worker of one thread that is asked to go between its ``accept`` and uWSGI's note of the request leaves at once, and
its client with nothing: uWSGI's own, and allowed as ``unseen``, once for each such worker. Threads are waited for.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time

import pytest
from harness import wait_for
from server.flow import Flow, threads_end
from server.process import Server, descendants, leave_background_tasks, wait_drained, wait_for_workers

pytestmark = pytest.mark.usefixtures("first_uwsgi")

WORKERS = 2


def command_of(uwsgi, *options: str, processes: int = WORKERS, die_on_term: bool = True) -> list[str]:
    command = uwsgi.command("--master", "--processes", str(processes), "--module", "life", *options)
    if not die_on_term:
        command.remove("--die-on-term")
    return [*command, "--disable-logging"]


def knows(uwsgi, option: str) -> bool:
    """Debian's lacks some."""
    asked = subprocess.run([uwsgi.binary, "--help"], capture_output=True, text=True, env=uwsgi.environment)
    return f"{option} " in asked.stdout


@pytest.fixture
def start(serve, uwsgi):
    def start(
        *options: str, processes: int = WORKERS, up: int | None = None, die_on_term: bool = True
    ) -> Server:
        command = command_of(uwsgi, *options, processes=processes, die_on_term=die_on_term)
        server = serve(*command, environment=uwsgi.environment, files={"socket.touch": ""})
        server.wait_ready()
        # A worker that is not yet up would miss the signal that ends it.
        wait_for_workers(server, processes if up is None else up)
        return server

    return start


def skip_if_threads_hang(uwsgi, options: list[str]) -> None:
    if "--threads" in options and "1" not in options and not threads_end(uwsgi):
        pytest.skip("before 2.0.25 a worker with threads may hang as it goes, with or without a plugin")


def touch(server: Server) -> None:
    """uWSGI compares whole seconds."""
    later = time.time() + 60
    os.utime(server.folder / "socket.touch", (later, later))


def tell(server: Server, command: str) -> None:
    fifo = os.open(server.folder / "socket.fifo", os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.write(fifo, command.encode())
    finally:
        os.close(fifo)


def check_drained(server: Server, pids: set[int]) -> None:
    """Each has drained, but those that were ended in the middle of a request and said so."""
    told = {
        int(pid)
        for pid in re.findall(r"\(pid (\d+)\) ends inside of a request: nothing is drained", server.log)
    }
    wait_drained(server, pids - told)


def drained(server: Server) -> set[int]:
    return {int(path.name.partition("-")[2]) for path in server.folder.glob("drained-*")}


def slow(server: Server) -> set[int]:
    return {
        int(path.name.rpartition("-")[2]) for path in server.folder.glob("slow-*") if path.suffix != ".new"
    }


def serve_on(server: Server, flow: Flow, before: set[int], workers: int) -> None:
    """Others than ``before`` serve, with all that a worker has; and none of those is left."""
    after = flow.wait_for_workers(workers, without=before)
    flow.wait_for_only(before)
    wait_for(lambda: not before & descendants(server.process.pid), "the workers from before are gone")
    left = leave_background_tasks(server, workers)
    assert not left & before and left >= after & descendants(server.process.pid)


def stop(server: Server) -> None:
    """Of those that are left, each drains."""
    pids = leave_background_tasks(server, len(wait_for_workers(server, 1)))
    server.stop(signal.SIGTERM)
    check_drained(server, pids)


# -- reloads ---------------------------------------------------------------------

FIFO = ["--master-fifo", "{socket}.fifo"]

HOWS = {
    "SIGHUP": ([], lambda server: server.send(signal.SIGHUP)),
    "touch-reload": (["--touch-reload", "{socket}.touch"], touch),
    "touch-chain-reload": (["--lazy-apps", "--touch-chain-reload", "{socket}.touch"], touch),
    "touch-workers-reload": (["--touch-workers-reload", "{socket}.touch"], touch),
    "fifo-r": (FIFO, lambda server: tell(server, "r")),
    "fifo-c": ([*FIFO, "--lazy-apps"], lambda server: tell(server, "c")),
    "fifo-w": (FIFO, lambda server: tell(server, "w")),
}
MODES = {
    "one-thread": [],
    "lazy": ["--lazy-apps"],
    "enable-threads": ["--enable-threads"],
    "4-threads": ["--threads", "4"],
    "32-threads": ["--threads", "32"],
    "lazy-4-threads": ["--lazy-apps", "--threads", "4"],
}


def reloads():
    for mode, options in MODES.items():
        yield pytest.param("SIGHUP", options, id=f"SIGHUP-{mode}")
    for how in HOWS:
        if how != "SIGHUP":
            threads = "4" if how.startswith("fifo") or "chain" in how else "1"
            yield pytest.param(how, ["--threads", threads], id=f"{how}-threads-{threads}")


@pytest.mark.parametrize(("how", "mode"), list(reloads()))
def test_a_reload(start, uwsgi, how, mode):
    skip_if_threads_hang(uwsgi, mode)
    options, reload = HOWS[how]
    server = start(*options, *mode)
    before = leave_background_tasks(server, WORKERS)
    with Flow(server.socket, clients=4 if "32" not in mode else 16) as flow:
        flow.happens()
        reload(server)
        wait_drained(server, before)
        serve_on(server, flow, before, WORKERS)
    flow.check(unseen=WORKERS if "--threads" not in mode or "1" in mode else 0)
    stop(server)


# -- workers that are replaced -----------------------------------------------------


@pytest.mark.parametrize(
    "mode", [[], ["--lazy-apps"], ["--threads", "4"]], ids=["one-thread", "lazy", "4-threads"]
)
def test_max_requests(start, uwsgi, mode):
    skip_if_threads_hang(uwsgi, mode)
    delta = ["--max-requests-delta", "20"] if knows(uwsgi, "--max-requests-delta") else []
    server = start("--max-requests", "80", "--min-worker-lifetime", "0", *delta, *mode)
    before = leave_background_tasks(server, WORKERS)
    with Flow(server.socket) as flow:
        flow.happens()
        flow.wait_for_workers(2 * WORKERS, without=before)
        wait_drained(server, before)
        flow.wait_for_only(before)
    flow.check()
    stop(server)


@pytest.mark.parametrize("mode", [[], ["--threads", "4"]], ids=["one-thread", "4-threads"])
def test_max_worker_lifetime(start, uwsgi, mode):
    skip_if_threads_hang(uwsgi, mode)
    server = start("--max-worker-lifetime", "1", "--min-worker-lifetime", "0", *mode)
    before = leave_background_tasks(server, WORKERS)
    with Flow(server.socket) as flow:
        flow.happens()
        wait_drained(server, before)
        flow.wait_for_workers(WORKERS, without=before)
    flow.check()
    stop(server)


@pytest.mark.parametrize("mode", [[], ["--threads", "4"]], ids=["one-thread", "4-threads"])
def test_reload_on_rss(start, uwsgi, mode):
    skip_if_threads_hang(uwsgi, mode)
    server = start("--reload-on-rss", "200", "--min-worker-lifetime", "0", *mode)
    before = leave_background_tasks(server, WORKERS)
    with Flow(server.socket) as flow:
        flow.happens()
        grown = server.get("/grow").json()["pid"]
        wait_drained(server, {grown})
        after = flow.wait_for_workers(1, without=before)
        flow.wait_for_only({grown})
        assert flow.pids() == before | after and len(after) == 1
    flow.check()
    stop(server)


def test_cheaper(start):
    """Load calls for workers; when it is over, they go."""
    options = ["--cheaper", "1", "--cheaper-initial", "1", "--cheaper-overload", "1", "--cheaper-step", "2"]
    server = start(*options, processes=3, up=1)
    with Flow(server.socket, "/slow", clients=8, pause=0) as flow:
        workers = flow.wait_for_workers(3)
    flow.check()
    with Flow(server.socket, clients=1, pause=0.05) as flow:
        flow.happens()
        wait_for(lambda: len(drained(server)) == 2, "two workers have gone, drained", 30)
        flow.wait_for_answers(3)
    flow.check(unseen=2)
    assert drained(server) < workers
    stop(server)


def test_cheaper_by_the_fifo(start):
    options = ["--cheaper", "1", "--cheaper-initial", "1", "--cheaper-algo", "manual", *FIFO]
    server = start(*options, processes=3, up=1)
    first = leave_background_tasks(server, 1)
    with Flow(server.socket) as flow:
        flow.happens()
        tell(server, "+")
        second = flow.wait_for_workers(1, without=first)
        both = leave_background_tasks(server, 2)
        assert both == first | second
        tell(server, "-")
        wait_for(lambda: drained(server), "a worker has gone, drained")
        flow.wait_for_answers()
    flow.check(unseen=1)
    stop(server)


# -- ends ------------------------------------------------------------------------

# A thread's call that is cancelled while its worker ends; perhaps before it has written all of this: then the log
# goes on with nothing, or with the next start.
CANCELLED = ["CancelledError$", "a traceback without an end", "^os: Linux"]
ENDS = [
    pytest.param(number, die_on_term, id=f"{number.name}-{'die-on-term' if die_on_term else 'default'}")
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
    for die_on_term in (True, False)
    # The one of the two that reloads.
    if (number, die_on_term) not in ((signal.SIGQUIT, True), (signal.SIGTERM, False))
]
BRUTAL_RELOADS = [
    pytest.param(signal.SIGTERM, False, id="SIGTERM"),
    pytest.param(signal.SIGQUIT, True, id="SIGQUIT-die-on-term"),
]


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(("number", "die_on_term"), ENDS)
def test_a_stop(start, number, die_on_term, threads):
    """Who is in a request then is not waited for; and nobody hangs."""
    server = start("--threads", str(threads), die_on_term=die_on_term)
    server.allow(*CANCELLED * (threads > 1))
    pids = leave_background_tasks(server, WORKERS)
    with Flow(server.socket, clients=6) as flow:
        flow.happens()
        server.stop(number)
    # One in each thread; and of each client's one that was accepted too late, and one that never was.
    flow.check(lost=WORKERS * threads, unseen=12, refused=True)
    check_drained(server, pids)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(("number", "die_on_term"), BRUTAL_RELOADS)
def test_a_reload_that_waits_for_nobody(start, number, die_on_term, threads):
    """The socket stays open: each thread loses the request that it is in, and no other is lost."""
    server = start("--threads", str(threads), die_on_term=die_on_term)
    server.allow(*CANCELLED * (threads > 1))
    before = leave_background_tasks(server, WORKERS)
    with Flow(server.socket, clients=6) as flow:
        flow.happens()
        server.send(number)
        serve_on(server, flow, before, WORKERS)
    flow.check(lost=WORKERS * threads, unseen=WORKERS * threads)
    check_drained(server, before)
    server.stop(signal.SIGINT)


def test_a_long_drain_loses_no_more(start):
    """While a coroutine cleans up, each thread loses one request at most, as without it."""
    server = start("--threads", "4", die_on_term=False)
    server.allow(*CANCELLED)
    with Flow(server.socket, clients=6) as flow:
        before = flow.wait_for_workers(WORKERS)
        wait_for(
            lambda: before <= {server.get("/leave_slow_cleanup").json()["pid"], *slow(server)}, "one in each"
        )
        flow.happens()
        server.send(signal.SIGTERM)
        flow.wait_for_workers(WORKERS, without=before)
    flow.check(lost=WORKERS * 4, unseen=WORKERS * 4)
    server.stop(signal.SIGINT)


def test_a_graceful_stop(start, uwsgi):
    """Who is in a request is waited for; who waits for one is not."""
    server = start(*FIFO, "--threads", "4" if threads_end(uwsgi) else "1")
    pids = leave_background_tasks(server, WORKERS)
    server.pids |= descendants(server.process.pid)
    with Flow(server.socket, clients=6) as flow:
        flow.happens()
        tell(server, "q")
        server.wait()
    flow.check(unseen=6, refused=True)
    wait_drained(server, pids)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_worker_is_killed(start, threads):
    server = start("--threads", str(threads))
    server.allow(r"DAMN ! worker \d \(pid: \d+\) died, killed by signal 9")
    before = leave_background_tasks(server, WORKERS)
    with Flow(server.socket) as flow:
        held = server.leave_request("/held?holding", until="holding")
        killed = int((server.folder / "holding").read_text())
        flow.happens()
        os.kill(killed, signal.SIGKILL)
        with contextlib.closing(held), pytest.raises(ConnectionError):
            held.getresponse()
        after = flow.wait_for_workers(1, without=before)
        flow.wait_for_only({killed})
    flow.check(lost=threads, unseen=threads)
    assert len(after) == 1
    assert leave_background_tasks(server, WORKERS) == after | before - {killed}
    server.stop(signal.SIGTERM)
    check_drained(server, after | before - {killed})
