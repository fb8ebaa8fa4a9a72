"""Outgoing calls carry the request: each client, against a real server on loopback."""

from __future__ import annotations

import asyncio
import http.server
import socketserver
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sidecar
from sidecar import outgoing

TRACE = "0af7651916cd43dd8448eb211c80319c"
INBOUND = {
    "HTTP_X_REQUEST_ID": "caller-1",
    "HTTP_TRACEPARENT": f"00-{TRACE}-b7ad6b7169203331-03",
    "HTTP_TRACESTATE": "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7",
    "HTTP_BAGGAGE": "userId=alice",
}
OURS = ("x-request-id", "traceparent", "tracestate", "baggage")

Received = list[tuple[str, dict[str, str]]]


class Service(http.server.BaseHTTPRequestHandler):
    """Notes what it is sent. /redirect leads to /end, /away to the same server by another name."""

    def do_GET(self) -> None:
        names = [name.lower() for name in self.headers]
        assert len(set(names)) == len(names), names
        self.server.received.append((self.path, {name.lower(): text for name, text in self.headers.items()}))
        port = self.server.server_address[1]
        leads = {"/redirect": "/end", "/away": f"http://localhost:{port}/end"}.get(self.path)
        self.send_response(302 if leads else 200)
        if leads:
            self.send_header("Location", leads)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


class Server(socketserver.TCPServer):
    allow_reuse_address = True
    request_queue_size = 32
    received: Received


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Service) as made:
        made.received = []
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def url_of(server: Server, path: str = "/") -> str:
    return f"http://127.0.0.1:{server.server_address[1]}{path}"


def in_request(view: Callable[[], Any], **options: Any) -> sidecar.Request:
    found: list[sidecar.Request] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        found.append(sidecar.current())
        view()
        start_response("200 OK", [])
        return []

    sidecar.WSGIMiddleware(app, **{"trust": "always", **options})(dict(INBOUND), lambda status, headers: None)
    return found[0]


# -- the clients: (url, headers of the user's) -> None --------------------------------


def call_httpx(url: str, headers: dict[str, str]) -> None:
    httpx = pytest.importorskip("httpx", reason="httpx cannot be had for this Python")
    with httpx.Client(event_hooks={"request": [outgoing.httpx_hook]}, follow_redirects=True, trust_env=False) as client:
        assert client.get(url, headers=headers).status_code == 200


def call_httpx_async(url: str, headers: dict[str, str]) -> None:
    httpx = pytest.importorskip("httpx", reason="httpx cannot be had for this Python")

    async def call() -> None:
        hooks = {"request": [outgoing.httpx_async_hook]}
        async with httpx.AsyncClient(event_hooks=hooks, follow_redirects=True, trust_env=False) as client:
            assert (await client.get(url, headers=headers)).status_code == 200

    sidecar.run_sync(call())


def call_aiohttp(url: str, headers: dict[str, str]) -> None:
    aiohttp = pytest.importorskip("aiohttp", reason="aiohttp cannot be had for this Python")

    async def call() -> None:
        async with aiohttp.ClientSession(trace_configs=[outgoing.aiohttp_trace_config()]) as session:
            async with session.get(url, headers=headers) as answer:
                assert answer.status == 200

    sidecar.run_sync(call())


def call_requests(url: str, headers: dict[str, str]) -> None:
    requests = pytest.importorskip("requests", reason="requests cannot be had for this Python")
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", outgoing.requests_adapter(max_retries=1))
        assert session.get(url, headers=headers, timeout=20).status_code == 200


def call_requests_on_the_pool(url: str, headers: dict[str, str]) -> None:
    sidecar.run_sync(sidecar.to_async(call_requests)(url, headers))


def call_urllib(url: str, headers: dict[str, str]) -> None:
    added = dict(headers)
    outgoing.add_headers(added)
    with urllib.request.urlopen(urllib.request.Request(url, headers=added), timeout=20) as answer:
        assert answer.status == 200


FOLLOWING = [call_httpx, call_httpx_async, call_aiohttp, call_requests]
CLIENTS = [*FOLLOWING, call_requests_on_the_pool, call_urllib]

each_client = pytest.mark.parametrize("call", CLIENTS)


@each_client
def test_a_call_carries_the_request(server, call):
    def view() -> None:
        for _ in range(3):
            call(url_of(server), {"X-Mine": "1"})

    request = in_request(view)
    assert len(server.received) == 3
    parents = set()
    for _, headers in server.received:
        assert headers["x-mine"] == "1"
        assert headers["x-request-id"] == request.id == "caller-1"
        version, trace_id, parent_id, flags = headers["traceparent"].split("-")
        assert (version, trace_id, flags) == ("00", request.trace_id, "03")
        assert trace_id == TRACE
        parents.add(parent_id)
        assert headers["tracestate"] == INBOUND["HTTP_TRACESTATE"]
        assert headers["baggage"] == "userId=alice"
    assert len(parents - {request.span_id, "b7ad6b7169203331"}) == 3


@each_client
def test_of_an_untrusted_request_only_ours(server, call):
    request = in_request(lambda: call(url_of(server), {}), trust="untrusted", request_id_header="X-Correlation-ID")
    ((_, headers),) = server.received
    assert headers["x-correlation-id"] == request.id != "caller-1"
    assert headers["traceparent"].split("-")[1] == request.trace_id != TRACE
    assert not {"tracestate", "baggage", "x-request-id"} & set(headers)


@each_client
def test_outside_of_a_request_nothing_is_added(server, call):
    call(url_of(server), {"X-Mine": "1"})
    ((_, headers),) = server.received
    assert headers["x-mine"] == "1"
    assert not set(OURS) & set(headers)


@each_client
def test_the_users_own_headers_stay(server, call):
    own = {"x-request-ID": "mine", "Traceparent": f"00-{'1' * 32}-{'2' * 16}-00"}
    in_request(lambda: call(url_of(server), own))
    ((_, headers),) = server.received
    assert headers["x-request-id"] == "mine"
    assert headers["traceparent"] == own["Traceparent"]
    assert "tracestate" not in headers  # it would be another trace's
    assert headers["baggage"] == "userId=alice"


@pytest.mark.parametrize("path", ["/redirect", "/away"])
@pytest.mark.parametrize("call", FOLLOWING)
def test_a_redirect_is_a_call_of_its_own(server, call, path):
    own = {"X-Request-ID": "mine"}
    request = in_request(lambda: call(url_of(server, path), own))
    assert [path for path, _ in server.received] == [path, "/end"]
    traces, parents = set(), set()
    for _, headers in server.received:
        assert headers["x-request-id"] == "mine"
        assert headers["tracestate"] == INBOUND["HTTP_TRACESTATE"]
        _, trace_id, parent_id, _ = headers["traceparent"].split("-")
        traces.add(trace_id)
        parents.add(parent_id)
    assert traces == {request.trace_id}
    assert len(parents) == 2


def test_requests_at_once_share_a_client(server):
    """One kept AsyncClient, many requests: each call carries its own."""
    httpx = pytest.importorskip("httpx", reason="httpx cannot be had for this Python")
    hooks = {"request": [outgoing.httpx_async_hook]}
    seen: dict[str, str] = {}

    async def make() -> Any:
        return httpx.AsyncClient(event_hooks=hooks, trust_env=False)

    client = sidecar.run_sync(make())

    def view() -> None:
        request = sidecar.current()

        async def both() -> None:
            await asyncio.gather(*(client.get(url_of(server, f"/{request.trace_id}/{i}")) for i in range(2)))

        seen[request.trace_id] = request.id
        request.run_sync(both())

    threads = [threading.Thread(target=in_request, args=(view,), kwargs={"trust": "untrusted"}) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sidecar.run_sync(client.aclose())
    assert len(server.received) == 12
    for path, headers in server.received:
        trace_id = path.split("/")[1]
        assert headers["traceparent"].split("-")[1] == trace_id
        assert headers["x-request-id"] == seen[trace_id]
    assert len({headers["traceparent"] for _, headers in server.received}) == 12


def test_headers_by_hand():
    assert outgoing.headers() == {}
    found = []
    request = in_request(lambda: found.extend([outgoing.headers(), outgoing.headers()]))
    first, second = found
    assert set(first) == {"X-Request-ID", "traceparent", "tracestate", "baggage"}
    assert first["X-Request-ID"] == request.id
    assert first["traceparent"] != second["traceparent"]
