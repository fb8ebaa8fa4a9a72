"""sidecar.serve_asgi: the scope, bodies, responses."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
import tracemalloc
import wsgiref.validate
from typing import Any

import pytest
import requested
from served import PLAIN, environ, fresh_bridge, of_http, say, serve, start  # noqa: F401  (a fixture among them)

import sidecar
from sidecar.serve_asgi import ASGIApplication

# -- the scope -----------------------------------------------------------------------


def scope_of(**more: Any) -> dict[str, Any]:
    scopes: list[dict[str, Any]] = []

    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert sidecar.current() is scope["sidecar.request"]
        scopes.append(scope)
        await start(send)
        await say(send)

    assert serve(app, **more).status == "200 OK"
    return scopes[0]


def test_what_every_scope_has():
    scope = scope_of()
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.4"}
    assert scope["type"] == "http"
    assert scope["http_version"] == "1.1"
    assert scope["extensions"] == {}
    assert scope["server"] == ("here", 80)
    assert scope["client"] is None
    assert "raw_path" not in scope
    assert scope["state"] == {"sidecar": sidecar.get_bridge()}


def test_paths():
    scope = scope_of(SCRIPT_NAME="/api", PATH_INFO="/\u00c3\u00bc \u00ff", REQUEST_URI="/api/%C3%BC%20%FF?q=1")
    assert scope["root_path"] == "/api"
    assert scope["path"] == "/api/\u00fc \ufffd"
    assert scope["raw_path"] == b"/api/%C3%BC%20%FF"
    assert scope_of(RAW_URI="http://a.b/c/d?e")["raw_path"] == b"/c/d"
    assert scope_of(RAW_URI="//c/d?e")["raw_path"] == b"//c/d"
    assert scope_of(RAW_URI="*")["raw_path"] == b"*"


@pytest.mark.parametrize(
    ("given", "client", "server"),
    [
        ({"REMOTE_ADDR": "1.2.3.4", "REMOTE_PORT": "5"}, ("1.2.3.4", 5), ("here", 80)),
        ({"REMOTE_ADDR": "::1"}, ("::1", 0), ("here", 80)),
        ({"REMOTE_ADDR": "", "SERVER_PORT": ""}, None, ("here", None)),
    ],
)
def test_addresses(given, client, server):
    scope = scope_of(**given)
    assert (scope["client"], scope["server"]) == (client, server)


def test_headers_come_in_order_and_lower_case():
    scope = scope_of(HTTP_HOST="a", CONTENT_TYPE="b/c", CONTENT_LENGTH="", HTTP_X_Y="d\u00ff", HTTP_ACCEPT="")
    assert scope["headers"][:4] == [(b"host", b"a"), (b"content-type", b"b/c"), (b"x-y", b"d\xff"), (b"accept", b"")]


def test_a_header_that_the_server_gives_twice_comes_once():
    """A client's Content_Length, say: the server's own word counts."""
    scope = scope_of(CONTENT_TYPE="b/c", HTTP_CONTENT_TYPE="d/e", HTTP_CONTENT_LENGTH="7", HTTP_CONTENT_TYPES="f")
    names = [name for name, _ in scope["headers"]]
    assert names.count(b"content-type") == 1 and (b"content-type", b"b/c") in scope["headers"]
    assert b"content-length" not in names and (b"content-types", b"f") in scope["headers"]


def test_names_from_clients_are_not_kept_without_end():
    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["headers"][0][0].startswith(b"x-")
        await start(send, headers=[(b"y" + scope["headers"][0][0], b"1")])
        await say(send)

    application = ASGIApplication(app)

    def serve_names(numbers: range) -> None:
        for number in numbers:
            requested.serve(application, environ(**{f"HTTP_X_{number}": "1"}))

    serve_names(range(3000))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    serve_names(range(3000, 6000))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 100_000  # two names, each with what a dict needs for it, are 300 bytes a request


# -- bodies --------------------------------------------------------------------------


async def read_all(receive: Any) -> list[bytes]:
    bodies = []
    while True:
        message = await receive()
        assert message["type"] == "http.request"
        bodies.append(message["body"])
        if not message["more_body"]:
            return bodies


class Input(io.BytesIO):
    """Notes who reads, and how much."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads: list[tuple[int, int]] = []

    def read(self, size: int = -1) -> bytes:  # type: ignore[override]
        self.reads.append((threading.get_ident(), size))
        return super().read(size)


@of_http
async def echo(scope: Any, receive: Any, send: Any) -> None:
    bodies = await read_all(receive)
    await start(send)
    await say(send, b"|".join(bodies))


def test_a_body_is_read_on_the_requests_thread_and_no_further_than_it_goes():
    source = Input(b"x" * 100_000 + b"the next request")
    answer = serve(echo, **{"wsgi.input": source, "CONTENT_LENGTH": "100000"})
    assert answer.body == [b"x" * 65_536 + b"|" + b"x" * 34_464]
    assert source.reads == [(threading.get_ident(), 65_536), (threading.get_ident(), 34_464)]


def test_a_body_of_unknown_length_is_read_to_its_end():
    answer = serve(echo, **{"wsgi.input": Input(b"abc"), "wsgi.input_terminated": True})
    assert answer.text == "abc|"


@pytest.mark.parametrize("length", ["", "0", "nonsense", "-3"])
def test_no_body_is_not_read(length):
    source = Input(b"abc")
    assert serve(echo, **{"wsgi.input": source, "CONTENT_LENGTH": length}).text == ""
    assert source.reads == []


def test_a_body_nobody_asks_for_is_not_read():
    source = Input(b"abc")

    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await say(send, b"no")

    assert serve(app, **{"wsgi.input": source, "CONTENT_LENGTH": "3"}).text == "no"
    assert source.reads == []


@pytest.mark.parametrize("error", [None, OSError("broken")])
def test_a_body_that_breaks_off(error):
    class Broken(io.BytesIO):
        def read(self, size: int = -1) -> bytes:  # type: ignore[override]
            data = super().read(size)
            if not data and error is not None:
                raise error
            return data

    seen: list[str] = []

    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(3):
            seen.append((await receive())["type"])
        await start(send)
        await say(send, b"said")

    assert serve(app, **{"wsgi.input": Broken(b"abc"), "CONTENT_LENGTH": "10"}).text == "said"
    assert seen == ["http.request", "http.disconnect", "http.disconnect"]


def test_two_that_receive_at_once():
    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        first, second = await asyncio.gather(receive(), receive())
        await start(send)
        await say(send, first["body"][:1] + second["body"][:1])

    source = Input(b"a" * 65_536 + b"b" * 10)
    assert sorted(serve(app, **{"wsgi.input": source, "CONTENT_LENGTH": "65546"}).text) == ["a", "b"]


def test_a_receive_that_is_cancelled_loses_nothing():
    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        task.cancel()
        await start(send)
        await say(send, b"".join(await read_all(receive)))

    assert serve(app, **{"wsgi.input": Input(b"abc"), "CONTENT_LENGTH": "3"}).text == "abc"


# -- responses -----------------------------------------------------------------------


def test_a_whole_response_is_a_list():
    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send, 418, [(b"X-One", b"1"), (b"x-one", b"2"), (b"Transfer-Encoding", b"chunked")])
        await say(send, b"tea")

    started: list[Any] = []
    body = ASGIApplication(app)(environ(), lambda *given: started.append(given))
    assert body == [b"tea"]
    assert started == [("418 I'm a Teapot", [("x-one", "1"), ("x-one", "2"), ("content-length", "3")])]


def test_a_streamed_response_comes_part_by_part():
    go = [threading.Event() for _ in range(3)]

    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for number, event in enumerate(go):
            await say(send, b"%d" % number, more=True)
            while not event.is_set():
                await asyncio.sleep(0.001)
        await say(send, b"end")

    answer = requested.Answer()
    body = ASGIApplication(app)(environ(), answer.start_response)
    parts = []
    for part in body:
        parts.append(part)
        if len(parts) <= 3:
            go[len(parts) - 1].set()
    body.close()  # type: ignore[attr-defined]
    assert parts == [b"0", b"1", b"2", b"end"]
    assert answer.starts == [("200 OK", [("content-type", "text/plain")])]


def test_an_application_is_held_back():
    sent: list[int] = []

    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for number in range(100):
            await say(send, b"x" * 10_000, more=True)
            sent.append(number)
        await say(send)

    body = iter(ASGIApplication(app)(environ(), requested.Answer().start_response))
    for taken in range(100):
        assert next(body) == b"x" * 10_000
        assert len(sent) <= taken + 8
    assert list(body) == []
    assert len(sent) == 100


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("status", [200, 204, 304])
def test_which_responses_have_a_body(method, status):
    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send, status)
        if scope["query_string"] == b"parts":
            await say(send, b"more", more=True)
        await say(send, b"body")

    has = method == "GET" and status == 200
    whole = serve(app, REQUEST_METHOD=method)
    assert whole.text == ("body" if has else "")
    assert (("content-length", "4") in whole.starts[0][1]) is (status == 200)
    assert serve(app, REQUEST_METHOD=method, QUERY_STRING="parts").text == ("morebody" if has else "")


def test_pep_3333():
    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for _ in range(3):
            await say(send, b"part", more=True)
            await asyncio.sleep(0)
        await say(send)

    given = environ(**{"wsgi.version": (1, 0), "wsgi.errors": sys.stderr, "wsgi.input": io.BytesIO()})
    given.update({"wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False})
    checked = wsgiref.validate.validator(ASGIApplication(app))(given, requested.Answer().start_response)
    assert b"".join(checked) == b"part" * 3
    checked.close()


async def _body_first(send: Any) -> None:
    await say(send)


async def _twice(send: Any) -> None:
    await start(send)
    await start(send)


async def _bad_status(send: Any) -> None:
    await start(send, 99)


async def _line_break(send: Any) -> None:
    await start(send, headers=[(b"x", b"a\r\nb: c")])


async def _bad_name(send: Any) -> None:
    await start(send, headers=[(b"x: y", b"a")])


async def _no_bytes(send: Any) -> None:
    await start(send, headers=[("x", "y")])


async def _unfinished(send: Any) -> None:
    await start(send)


async def _nothing(send: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("sends", "error", "text"),
    [
        (_body_first, RuntimeError, "expected the ASGI message 'http.response.start', but got 'http.response.body'"),
        (_twice, RuntimeError, "expected the ASGI message 'http.response.body', but got 'http.response.start'"),
        (_bad_status, ValueError, "from 200 to 999, not 99"),
        (_line_break, ValueError, "has a line break"),
        (_bad_name, ValueError, "no name of a response header"),
        (_no_bytes, TypeError, "are bytes, not"),
        (_unfinished, RuntimeError, "returned without completing its response"),
        (_nothing, RuntimeError, "returned without starting a response"),
    ],
)
def test_what_breaks_the_protocol_is_told(sends, error, text):
    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await sends(send)

    with pytest.raises(error, match=text):
        serve(app)


def test_a_message_after_the_end(caplog):
    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await say(send, b"whole")
        await say(send, b"more")

    answer = serve(app)
    assert answer.text == "whole"
    assert f"request {answer.ids[0]}: the ASGI application failed after its response" in caplog.text
    assert "the response is complete" in caplog.text


def test_an_error_is_raised_to_the_server():
    error = KeyError("the app's")

    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["query_string"]:
            await start(send)
            await say(send, b"part", more=True)
            await asyncio.sleep(0.001)
        raise error

    for query in ("", "late"):
        with pytest.raises(KeyError) as caught:
            serve(app, QUERY_STRING=query)
        assert caught.value is error


def test_uwsgi_answers_no_error_itself(caplog):
    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("the app's")

    answer = serve(app, **{"uwsgi.version": b"2"})
    assert answer.status == "500 Internal Server Error"
    assert f"request {answer.ids[0]}: the ASGI application failed" in caplog.text
