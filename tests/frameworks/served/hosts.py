"""The frameworks' applications on real hosts: how each is started, and what must hold on all of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from server.process import Server, check_many

import sidecar

FOLDER = Path(__file__).parents[1]
VIEWS = ["/sync_view", "/async_view", "/stream", "/async_stream"]
GTHREAD = ("--workers", "1", "--worker-class", "gthread", "--threads", "4")


def environment_of(package_folder: Path, **more: str) -> dict[str, str]:
    python_path = os.pathsep.join([str(package_folder), str(FOLDER.parent)])
    return {"PATH": os.environ["PATH"], "PYTHONPATH": python_path, "PYTHONDONTWRITEBYTECODE": "1", **more}


def command_of(host: str, app: str, gunicorn_command: Callable[..., list[str]]) -> list[str]:
    """One worker process with threads."""
    if host == "werkzeug":
        options = ["run", "--with-threads", "--host", "unix://{socket}"]
        return [sys.executable, "-m", "flask", "--app", app, *options]
    if host == "waitress":
        pytest.importorskip("waitress", reason="waitress is not installed")
        return [sys.executable, "-m", "waitress", "--threads", "4", "--unix-socket", "{socket}", app]
    hook = ["-c", "python:sidecar.gunicorn"] * (host == "gthread-hook")
    return gunicorn_command(*GTHREAD, *hook, app)


def package_folder() -> Path:
    return Path(sidecar.__path__[0]).parent


def check_loops(server: Server) -> None:
    """All async views of a worker ran on one loop: its bridge's."""
    answers = [response.json() for response in server.get_many(["/where"] * 24, 8)]
    assert {answer["loops"] for answer in answers} == {1}
    assert {answer["loop"] for answer in answers} == {answers[0]["bridge"]}


def check_streams(server: Server) -> None:
    """A body ends in its own request."""
    streams = [server.get(path).ids[0] for path in ("/stream", "/async_stream") * 2]
    closed = server.get("/state").json()["closed"]
    assert len(set(streams)) == 4
    assert set(streams) <= set(closed)


def check_kept_client(server: Server, upstream) -> None:
    for _ in range(10):
        response = server.get(f"/kept?url={upstream.url}")
        assert (response.status, response.text) == (200, "kept")
    assert upstream.connections == 1


def check_file(server: Server, path: str, content: bytes) -> None:
    response = server.get(path)
    assert response.body == content
    assert len(response.ids) == 1


def check(server: Server, upstream) -> None:
    """A hundred requests, eight at a time; loops, bodies and a client that is kept."""
    check_many(server, VIEWS * 25, 8)
    check_loops(server)
    check_streams(server)
    check_kept_client(server, upstream)
