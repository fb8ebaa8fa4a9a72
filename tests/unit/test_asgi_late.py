"""ASGIMiddleware: what answers where the application lets the deadline pass, or has no room."""

from __future__ import annotations

import asyncio
import logging

import pytest
from unit.asgi_server import Server, finish, pause, scope_of

import sidecar


async def nap(seconds):
    await asyncio.sleep(seconds)


@sidecar.to_async
def wait_too_long():
    sidecar.run_sync(nap(60))


async def late(scope, receive, send):
    await wait_too_long()


def refuses(scope, receive, send):
    """Before there is a coroutine."""
    raise sidecar.Overloaded("no room", retry_after=2.5)


async def refuses_later(scope, receive, send):
    await pause()
    raise sidecar.Overloaded("no room", retry_after=2.5)


def call(server, app, scope, **options):
    return sidecar.ASGIMiddleware(app, **options)(scope, server.receive, server.send)


def test_a_deadline_is_answered_with_504(caplog):
    server = Server()
    with caplog.at_level(logging.WARNING, "sidecar"):
        asyncio.run(call(server, late, scope_of(method="GET"), deadline=0.02))
    start, body = server.sent
    (request_id,) = server.ids()
    assert start["type"] == "http.response.start" and start["status"] == 504
    assert (b"content-length", str(len(body["body"])).encode()) in start["headers"]
    assert body["type"] == "http.response.body" and request_id in body["body"]
    assert [record.getMessage().count("answered with 504") for record in caplog.records] == [1]


@pytest.mark.parametrize("app", [refuses, refuses_later])
def test_an_overload_is_answered_with_503(app):
    server = Server()
    finish(call(server, app, scope_of(method="POST")))
    start, body = server.sent
    assert start["status"] == 503 and (b"retry-after", b"3") in start["headers"]
    assert server.ids()[0] in body["body"]


def test_no_body_where_none_was_asked_for():
    server = Server()
    finish(call(server, refuses, scope_of(method="HEAD")))
    start, body = server.sent
    assert start["status"] == 503 and body["body"] == b""
    assert dict(start["headers"])[b"content-length"] != b"0"


def test_the_error_is_the_servers_once_the_response_has_begun():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        refuses(scope, receive, send)

    server = Server()
    with pytest.raises(sidecar.Overloaded):
        finish(call(server, app, scope_of()))
    assert len(server.sent) == 1


def test_a_websocket_gets_no_answer():
    server = Server()
    with pytest.raises(sidecar.Overloaded):
        finish(call(server, refuses, scope_of("websocket")))
    assert server.sent == []


@pytest.mark.parametrize("error", [ValueError("other"), TimeoutError(), asyncio.CancelledError(), GeneratorExit()])
def test_other_errors_pass(error):
    async def app(scope, receive, send):
        await pause()
        raise error

    server = Server()
    with pytest.raises(type(error)) as caught:
        finish(call(server, app, scope_of()))
    assert caught.value is error and server.sent == []


def test_an_answer_that_cannot_be_sent_says_so():
    """And ends it: there is one answer, not an answer to that."""

    async def send(message):
        raise sidecar.Overloaded("the server's own")

    with pytest.raises(sidecar.Overloaded, match="the server's own"):
        finish(sidecar.ASGIMiddleware(refuses)(scope_of(), None, send))


def test_the_request_is_the_current_one_while_the_answer_is_sent():
    seen = []

    async def send(message):
        await pause()
        seen.append((message["type"], sidecar.current()))

    coroutine = sidecar.ASGIMiddleware(refuses)(scope_of(), None, send)
    finish(coroutine)
    assert [kind for kind, _ in seen] == ["http.response.start", "http.response.body"]
    assert seen[0][1] is seen[1][1] is not None
    assert sidecar.current() is None
