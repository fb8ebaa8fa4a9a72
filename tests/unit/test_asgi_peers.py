"""ASGIMiddleware among others' tools: asgiref's communicator and checks, Starlette's client and streaming."""

from __future__ import annotations

import asyncio
import concurrent.futures

import pytest
from unit.asgi_server import NAME, current_id, scope_of

import sidecar

# Starlette's client asks for another httpx.
pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx`")

testing = pytest.importorskip("asgiref.testing", reason="asgiref is not installed")
compatibility = pytest.importorskip("asgiref.compatibility", reason="asgiref is not installed")


async def echo(scope, receive, send):
    """Of http: the body, with the id. Of a websocket: each text, with the id."""
    own = scope["sidecar.request"].id
    if scope["type"] == "http":
        message = await receive()
        headers = [(NAME, b"own"), (b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": message["body"] + b" " + own.encode()})
        return
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        assert current_id().decode() == own
        await send({"type": "websocket.send", "text": f"{message['text']} {own}"})


# -- asgiref ---------------------------------------------------------------------


def test_asgiref_takes_it_for_single_callable():
    middleware = sidecar.ASGIMiddleware(echo)
    assert not compatibility.is_double_callable(middleware)
    assert compatibility.guarantee_single_callable(middleware) is middleware


def test_http_by_asgirefs_communicator():
    async def main():
        communicator = testing.ApplicationCommunicator(sidecar.ASGIMiddleware(echo), scope_of())
        await communicator.send_input({"type": "http.request", "body": b"x"})
        start = await communicator.receive_output(5)
        body = await communicator.receive_output(5)
        await communicator.wait(5)
        assert await communicator.receive_nothing()
        [id] = [value for name, value in start["headers"] if name == NAME]
        assert body["body"] == b"x " + id

    asyncio.run(main())


def test_a_websocket_by_asgirefs_communicator():
    async def main():
        communicator = testing.ApplicationCommunicator(sidecar.ASGIMiddleware(echo), scope_of("websocket"))
        await communicator.send_input({"type": "websocket.connect"})
        accept = await communicator.receive_output(5)
        [(name, id)] = accept["headers"]
        assert name == NAME
        for text in ("a", "b"):
            await communicator.send_input({"type": "websocket.receive", "text": text})
            assert (await communicator.receive_output(5))["text"] == f"{text} {id.decode()}"
        await communicator.send_input({"type": "websocket.disconnect", "code": 1000})
        await communicator.wait(5)

    asyncio.run(main())


def test_asgiref_cancels_it():
    ended = []

    async def app(scope, receive, send):
        try:
            await receive()
        finally:
            ended.append(current_id() == scope["sidecar.request"].id.encode())

    async def main():
        communicator = testing.ApplicationCommunicator(sidecar.ASGIMiddleware(app), scope_of())
        with pytest.raises(asyncio.TimeoutError):
            await communicator.receive_output(0.01)
        assert ended == [True]

    asyncio.run(main())


def test_asgirefs_sync_to_async_is_in_the_request():
    from asgiref.sync import async_to_sync, sync_to_async

    async def inner():
        return current_id()

    def sync():
        return current_id(), async_to_sync(inner)()

    async def app(scope, receive, send):
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            job = sync_to_async(sync, thread_sensitive=False, executor=executor)
            return current_id(), *await job()

    async def main():
        ids = await sidecar.ASGIMiddleware(app)(scope_of(), None, None)
        assert len(ids) == 3
        assert len(set(ids)) == 1

    asyncio.run(main())


# -- Starlette -------------------------------------------------------------------


@pytest.fixture
def client():
    """An application of Starlette's with middleware of its own, around and within ours; its test client."""
    pytest.importorskip("httpx", reason="httpx is not installed")
    starlette = pytest.importorskip("starlette.applications", reason="starlette is not installed")
    import contextlib

    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Mount, Route, WebSocketRoute
    from starlette.testclient import TestClient

    async def plain(request):
        jobs = await asyncio.gather(*(sidecar.to_async(current_id)() for _ in range(3)))
        seen = {id.decode() for id in jobs} | {current_id().decode(), request.scope["sidecar.request"].id}
        return JSONResponse({"seen": sorted(seen), "inbound": request.headers.get("x-request-id")})

    def in_a_thread(request):
        return JSONResponse({"seen": [current_id().decode()], "inbound": None})

    async def streamed(request):
        async def blocks():
            for _ in range(3):
                yield current_id() + b"\n"
                await asyncio.sleep(0)

        return StreamingResponse(blocks(), headers={"X-Request-ID": "own"})

    async def broken(request):
        raise LookupError("announced")

    async def socket(websocket):
        await websocket.accept(headers=[(NAME, b"own")])
        await websocket.send_text(current_id().decode())
        await websocket.close()

    async def state(request):
        return JSONResponse({"bridge": request.state.sidecar is sidecar.get_bridge()})

    async def through(request, call_next):
        return await call_next(request)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        assert sidecar.current() is None
        yield {}

    routes = [
        Route("/plain", plain),
        Route("/thread", in_a_thread),
        Route("/streamed", streamed),
        Route("/broken", broken),
        Route("/state", state),
        WebSocketRoute("/socket", socket),
    ]
    mounted = starlette.Starlette(routes=routes, middleware=[Middleware(sidecar.ASGIMiddleware)])
    app = starlette.Starlette(
        routes=[*routes, Mount("/mounted", app=mounted)],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=through)],
        lifespan=lifespan,
    )
    with TestClient(sidecar.ASGIMiddleware(app), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize("path", ["/plain", "/thread", "/mounted/plain", "/mounted/thread"])
def test_starlettes_views(client, path):
    response = client.get(path, headers={"X-Request-ID": "theirs"})
    own = response.headers.get_list("x-request-id")
    assert response.json()["seen"] == own
    assert response.json()["inbound"] in (own[0], None)


@pytest.mark.parametrize("path", ["/streamed", "/mounted/streamed"])
def test_starlettes_streams(client, path):
    response = client.get(path)
    own = response.headers.get_list("x-request-id")
    assert response.text.split() == own * 3


def test_starlettes_errors(client):
    response = client.get("/broken")
    assert response.status_code == 500
    assert len(response.headers.get_list("x-request-id")) == 1


@pytest.mark.parametrize("path", ["/socket", "/mounted/socket"])
def test_starlettes_websockets(client, path):
    with client.websocket_connect(path) as socket:
        sent = [value for name, value in socket.extra_headers if name == NAME]
        assert sent == [socket.receive_text().encode()]


def test_starlettes_state(client):
    assert client.get("/state").json() == {"bridge": True}


def test_a_websocket_that_is_refused(client):
    from starlette.testclient import WebSocketDenialResponse
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises((WebSocketDenialResponse, WebSocketDisconnect)):
        with client.websocket_connect("/nowhere"):
            raise AssertionError("it was accepted")
