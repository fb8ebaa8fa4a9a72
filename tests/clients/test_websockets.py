"""websockets on a kept bridge: one connection for all threads, alive between their calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from clients.load import request_id, storm
from clients.servers import App
from harness import wait_for

import sidecar

pytest.importorskip("websockets.asyncio.client", reason="websockets 13 or later is not installed")

PING_INTERVAL = 0.02


class Client:
    """Sends questions as they come; a task that lives on the bridge gives each its answer."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.heard: list[int] = []
        self.reader = asyncio.ensure_future(self.read())

    @classmethod
    async def connect(cls, server: App) -> Client:
        from websockets.asyncio.client import connect

        url = f"ws://127.0.0.1:{server.port}/"
        return cls(await connect(url, ping_interval=PING_INTERVAL, ping_timeout=20, proxy=None))

    async def read(self) -> None:
        async for text in self.connection:
            said = json.loads(text)
            if "id" not in said:
                self.heard.append(said["news"])
                continue
            answer = self.waiting.pop(said["id"], None)
            if answer is not None:
                answer.set_result(said)

    async def echo(self, number: int) -> int:
        id = request_id.get()
        self.waiting[id] = asyncio.get_running_loop().create_future()
        try:
            question = {"id": id, "number": number, "fill": "x" * (number % 3000)}
            await self.connection.send(json.dumps(question))
            said = await self.waiting[id]
        finally:
            self.waiting.pop(id, None)
        assert len(said["fill"]) == number % 3000
        answer: int = said["number"]
        return answer

    async def never(self, number: int) -> None:
        await self.connection.send(json.dumps({"id": "nobody's", "number": number}))
        await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        await self.connection.close()
        await self.reader


def control(server: App, text: str) -> str:
    """Asked on a connection of its own, by blocking calls: nobody drives a bridge for it."""
    from websockets.sync.client import connect

    with connect(f"ws://127.0.0.1:{server.port}/control", proxy=None) as connection:
        connection.send(text)
        answer = connection.recv(timeout=10)
        assert isinstance(answer, str)
        return answer


def stats(server: App) -> dict[str, int]:
    counts: dict[str, int] = json.loads(control(server, "stats"))
    return counts


@contextmanager
def connected(bridge: sidecar.Sidecar, server: App) -> Iterator[Client]:
    client = bridge.run_sync(Client.connect(server))
    try:
        yield client
    finally:
        bridge.run_sync(client.close(), timeout=10)
    wait_for(lambda: stats(server)["open"] == 0, "the server sees the connection closed")


def test_one_connection_is_kept(bridge: sidecar.Sidecar, websocket_server: App) -> None:
    before = stats(websocket_server)["accepted"]
    with connected(bridge, websocket_server) as client:
        storm(bridge, client.echo, calls=300)
        storm(bridge, client.echo, calls=60, impatient=client.never)
        assert not client.waiting
        assert stats(websocket_server)["accepted"] - before == 1


def test_it_is_alive_between_calls(bridge: sidecar.Sidecar, websocket_server: App) -> None:
    """Nobody calls: the bridge's own thread runs the keepalive task, and answers the server's pings."""
    with connected(bridge, websocket_server) as client:
        before = stats(websocket_server)
        # Each ping but the first is sent only after the answer to the one before.
        wait_for(lambda: stats(websocket_server)["pings"] >= before["pings"] + 5, "the server gets pings")
        wait_for(lambda: client.connection.latency > 0, "the client has got an answer")
        for number in range(3):
            assert control(websocket_server, json.dumps({"news": number})) == "said"
        wait_for(lambda: stats(websocket_server)["pongs"] >= before["pongs"] + 3, "its pings are answered")
        wait_for(lambda: client.heard == [0, 1, 2], "what the server says by itself is heard")
        storm(bridge, client.echo, calls=20)
