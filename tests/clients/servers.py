"""The servers that the clients talk to: real ones, each a process of its own, stopped by its process id."""

from __future__ import annotations

import http.client
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness import wait_for
from server.process import descendants, is_alive

APPS = Path(__file__).parent / "apps"


class Unavailable(Exception):
    """What a server needs is not on this machine; the text names the package that brings it."""


class Process:
    """One server. ``folder`` is its HOME and working folder; its log is in it.

    The path is short: a unix socket's name has about a hundred characters.
    """

    end_signal = signal.SIGTERM

    def __init__(self, command: Sequence[str], folder: Path, **options: Any) -> None:
        self.folder = folder
        self.command = command
        self.log_path = folder / "log"
        kept = {name: text for name, text in os.environ.items() if name in ("PATH", "LANG", "LC_ALL")}
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**kept, "HOME": str(folder), "TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **options,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_ready(self, is_ready: Callable[[], bool]) -> None:
        def ready() -> bool:
            code = self.process.poll()
            assert code is None, f"{self.command} ended with {code}:\n{self.log}"
            try:
                return is_ready()
            except OSError:
                return False

        wait_for(ready, f"{' '.join(self.command)} is ready", 60)

    def stop(self) -> None:
        """End it, and whatever it started; its folder goes with it."""
        pids = descendants(self.process.pid)
        try:
            if self.process.poll() is None:
                self.process.send_signal(self.end_signal)
                self.process.wait(10)
                wait_for(lambda: not any(map(is_alive, pids)), f"processes of {pids} are gone", 10)
        finally:
            for pid in filter(is_alive, pids):
                os.kill(pid, signal.SIGKILL)
            self.process.wait(10)
            shutil.rmtree(self.folder, ignore_errors=True)


def new_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="sidecar-"))


class App(Process):
    """A server of ``apps/``, on a port of loopback that the kernel chose; it writes the port to a file."""

    def __init__(self, name: str) -> None:
        folder = new_folder()
        command = [sys.executable, "-X", "faulthandler", str(APPS / name), str(folder / "port")]
        super().__init__(command, folder)
        self.port = 0

    def start(self) -> None:
        file = self.folder / "port"
        self.wait_ready(file.exists)
        self.port = int(file.read_text())


class HttpServer(App):
    """``apps/http_app.py`` under uvicorn, which counts the connections that it accepts."""

    def __init__(self) -> None:
        super().__init__("http_app.py")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stats(self) -> dict[str, int]:
        """Asked on a connection of its own, which it does not count."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/stats", headers={"Connection": "close"})
            counts: dict[str, int] = json.loads(connection.getresponse().read())
            return counts
        finally:
            connection.close()


class Redis(Process):
    def __init__(self) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            raise Unavailable("no redis-server on PATH (package redis-server)")
        folder = new_folder()
        self.socket = folder / "socket"
        options = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir", str(folder)]
        super().__init__([binary, *options], folder)

    def start(self) -> None:
        self.wait_ready(lambda: self.ask("PING") == b"+PONG\r\n")

    def ask(self, command: str) -> bytes:
        """One inline command on a connection of its own; the raw answer."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(10)
            connection.connect(str(self.socket))
            connection.sendall(f"{command}\r\nQUIT\r\n".encode())
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        assert answer.endswith(b"+OK\r\n"), answer
        return answer[: -len(b"+OK\r\n")]

    def received(self) -> int:
        """Connections accepted so far, this one included."""
        found = re.search(rb"total_connections_received:(\d+)", self.ask("INFO stats"))
        assert found
        return int(found[1])

    def clients(self) -> dict[str, str]:
        """Who is connected, this one not: the id the server gave them, and their name."""
        rows = [dict(field.partition("=")[::2] for field in line.split()) for line in self._list()]
        return {row["id"]: row["name"] for row in rows if not row["cmd"].startswith("client|list")}

    def _list(self) -> list[str]:
        return [line for line in self.ask("CLIENT LIST").decode().splitlines() if line.startswith("id=")]


class Postgres(Process):
    end_signal = signal.SIGINT  # "fast": it does not wait for clients

    def __init__(self) -> None:
        self.binaries = find_postgres()
        folder = new_folder()
        # PostgreSQL refuses to run as root.
        user: dict[str, Any] = {}
        if os.geteuid() == 0:
            account = unprivileged_account()
            user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(folder, account.pw_uid, account.pw_gid)
        try:
            self._make_cluster(folder, user)
            command = [str(self.binaries / "postgres"), "-D", str(folder / "data"), "-k", str(folder), "-F"]
            super().__init__([*command, "-c", "listen_addresses="], folder, **user)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _make_cluster(self, folder: Path, user: dict[str, Any]) -> None:
        options = ["-U", "sidecar", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        command = [str(self.binaries / "initdb"), "-D", str(folder / "data"), *options]
        captured: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 100}
        done = subprocess.run(command, cwd=folder, check=False, **captured, **user)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        command = [str(self.binaries / "pg_isready"), "-q", "-h", str(self.folder), "-U", "sidecar"]
        self.wait_ready(lambda: subprocess.run(command, timeout=10, check=False).returncode == 0)

    def query(self, statement: str) -> list[str]:
        """The first column, asked by psql: a connection of its own."""
        command = [str(self.binaries / "psql"), "-h", str(self.folder), "-U", "sidecar", "-d", "postgres"]
        command += ["-X", "-A", "-t", "-q", "-c", statement]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


def find_postgres() -> Path:
    """The folder of PostgreSQL's programs; Debian keeps them off ``PATH``, one folder for each version."""
    on_path = shutil.which("postgres")
    if on_path:
        return Path(on_path).resolve().parent
    found = list(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        raise Unavailable("no postgres in /usr/lib/postgresql or on PATH (package postgresql)")
    return max(found, key=lambda path: int(path.parent.parent.name)).parent


def unprivileged_account() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise Unavailable("postgres refuses to run as root, and there is no user postgres (package postgresql)")


def find_chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        raise Unavailable("no chromium on PATH (package chromium)")
    return found
