"""httpx on a kept bridge: one client for all threads, its connections kept."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from clients.load import THREADS, request_id, storm
from clients.servers import HttpServer
from harness import wait_for

import sidecar

httpx = pytest.importorskip("httpx", reason="httpx is not installed")

CONNECTIONS = 4
# httpcore's pool loses a slot for good, on any loop, where a request is cancelled before it uses the new
# connection that it was given. So in the time-out test there are slots for the callers and for all of those.
TIMED_OUT = 3 * (THREADS + 1)
ENOUGH = THREADS + 1 + TIMED_OUT


class Client:
    def __init__(self, client: Any) -> None:
        self.client = client

    @classmethod
    async def connect(cls, server: HttpServer, connections: int) -> Client:
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        return cls(httpx.AsyncClient(base_url=server.url, limits=limits, timeout=30))

    async def close(self) -> None:
        await self.client.aclose()

    async def echo(self, number: int) -> int:
        headers = {"X-Request-Id": request_id.get()}
        reply = await self.client.get("/echo", params={"number": number}, headers=headers)
        said: dict[str, Any] = reply.raise_for_status().json()
        assert said["id"] == request_id.get()
        answer: int = said["number"]
        return answer

    async def post(self, number: int) -> int:
        reply = await self.client.post("/echo", params={"number": number}, content=b"x" * (number % 5000))
        said: dict[str, Any] = reply.raise_for_status().json()
        assert said["size"] == number % 5000
        answer: int = said["number"]
        return answer

    async def slow(self, number: int) -> None:
        await self.client.get("/slow")

    async def meet(self, parties: int) -> list[bytes]:
        query = {"name": "httpx", "parties": parties}
        asked = [self.client.get("/meet", params=query) for _ in range(parties)]
        return [reply.content for reply in await asyncio.gather(*asked)]

    async def stream(self, pieces: int) -> list[int]:
        async with self.client.stream("GET", "/stream", params={"pieces": pieces}) as reply:
            return [int(line) async for line in reply.aiter_lines()]


@contextmanager
def connected(bridge: sidecar.Sidecar, server: HttpServer, connections: int) -> Iterator[Client]:
    client = bridge.run_sync(Client.connect(server, connections))
    try:
        yield client
    finally:
        bridge.run_sync(client.close(), timeout=10)
    wait_for(lambda: server.stats()["open"] == 0, "the server sees its connections closed")


def test_connections_are_kept(bridge: sidecar.Sidecar, http_server: HttpServer) -> None:
    before = http_server.stats()["accepted"]
    with connected(bridge, http_server, CONNECTIONS) as client:
        storm(bridge, client.echo, calls=150)
        storm(bridge, client.post, calls=15, alone=20)
        assert bridge.run_sync(client.stream(500), timeout=30) == list(range(500))
        stats = http_server.stats()
        assert stats["accepted"] - before <= CONNECTIONS
        assert stats["open"] == stats["accepted"] - before


def test_time_outs_leave_the_client_whole(bridge: sidecar.Sidecar, http_server: HttpServer) -> None:
    before = http_server.stats()
    with connected(bridge, http_server, ENOUGH) as client:
        done = storm(bridge, client.echo, calls=60, impatient=client.slow)
        assert done.timed_out == TIMED_OUT
        # A request given up takes its connection with it, and no other.
        assert http_server.stats()["accepted"] - before["accepted"] <= ENOUGH
        assert bridge.run_sync(client.meet(THREADS + 1), timeout=20) == [b"met"] * (THREADS + 1)
        wait_for(lambda: http_server.stats()["open"] <= THREADS + 1, "the connections given up are closed")
