"""Starlette next to a bridge: its test client, with a loop of its own, and its apps on the bridge's loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
from clients.load import THREADS, request_id, storm

import sidecar

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.websockets import WebSocket

httpx = pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("starlette", reason="starlette is not installed")
applications: Any = pytest.importorskip("starlette.applications")
background: Any = pytest.importorskip("starlette.background")
responses: Any = pytest.importorskip("starlette.responses")
routing: Any = pytest.importorskip("starlette.routing")
testclient: Any = pytest.importorskip("starlette.testclient")


class App:
    """An app whose handlers use a bridge, from threads and from the loop that serves them."""

    def __init__(self, bridge: sidecar.Sidecar) -> None:
        self.bridge = bridge
        self.background: list[int] = []
        self.workers: set[int] = set()
        routes = [
            routing.Route("/async/{number:int}", self.in_a_coroutine),
            routing.Route("/sync/{number:int}", self.in_a_thread),
            routing.Route("/bridge/{number:int}", self.bridge_in_a_thread),
            routing.Route("/inside/{number:int}", self.bridge_in_a_coroutine),
            routing.Route("/stream/{number:int}", self.stream),
            routing.WebSocketRoute("/socket", self.socket),
        ]
        self.app = applications.Starlette(routes=routes)

    async def connect(self) -> Any:
        """A client that calls the app in its own loop."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=self.app), base_url="http://app")

    async def double(self, number: int) -> int:
        await asyncio.sleep(0)
        return number * 2

    async def in_a_coroutine(self, request: Request) -> Any:
        number = request.path_params["number"]
        await asyncio.sleep(0)
        return responses.JSONResponse(
            number, background=background.BackgroundTask(self.background.append, number)
        )

    def in_a_thread(self, request: Request) -> Any:
        self.workers.add(threading.get_ident())
        return responses.JSONResponse(request.path_params["number"])

    def bridge_in_a_thread(self, request: Request) -> Any:
        return responses.JSONResponse(
            self.bridge.run_sync(self.double(request.path_params["number"]), timeout=20)
        )

    async def bridge_in_a_coroutine(self, request: Request) -> Any:
        """Blocks the loop that serves it, as sync code that a handler calls does."""
        return responses.JSONResponse(
            self.bridge.run_sync(self.double(request.path_params["number"]), timeout=20)
        )

    async def stream(self, request: Request) -> Any:
        async def pieces() -> AsyncIterator[str]:
            for number in range(request.path_params["number"]):
                yield f"{number}\n"
                await asyncio.sleep(0)

        return responses.StreamingResponse(pieces())

    async def socket(self, socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(str(self.bridge.run_sync(self.double(int(text)), timeout=20)))


def test_its_client_beside_a_bridge(bridge: sidecar.Sidecar) -> None:
    app = App(bridge)
    with testclient.TestClient(app.app) as client:
        for number in range(50):
            assert client.get(f"/async/{number}").json() == number
            assert client.get(f"/sync/{number}").json() == number
            assert client.get(f"/bridge/{number}").json() == number * 2
            assert client.get(f"/inside/{number}").json() == number * 2
            assert bridge.run_sync(app.double(number)) == number * 2
        assert client.get("/stream/100").text.splitlines() == [str(number) for number in range(100)]
        with client.websocket_connect("/socket") as socket:
            for number in range(20):
                socket.send_text(str(number))
                assert socket.receive_text() == str(number * 2)
    assert app.background == list(range(50))


def test_many_clients_share_one_bridge(bridge: sidecar.Sidecar) -> None:
    """Each thread has a test client, and so a loop of its own; their handlers call the one bridge."""
    app = App(bridge)

    def caller(thread: int) -> list[int]:
        with testclient.TestClient(app.app) as client:
            kind = ("bridge", "inside")[thread % 2]
            return [client.get(f"/{kind}/{thread * 1000 + call}").json() for call in range(25)]

    with concurrent.futures.ThreadPoolExecutor(8) as executor:
        answers = list(executor.map(caller, range(8)))
    assert answers == [[(thread * 1000 + call) * 2 for call in range(25)] for thread in range(8)]


def test_its_client_inside_a_call(bridge: sidecar.Sidecar) -> None:
    """In a pool thread of the bridge, whose handlers call the same bridge while the call waits."""
    app = App(bridge)

    def ask(number: int) -> int:
        with testclient.TestClient(app.app) as client:
            assert client.get(f"/async/{number}").json() == number
            answer: int = client.get(f"/bridge/{number}").json()
            return answer // 2

    async def work(number: int) -> int:
        return await asyncio.get_running_loop().run_in_executor(None, ask, number)

    assert [bridge.run_sync(work(number), timeout=20) for number in range(10)] == list(range(10))


def test_its_apps_on_the_bridge(bridge: sidecar.Sidecar) -> None:
    """Served on the bridge's loop by httpx's ASGI transport; sync handlers run in anyio's threads, kept."""
    app = App(bridge)

    client = bridge.run_sync(app.connect())
    asked: list[int] = []

    async def work(number: int) -> int:
        kind = ("async", "sync")[number % 2]
        if kind == "async":
            asked.append(number)
        reply = await client.get(f"/{kind}/{number}", headers={"X-Request-Id": request_id.get()})
        answer: int = reply.raise_for_status().json()
        return answer

    storm(bridge, work, calls=100)
    assert sorted(app.background) == sorted(asked)
    assert 1 <= len(app.workers) <= THREADS + 1
    reply = bridge.run_sync(client.get("/stream/100"), timeout=10)
    assert reply.text.splitlines() == [str(number) for number in range(100)]
    bridge.run_sync(client.aclose(), timeout=10)


def test_a_handler_cannot_wait_for_its_own_loop(bridge: sidecar.Sidecar) -> None:
    app = App(bridge)

    async def ask() -> None:
        async with await app.connect() as client:
            await client.get("/inside/1")

    with pytest.raises(sidecar.DeadlockError):
        bridge.run_sync(ask(), timeout=10)
