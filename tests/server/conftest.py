"""Real servers for the tests of this folder."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from server.process import Server

APPS = Path(__file__).parent / "apps"
FILE_SIZE = 300_000


def clean_environment(*python_path: Path) -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if name in ("PATH", "LANG", "LC_ALL", "TMPDIR")}
    return {**kept, "PYTHONPATH": os.pathsep.join(map(str, python_path)), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start servers; after the test none of their processes is left, and their logs show no alarm."""
    servers: list[Server] = []
    folders: list[Path] = []

    def start(*command: str, environment: dict[str, str], files: dict[str, str] | None = None) -> Server:
        # A short path: a unix socket's name has about a hundred characters.
        folder = Path(tempfile.mkdtemp(prefix="sidecar-"))
        folders.append(folder)
        (folder / "file.bin").write_bytes(os.urandom(FILE_SIZE))
        for name, text in (files or {}).items():
            (folder / name).write_text(text)
        servers.append(Server(command, folder, environment))
        return servers[-1]

    try:
        yield start
        for server in servers:
            server.stop(signal.SIGINT)
    finally:
        alarms = []
        for server in servers:
            server.kill()
            alarms += server.alarms()
            print(f"--- {' '.join(server.command)}\n{server.log}")
        for folder in folders:
            shutil.rmtree(folder)
    assert not alarms, alarms


# -- uWSGI -----------------------------------------------------------------------


@dataclass
class Uwsgi:
    """One uWSGI binary, the interpreter whose sidecar it loads, and the plugin built for it."""

    binary: Path
    python: Path
    package_folder: Path
    plugin_folder: Path
    python_plugin: str

    @property
    def is_embedded(self) -> bool:
        return self.python_plugin == "python"

    @property
    def environment(self) -> dict[str, str]:
        return clean_environment(self.package_folder, APPS)

    def command(self, *options: str, plugin_folder: Path | None = None) -> list[str]:
        plugins = [] if self.is_embedded else ["--plugin", self.python_plugin]
        return [
            str(self.binary),
            *plugins,
            *("--plugins-dir", str(plugin_folder or self.plugin_folder), "--plugin", "sidecar"),
            *("--http-socket", "{socket}", "--die-on-term", "--buffer-size", "8192"),
            *options,
        ]


def uwsgi_binaries() -> list[str]:
    named = os.environ.get("SIDECAR_TEST_UWSGI")
    return named.split(os.pathsep) if named else [str(Path(sys.executable).parent / "uwsgi")]


def python_for(binary: Path) -> Path:
    """The interpreter whose sidecar the binary can load; skips the test where there is none."""
    if binary.parent == Path(sys.executable).parent:
        return Path(sys.executable)
    debian = os.environ.get("SIDECAR_TEST_DEBIAN")
    return Path(debian) / "bin" / "python" if debian else Path(sys.executable)


def build_plugin(binary: Path, folder: Path) -> Uwsgi:
    if not binary.exists():
        pytest.skip(f"no uWSGI at {binary}: install one, or name others in SIDECAR_TEST_UWSGI")
    python = python_for(binary)
    environment = dict(os.environ)
    if python != Path(sys.executable):
        environment.pop("PYTHONPATH", None)
    found = subprocess.run(
        [python, "-c", "import sidecar; print(sidecar.__path__[0])"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
    )
    if found.returncode != 0:
        pytest.skip(f"no sidecar in {python}, the Python of {binary}")
    command = [python, "-m", "sidecar", "uwsgi-plugin", "--uwsgi", binary, "--output", folder, "--strict"]
    built = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    if "build the plugin with" in built.stderr:
        pytest.skip(f"{binary} runs another Python: {built.stderr.strip()}")
    assert built.returncode == 0, built.stderr
    name = "python"
    for line in built.stdout.splitlines():
        if line.startswith("plugin = ") and "," in line:
            name = line.partition("=")[2].partition(",")[0].strip()
    return Uwsgi(binary, python, Path(found.stdout.strip()).parent, folder, name)


@pytest.fixture(scope="session")
def uwsgi_of(tmp_path_factory) -> Callable[[str], Uwsgi]:
    """By the path of its binary; each plugin is built once."""
    return functools.lru_cache(maxsize=None)(
        lambda binary: build_plugin(Path(binary), tmp_path_factory.mktemp("plugin"))
    )


@pytest.fixture(scope="session", params=uwsgi_binaries())
def uwsgi(request, uwsgi_of) -> Uwsgi:
    return uwsgi_of(request.param)


def stand_ins() -> list[str]:
    """For what takes minutes: by default the first uWSGI stands for all."""
    binaries = uwsgi_binaries()
    return binaries if os.environ.get("SIDECAR_TEST_EVERY_UWSGI") else binaries[:1]


@pytest.fixture
def first_uwsgi(uwsgi) -> None:
    if str(uwsgi.binary) not in stand_ins():
        pytest.skip("takes minutes, so with the first uWSGI only, unless SIDECAR_TEST_EVERY_UWSGI is set")


# -- gunicorn --------------------------------------------------------------------


@pytest.fixture
def gunicorn_command() -> Callable[..., list[str]]:
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")

    def command(*options: str) -> list[str]:
        return [sys.executable, "-m", "gunicorn", "--bind", "unix:{socket}", "--workers", "2", *options]

    return command


@pytest.fixture
def gunicorn_environment() -> dict[str, str]:
    import sidecar

    return clean_environment(Path(sidecar.__path__[0]).parent, APPS)
