"""sidecar.compat.a2wsgi: what Sidecar adds to it. Its behaviour is judged by its own tests (tests/compat)."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import requested
from asgi_asked import PLAIN, SECONDS, Client, asked, hello
from served import environ, fresh_bridge, of_http, say, start  # noqa: F401  (a fixture among them)

import sidecar
from sidecar.compat.a2wsgi import ASGIMiddleware, WSGIMiddleware
from sidecar.compat.a2wsgi.asgi import build_scope


async def tells_the_request(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"  # there is no lifespan
    request = sidecar.current()
    await start(send)
    await say(send, b"none" if request is None else request.id.encode())


def test_a_request_that_is_there_crosses():
    answer = requested.serve(ASGIMiddleware(tells_the_request), environ())
    assert answer.ids == [answer.text]

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", PLAIN)
        return [sidecar.current().id.encode()]  # type: ignore[union-attr]

    client = asked(sidecar.ASGIMiddleware(WSGIMiddleware(app)))
    assert (b"x-request-id", client.body) in client.messages[0]["headers"]


def test_no_request_is_made():
    answer = requested.Answer()
    assert b"".join(ASGIMiddleware(tells_the_request)(environ(), answer.start_response)) == b"none"
    client = asked(WSGIMiddleware(hello))
    assert b"x-request-id" not in dict(client.messages[0]["headers"])


def test_all_applications_have_one_loop():
    loops = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        loops.append(asyncio.get_running_loop())
        await start(send)
        await say(send)

    adapted = [ASGIMiddleware(app), ASGIMiddleware(app)]
    for each in adapted:
        requested.serve(each, environ())
    assert loops == [each.loop for each in adapted] == [sidecar.get_bridge().get_loop()] * 2


def test_a_loop_that_is_given_runs_the_application():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    loops = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        loops.append(asyncio.get_running_loop())
        message = await receive()
        await start(send)
        await say(send, message["body"], True)
        await say(send, b"!")

    try:
        assert requested.serve(ASGIMiddleware(app, loop=loop), environ()).text == "!"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert loops == [loop]


@pytest.mark.parametrize("more", [False, True])
def test_an_application_that_goes_on_is_cancelled_when_its_time_is_up(more):
    ends: list[str] = []
    ended = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        if more:
            await say(send, b"a", True)
        await say(send, b"b")
        try:
            await asyncio.sleep(SECONDS)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        finally:
            ended.set()

    assert requested.serve(ASGIMiddleware(app, wait_time=0.01), environ()).text == ("ab" if more else "b")
    assert ended.wait(SECONDS)
    assert ends == ["cancelled"]


def test_an_error_before_the_body_is_answered_and_given_to_the_server():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("announced")

    given: list[Any] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        given.append((status, exc_info[0]))

    assert b"".join(ASGIMiddleware(app)(environ(), start_response)) == b"Server got itself in trouble"
    assert given == [("500 Internal Server Error", LookupError)]


def test_a_queue_of_so_many_parts():
    taken = 0

    def app(environ: Any, start_response: Any) -> Any:
        nonlocal taken
        start_response("200 OK", PLAIN)
        for _ in range(100):
            taken += 1
            yield b"x"

    async def main() -> int:
        client = Client()
        client.takes.clear()
        app_ = WSGIMiddleware(app, workers=1, send_queue_size=3)
        task = asyncio.ensure_future(app_(client.scope, client.receive, client.send))
        await client.until(lambda: taken >= 4)
        await asyncio.sleep(0.05)
        seen = taken
        client.takes.set()
        await task
        assert len(client.body) == 100
        return seen

    assert asyncio.run(main()) <= 9  # so many wait, and as many are on their way to the server


def test_the_scope_has_the_environ():
    given = environ(REMOTE_ADDR="1.2.3.4", REMOTE_PORT="5")
    scope: Any = build_scope(given)  # type: ignore[arg-type]
    assert scope["wsgi_environ"] is given
    assert scope["client"] == ("1.2.3.4", 5)
    assert "client" not in build_scope(environ())
