"""sidecar.adapters.WSGIApp: environ, bodies, start_response, what PEP 3333 says."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import warnings
import wsgiref.validate
from typing import Any

import pytest
from asgi_asked import PLAIN, Client, asked, echo, hello

import sidecar
from sidecar.adapters import WSGIApp

where: contextvars.ContextVar[str] = contextvars.ContextVar("where")


def saying(*parts: bytes, status: str = "200 OK", headers: Any = PLAIN) -> Any:
    """One whose body is a generator."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, headers)
        yield from parts

    return app


def environ_of(**more: Any) -> dict[str, Any]:
    seen: list[dict[str, Any]] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(environ)
        return hello(environ, start_response)

    asked(WSGIApp(app), **more)
    return seen[0]


# -- the environ ---------------------------------------------------------------------


def test_what_every_environ_has():
    environ = environ_of(query_string=b"a=%20b", headers=[(b"host", b"h")])
    expected = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "a=%20b",
        "REQUEST_URI": "/?a=%20b",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "here",
        "SERVER_PORT": "80",
        "REMOTE_ADDR": "1.2.3.4",
        "REMOTE_PORT": "5",
        "HTTP_HOST": "h",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    assert {key: environ[key] for key in expected} == expected
    assert set(environ) - set(expected) <= {
        "wsgi.input",
        "asgi.scope",
        "sidecar.request",
        "HTTP_X_REQUEST_ID",
        "sidecar.request_id",
    }
    assert environ["asgi.scope"]["sidecar.request"] is environ["sidecar.request"]


@pytest.mark.parametrize(
    ("root", "path", "script_name", "path_info"),
    [
        ("", "/a", "", "/a"),
        ("/app", "/app/users", "/app", "/users"),
        ("/app", "/app", "/app", ""),
        ("/app", "/application", "/app", "/application"),
        ("/", "/a", "", "/a"),
        ("/app/", "/app/users", "/app", "/users"),
        ("/\u00fc", "/\u00fc/\u4e2d", "/\u00c3\u00bc", "/\u00e4\u00b8\u00ad"),
    ],
)
def test_paths(root, path, script_name, path_info):
    environ = environ_of(root_path=root, path=path)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)


def test_a_path_that_is_no_utf_8_arrives_as_it_came():
    environ = environ_of(path="/a\ufffdb", raw_path=b"/a%ffb")
    assert environ["PATH_INFO"] == "/a\u00ffb"


def test_headers():
    lines = [(b"accept", b"a"), (b"accept", b"b"), (b"cookie", b"c=1"), (b"cookie", b"d=2"), (b"x_trusted", b"no")]
    environ = environ_of(headers=[*lines, (b"content-type", b"t/x"), (b"x-\xff", b"\xfe")])
    assert environ["HTTP_ACCEPT"] == "a,b"
    assert environ["HTTP_COOKIE"] == "c=1; d=2"
    assert environ["CONTENT_TYPE"] == "t/x"
    assert environ["HTTP_X_\u00ff".upper()] == "\u00fe"
    assert "HTTP_X_TRUSTED" not in environ
    assert "HTTP_CONTENT_TYPE" not in environ


@pytest.mark.parametrize(
    ("host", "name", "port"),
    [(b"a.b:81", "a.b", "81"), (b"a.b", "a.b", "443"), (b"[::1]:8", "[::1]", "8"), (b"", "localhost", "443")],
)
def test_a_server_on_a_unix_socket_is_called_what_the_client_calls_it(host, name, port):
    environ = environ_of(server=("/run/socket", None), client=None, scheme="https", headers=[(b"host", host)])
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == (name, port)
    assert "REMOTE_ADDR" not in environ


# -- contexts ------------------------------------------------------------------------


def test_the_request_and_the_context_are_the_applications():
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", PLAIN)
        for _ in range(2):
            request = sidecar.current()
            seen.append((request is environ["sidecar.request"], where.get(), sidecar.run_sync(id_in_coroutine())))
            where.set("there")
            yield b"x"

    async def id_in_coroutine() -> bool:
        return sidecar.current() is not None

    async def main() -> str:
        where.set("here")
        client = Client()
        await WSGIApp(app)(client.scope, client.receive, client.send)
        return where.get()

    assert asyncio.run(main()) == "here"
    assert seen == [(True, "here", True), (True, "there", True)]


def test_it_runs_on_threads_of_its_own_or_of_a_bridge():
    names: list[str] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        names.append(threading.current_thread().name)
        return hello(environ, start_response)

    with sidecar.Sidecar(name="Named") as bridge:
        for adapted in (WSGIApp(app), WSGIApp(app, threads=1), WSGIApp(app, bridge=bridge)):
            assert asked(adapted).body == b"hello"
    assert [name.partition("-")[0] for name in names] == ["Sidecar", "WSGI", "Named"]


@pytest.mark.parametrize("options", [{"threads": 0}, {"threads": True}, {"threads": 2, "bridge": "both"}])
def test_options_that_say_nothing(options):
    with pytest.raises((TypeError, ValueError)):
        WSGIApp(hello, **options)
    with pytest.raises(TypeError):
        WSGIApp(None)  # type: ignore[arg-type]


# -- the request's body --------------------------------------------------------------


@pytest.mark.parametrize("parts", [(b"",), (b"abc",), (b"a" * 100_000, b"", b"b" * 100_000, b"c")])
def test_bodies(parts):
    assert asked(WSGIApp(echo), *parts).body == b"".join(parts)


def reading(*calls: tuple[Any, ...]) -> tuple[Any, list[Any]]:
    found: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        for name, *arguments in calls:
            found.append(getattr(environ["wsgi.input"], name)(*arguments))
        return hello(environ, start_response)

    return WSGIApp(app), found


def test_ways_to_read():
    app, found = reading(
        ("read", 0),
        ("readline",),
        ("read", 3),
        ("readline", 2),
        ("readline", 50),
        ("readlines", 3),
        ("__next__",),
        ("readlines",),
        ("read",),
        ("read", 5),
        ("readline",),
        ("readlines",),
    )
    asked(app, b"one\ntw", b"o and more\n", b"a\nbc\nd\ne\n", b"last")
    assert found == [
        b"",
        b"one\n",
        b"two",
        b" a",
        b"nd more\n",
        [b"a\n", b"bc\n"],
        b"d\n",
        [b"e\n", b"last"],
        b"",
        b"",
        b"",
        [],
    ]


def test_a_body_is_not_read_further_ahead_than_it_must_be():
    """64 KiB are; what is left waits for the application."""
    sleeps, goes = threading.Event(), threading.Event()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read(1)
        sleeps.set()
        goes.wait(20)
        return [b"%d" % len(environ["wsgi.input"].read()), *hello(environ, start_response)]

    async def main() -> tuple[int, bytes]:
        client = Client([b"x" * 16_384] * 100)
        task = asyncio.ensure_future(WSGIApp(app)(client.scope, client.receive, client.send))
        await client.until(sleeps.is_set)
        for _ in range(20):
            await asyncio.sleep(0)
        received = client.received
        goes.set()
        await task
        return received, client.body

    received, body = asyncio.run(main())
    assert received <= 6
    assert body == b"1638399hello"


def test_a_client_that_is_to_be_asked_for_its_body():
    """With ``Expect: 100-continue`` the server asks where the application reads, and not before."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        return hello(environ, start_response)

    headers = [(b"expect", b"100-continue")]
    assert asked(WSGIApp(app), b"abc", headers=headers).received == 0
    assert asked(WSGIApp(echo), b"abc", headers=headers).body == b"abc"


# -- the response --------------------------------------------------------------------


def test_a_list_goes_out_whole():
    client = asked(WSGIApp(hello))
    assert client.status == 200
    assert client.headers == [(b"content-type", b"text/plain"), (b"content-length", b"5")]
    assert len(client.messages) == 2
    assert client.is_complete


@pytest.mark.parametrize("parts", [(), (b"",), (b"a",), (b"a", b"", b"b" * 200_000, b"c")])
def test_a_generator(parts):
    client = asked(WSGIApp(saying(*parts)))
    assert (client.status, client.body, client.is_complete) == (200, b"".join(parts), True)


def test_write():
    def app(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", PLAIN)
        write(b"a")
        write(b"")
        write(b"b")
        return [b"c", b"d"]

    client = asked(WSGIApp(app))
    assert (client.body, client.is_complete) == (b"abcd", True)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_a_response_without_a_body(status):
    client = asked(WSGIApp(saying(b"not", b"said", status=status, headers=[])))
    assert (client.status, client.body, client.headers) == (int(status[:3]), b"", [])


@pytest.mark.parametrize("app", [hello, saying(b"a", b"b")])
def test_head(app):
    client = asked(WSGIApp(app), method="HEAD")
    assert (client.status, client.body, client.is_complete) == (200, b"", True)
    assert client.headers == [(b"content-type", b"text/plain")]


def test_a_body_with_a_length():
    headers = [("Content-Length", "3")]
    client = asked(WSGIApp(saying(b"ab", b"c", headers=headers)))
    assert (client.body, client.headers) == (b"abc", [(b"content-length", b"3")])


@pytest.mark.parametrize("app", [saying(b"ab", b"cd", headers=[("Content-Length", "3")]), None])
def test_a_body_longer_than_its_length(app):
    def whole(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "3")])
        return [b"abcd"]

    client = cut_short(app or whole, "longer than its Content-Length")
    assert (client.body, client.is_complete) == (b"abc", True)


def test_a_body_shorter_than_its_length():
    client = cut_short(saying(b"ab", headers=[("Content-Length", "3")]), "1 bytes short of its Content-Length")
    assert (client.body, client.is_complete) == (b"ab", False)


def cut_short(app: Any, match: str, kind: type[BaseException] = RuntimeError) -> Client:
    async def main() -> Client:
        client = Client()
        with pytest.raises(kind, match=match):
            await WSGIApp(app)(client.scope, client.receive, client.send)
        return client

    return asyncio.run(main())


def test_headers_that_are_the_servers_are_left_out():
    headers = [("Connection", "close"), ("Transfer-Encoding", "chunked"), ("X-One", " 1 "), ("Set-Cookie", "a=1")]

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", headers)
        return [b"a"]

    client = asked(WSGIApp(app))
    assert client.headers == [(b"x-one", b"1"), (b"set-cookie", b"a=1"), (b"content-length", b"1")]


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        ("200 OK", [("X", "a\r\nb")], ValueError),
        ("200 OK", [("X", "a\0b")], ValueError),
        ("200 OK", [("X\n", "a")], ValueError),
        ("200 OK", [("X Y", "a")], ValueError),
        ("200 OK", [("", "a")], ValueError),
        ("200 OK", [("X", b"a")], TypeError),
        ("200 OK", [(b"X", "a")], TypeError),
        ("200 OK", [("Content-Length", "x")], ValueError),
        ("200 OK", [("Content-Length", "-1")], ValueError),
        ("200 OK", [("Content-Length", "1"), ("content-length", "2")], ValueError),
        ("20 OK", [], ValueError),
        ("OK", [], ValueError),
        ("101 Switching Protocols", [], ValueError),
        (b"200 OK", [], TypeError),
        (200, [], TypeError),
    ],
)
def test_what_no_server_sends(status, headers, kind):
    """It is the application's error, there where it says it."""
    raised: list[BaseException] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        try:
            start_response(status, headers)
        except (TypeError, ValueError) as error:
            raised.append(error)
        return hello(environ, start_response)

    assert asked(WSGIApp(app)).body == b"hello"
    assert [type(error) for error in raised] == [kind]


# -- errors --------------------------------------------------------------------------


def fail() -> None:
    raise LookupError("announced")


def test_an_error_before_the_start():
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", PLAIN)
        fail()
        return []

    assert cut_short(app, "announced", LookupError).messages == []


def test_an_error_after_the_start_cuts_the_response():
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", PLAIN)
        yield b"said"
        fail()

    client = cut_short(app, "announced", LookupError)
    assert (client.body, client.is_complete) == (b"said", False)


def test_exc_info_before_the_body_replaces_the_start():
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("X-One", "1")])
        try:
            fail()
        except LookupError:
            start_response("500 Failed", PLAIN, sys.exc_info())
        return [b"sorry"]

    client = asked(WSGIApp(app))
    assert (client.status, client.body) == (500, b"sorry")
    assert client.headers == [(b"content-type", b"text/plain"), (b"content-length", b"5")]


def test_exc_info_after_the_body_has_begun_is_raised():
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", PLAIN)
        yield b"said"
        try:
            fail()
        except LookupError:
            start_response("500 Failed", PLAIN, sys.exc_info())
        yield b"never said"

    client = cut_short(app, "announced", LookupError)
    assert (client.status, client.body, client.is_complete) == (200, b"said", False)


@pytest.mark.parametrize(
    ("app", "match", "kind"),
    [
        (lambda environ, start_response: [], "without a call of start_response", RuntimeError),
        (lambda environ, start_response: [b"a"], "without a call of start_response", RuntimeError),
        (lambda environ, start_response: iter([b"a"]), "before it has called start_response", RuntimeError),
        (lambda environ, start_response: hello(environ, start_response) and ["text"], "is bytes", TypeError),
        (lambda environ, start_response: start_response("200 OK", []) and iter(["text"]), "is bytes", TypeError),
        (lambda environ, start_response: start_response("200 OK", []) and None, "NoneType", TypeError),
        (lambda environ, start_response: start_response("200 OK", []) and hello(environ, start_response), "no exc_info", RuntimeError),  # noqa: E501
    ],
)
def test_what_is_no_wsgi_application(app, match, kind):
    cut_short(app, match, kind)


# -- what else a server sends --------------------------------------------------------


def test_the_lifespan_is_answered():
    async def main() -> list[str]:
        incoming = iter(["lifespan.startup", "lifespan.shutdown"])
        said: list[str] = []

        async def receive() -> dict[str, Any]:
            return {"type": next(incoming)}

        async def send(message: Any) -> None:
            said.append(message["type"])

        await WSGIApp(hello, threads=1)({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
        return said

    assert asyncio.run(main()) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert not sidecar.is_running()


@pytest.mark.parametrize("extension", [False, True])
def test_websockets_are_refused(extension, caplog):
    async def main() -> list[dict[str, Any]]:
        said: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            said.append(message)

        scope: dict[str, Any] = {"type": "websocket", "path": "/", "headers": [], "asgi": {"version": "3.0"}}
        app = WSGIApp(hello)
        if extension:
            scope["extensions"] = {"websocket.http.response": {}}
        for _ in range(2):
            await app(scope, receive, send)
        return said

    said = asyncio.run(main())
    assert len([record for record in caplog.records if "WebSockets" in record.message]) == 1
    assert said[0].get("status") == (501 if extension else None)
    assert said[0]["type"] == ("websocket.http.response.start" if extension else "websocket.close")


def test_a_scope_of_another_type_is_an_error():
    with pytest.raises(ValueError, match="'morse'"):
        asked(WSGIApp(hello), type="morse")


# -- PEP 3333 ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_the_validator_finds_nothing(method):
    def app(environ: Any, start_response: Any) -> Any:
        source = environ["wsgi.input"]
        found = [source.read(2), source.readline(), *source.readlines(), *iter(source)]
        environ["wsgi.errors"].write("")
        environ["wsgi.errors"].flush()
        write = start_response("200 OK", PLAIN)
        write(b"written ")
        return iter(found)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client = asked(WSGIApp(wsgiref.validate.validator(app)), b"one\ntwo\nthree", method=method)
    assert client.body == (b"" if method == "HEAD" else b"written one\ntwo\nthree")
