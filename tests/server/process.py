"""A server in a process of its own: started, asked, stopped by its pid, and looked after."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from harness import wait_for

# Lines that no server may log, unless the test has announced them.
ALARM = re.compile(
    r"SIGSEGV|SIGABRT|Segmentation fault|Fatal Python error|DAMN|core dumped|\[ERROR\]|\[CRITICAL\]"
)
# The last line of a traceback: an exception's name, perhaps with its message.
EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(: |$)")


class Response:
    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def ids(self) -> list[str]:
        return [value for name, value in self.headers if name.lower() == "x-request-id"]

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self):
        return json.loads(self.body)


class Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def descendants(pid: int) -> set[int]:
    """The process and all that come from it, of those that live."""
    found, parents = {pid}, {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(name)] = int(fields[1])
    while True:
        more = {child for child, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Server:
    """One server. ``folder`` is its HOME and working folder; its socket and its log are in it."""

    def __init__(self, command: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.socket = folder / "socket"
        self.log_path = folder / "log"
        self.allowed: list[str] = []
        self.answered: list[str] = []
        self.pids: set[int] = set()
        self.command = [part.replace("{socket}", str(self.socket)) for part in command]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=folder,
                env={**environment, "HOME": str(folder), "SIDECAR_TEST_FOLDER": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    # -- asking --

    def get(self, path: str = "/plain", *, seconds: float = 30.0, **headers: str) -> Response:
        connection = Connection(self.socket, seconds)
        try:
            given = {name.replace("_", "-"): text for name, text in headers.items()}
            connection.request("GET", path, headers=given)
            answer = connection.getresponse()
            response = Response(answer.status, answer.getheaders(), answer.read())
            self.answered.append(path)
            return response
        finally:
            connection.close()

    def get_many(self, paths: Sequence[str], threads: int, **headers: str) -> list[Response]:
        with concurrent.futures.ThreadPoolExecutor(threads) as executor:
            return list(executor.map(lambda path: self.get(path, **headers), paths))

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_ready(self, path: str = "/plain") -> Server:
        def answers() -> bool:
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log}"
            try:
                return self.get(path).status == 200
            except (OSError, http.client.HTTPException):
                return False

        wait_for(answers, f"{' '.join(self.command)} answers", 30)
        return self

    def workers(self) -> set[int]:
        return descendants(self.process.pid) - {self.process.pid}

    def allow(self, *patterns: str) -> None:
        """Announce what the log may show: exceptions by their last line, other alarms by theirs."""
        self.allowed += patterns

    def leave_request(self, path: str, until: str, **headers: str) -> Connection:
        """A request whose answer nobody waits for; returns once the app has written the file ``until``."""
        connection = Connection(self.socket, 30)
        given = {name.replace("_", "-"): text for name, text in headers.items()}
        connection.request("GET", path, headers=given)
        wait_for((self.folder / until).exists, f"the request has written {until}")
        return connection

    # -- ending --

    def send(self, number: int) -> None:
        self.pids |= descendants(self.process.pid)
        self.process.send_signal(number)

    def wait(self, seconds: float = 20.0) -> int:
        """The exit status, once the server and all its processes are gone."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {seconds:g} s:\n{self.log}") from None
        what = f"processes of {self.pids} gone; log:\n{self.log}"
        wait_for(lambda: not any(map(is_alive, self.pids)), what, 10)
        return status

    def stop(self, number: int = signal.SIGTERM, seconds: float = 20.0) -> int:
        if self.process.poll() is None:
            self.send(number)
        return self.wait(seconds)

    def kill(self) -> None:
        """Whatever is left, at once."""
        for pid in self.pids | (descendants(self.process.pid) if self.process.poll() is None else set()):
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)

    def alarms(self) -> list[str]:
        """What the log shows and the test did not announce."""
        found, in_traceback = [], False
        for line in self.log.splitlines():
            if "Traceback (most recent call last)" in line:
                in_traceback = True
            elif in_traceback and EXCEPTION.match(line):
                in_traceback = False
                found.append(line)
            elif not in_traceback and ALARM.search(line):
                found.append(line)
        if in_traceback:
            found.append("a traceback without an end")
        return [line for line in found if not any(re.search(pattern, line) for pattern in self.allowed)]


def check_many(server: Server, paths: Sequence[str], threads: int = 8) -> None:
    """Requests at once, each with an inbound id: every id that a request saw is its own, and no other's."""
    inbound = "inbound-id"
    responses = server.get_many(paths, threads, X_Request_Id=inbound)
    own = []
    for response in responses:
        assert response.status == 200, response.text
        assert len(response.ids) == 1, response.headers
        seen = {id for line in response.text.splitlines() for id in json.loads(line)}
        assert seen == {response.ids[0]}, (response.ids, seen)
        own.append(response.ids[0])
    assert len(set(own)) == len(own)
    assert inbound not in own


def check_workers(server: Server, prefix: str = "") -> dict[int, dict]:
    """Every worker that answers has finished its background tasks and seen no trouble; by pid."""
    states: dict[int, dict] = {}

    def ask() -> bool:
        state = server.get(f"{prefix}/state").json()
        states[state["pid"]] = state
        return not state["tasks"]

    for _ in range(8):
        wait_for(ask, "background tasks end", 10)
    for state in states.values():
        assert state["troubles"] == []
        assert state["bodies"] == 0
    return states


def wait_drained(server: Server, pids: set[int]) -> None:
    """Each of the workers has cancelled the task that only a drain ends, and let it clean up."""
    wait_for(
        lambda: {int(path.read_text() or 0) for path in server.folder.glob("drained-*")} >= pids,
        f"workers {pids} drained; log:\n{server.log}",
        10,
    )


def wait_logged(server: Server) -> None:
    """Until uWSGI has logged, in its own format, each answer that ``get`` has had.

    A client has its answer before the worker has left the request; a worker that is told to end just then drains
    nothing.
    """
    wait_for(lambda: server.log.count(" => generated ") >= len(server.answered), "the answers are logged")


def wait_for_workers(server: Server, workers: int) -> set[int]:
    """Until so many workers have answered; their pids."""
    pids: set[int] = set()

    def ask() -> bool:
        pids.add(server.get("/state").json()["pid"])
        return len(pids) >= workers

    wait_for(ask, f"{workers} workers answer", 20)
    return pids


def leave_background_tasks(server: Server, workers: int, prefix: str = "") -> set[int]:
    """A background task in each of the workers; their pids."""
    pids: set[int] = set()

    def ask() -> bool:
        pids.add(int(server.get(f"{prefix}/background_task").text))
        return len(pids) >= workers

    wait_for(ask, f"{workers} workers answer", 20)
    return pids
