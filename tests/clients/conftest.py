"""The bridge and the servers of this folder's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from clients import servers

import sidecar


@pytest.fixture
def bridge() -> Iterator[sidecar.Sidecar]:
    """A bridge of the test's own; in the end it shuts down within its time, and leaves nothing behind."""
    bridge = sidecar.Sidecar(name="clients")
    yield bridge
    assert bridge.shutdown()


def running(kind: Any) -> Iterator[Any]:
    try:
        server = kind()
    except servers.Unavailable as reason:
        pytest.skip(str(reason))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def http_server() -> Iterator[servers.HttpServer]:
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    yield from running(servers.HttpServer)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[servers.Redis]:
    yield from running(servers.Redis)


@pytest.fixture(scope="module")
def postgres() -> Iterator[servers.Postgres]:
    yield from running(servers.Postgres)


@pytest.fixture(scope="module")
def websocket_server() -> Iterator[servers.App]:
    yield from running(lambda: servers.App("websocket_app.py"))


@pytest.fixture(scope="module")
def grpc_server() -> Iterator[servers.App]:
    yield from running(lambda: servers.App("grpc_app.py"))
