"""aiohttp on a kept bridge: one session for all threads, its connections kept."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from clients.load import request_id, storm
from clients.servers import HttpServer
from harness import wait_for

import sidecar

aiohttp = pytest.importorskip("aiohttp", reason="aiohttp is not installed")

CONNECTIONS = 4


class Client:
    def __init__(self, session: Any) -> None:
        self.session = session

    @classmethod
    async def connect(cls, server: HttpServer) -> Client:
        # It looks for the running loop, so it has to be made on it.
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=600)
        return cls(aiohttp.ClientSession(server.url, connector=connector))

    async def echo(self, number: int) -> int:
        headers = {"X-Request-Id": request_id.get()}
        async with self.session.get("/echo", params={"number": number}, headers=headers) as reply:
            said: dict[str, Any] = await reply.json()
        assert said["id"] == request_id.get()
        answer: int = said["number"]
        return answer

    async def post(self, number: int) -> int:
        body = b"x" * (number % 50_000)
        async with self.session.post("/echo", params={"number": number}, data=body) as reply:
            said: dict[str, Any] = await reply.json()
        assert said["size"] == len(body)
        answer: int = said["number"]
        return answer

    async def slow(self, number: int) -> None:
        async with self.session.get("/slow"):
            pass

    async def meet_one(self) -> str:
        async with self.session.get("/meet", params={"name": "aiohttp", "parties": CONNECTIONS}) as reply:
            text: str = await reply.text()
            return text

    async def meet(self) -> list[str]:
        return await asyncio.gather(*(self.meet_one() for _ in range(CONNECTIONS)))

    async def stream(self, pieces: int) -> list[int]:
        async with self.session.get("/stream", params={"pieces": pieces}) as reply:
            return [int(line) async for line in reply.content]

    async def close(self) -> None:
        await self.session.close()


@contextmanager
def connected(bridge: sidecar.Sidecar, server: HttpServer) -> Iterator[Client]:
    client = bridge.run_sync(Client.connect(server))
    try:
        yield client
    finally:
        bridge.run_sync(client.close(), timeout=10)
    wait_for(lambda: server.stats()["open"] == 0, "the server sees its connections closed")


def test_connections_are_kept(bridge: sidecar.Sidecar, http_server: HttpServer) -> None:
    before = http_server.stats()["accepted"]
    with connected(bridge, http_server) as client:
        storm(bridge, client.echo, calls=500)
        storm(bridge, client.post, calls=50)
        assert bridge.run_sync(client.stream(500), timeout=30) == list(range(500))
        stats = http_server.stats()
        assert stats["accepted"] - before <= CONNECTIONS
        assert stats["open"] == stats["accepted"] - before


def test_time_outs_leave_the_pool_whole(bridge: sidecar.Sidecar, http_server: HttpServer) -> None:
    """More callers than connections: some are cancelled while they wait for one."""
    before = http_server.stats()
    with connected(bridge, http_server) as client:
        done = storm(bridge, client.echo, calls=100, impatient=client.slow)
        # Every one of its connections can still be had, all at the same time.
        assert bridge.run_sync(client.meet(), timeout=20) == ["met"] * CONNECTIONS
        # A request given up takes its connection with it, and no other.
        assert http_server.stats()["accepted"] - before["accepted"] <= CONNECTIONS + done.timed_out
        wait_for(lambda: http_server.stats()["open"] <= CONNECTIONS, "the connections given up are closed")
