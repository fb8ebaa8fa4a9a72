"""ASGIMiddleware: scopes, messages and headers; what passes untouched."""

from __future__ import annotations

import gc
import sys
from typing import Any

import pytest
from unit.asgi_server import NAME, Server, current_id, finish, pause, scope_of, serve

import sidecar

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
BODY = {"type": "http.response.body", "body": b"ok"}


async def plain(scope, receive, send):
    await send(START)
    await send(BODY)


# -- the call --------------------------------------------------------------------


def test_attributes_and_repr():
    middleware = sidecar.ASGIMiddleware(plain)
    assert middleware.app is middleware.wrapped is plain
    assert repr(middleware) == f"<sidecar.ASGIMiddleware around {plain!r}>"
    assert sidecar.ASGIMiddleware(app=plain).app is plain


@pytest.mark.parametrize("app", [None, "module:app", 3])
def test_what_is_no_application_is_refused(app):
    with pytest.raises(TypeError, match=f"callable, not {type(app).__name__}"):
        sidecar.ASGIMiddleware(app)


def test_wrong_calls_are_refused_at_once():
    """uvicorn calls what may be a factory, and looks for this error."""
    middleware = sidecar.ASGIMiddleware(plain)
    with pytest.raises(TypeError, match="0 positional and 0 keyword"):
        middleware()
    with pytest.raises(TypeError, match="2 positional and 1 keyword"):
        middleware({}, None, sent=None)
    with pytest.raises(TypeError, match="1 positional and 2 keyword"):
        middleware({}, scope={}, receive=None)
    with pytest.raises(TypeError, match="4 positional and 0 keyword"):
        middleware({}, None, None, None)


@pytest.mark.parametrize("kind", ["http", "other"])
def test_arguments_by_keyword(kind):
    """Daphne gives them so."""

    async def app(scope, receive, send):
        await receive()
        await plain(scope, receive, send)

    for positional in range(4):
        server = Server()
        values = (scope_of(kind), server.receive, server.send)
        named = dict(reversed(list(zip(["scope", "receive", "send"], values))[positional:]))
        finish(sidecar.ASGIMiddleware(app)(*values[:positional], **named))
        assert len(server.ids()) == (kind == "http")


def test_the_application_is_called_in_the_first_step():
    called = []

    def app(scope, receive, send):
        called.append(scope)
        return plain(scope, receive, send)

    coroutine = Server().begin(app)
    assert not called
    finish(coroutine)
    assert len(called) == 1


def test_scope_is_a_copy_that_shows_the_request():
    given = scope_of(state={"pool": object()})
    before = dict(given)

    async def app(scope, receive, send):
        assert scope is not given
        assert scope["sidecar.request"] is sidecar.current()
        assert {**scope, **before} == scope
        assert all(scope[name] is before[name] for name in before)
        assert scope.keys() - before.keys() == {"sidecar.request"}
        scope["path"] = "changed"
        await plain(scope, receive, send)

    server = serve(app, given)
    assert given == before
    assert len(server.ids()) == 1


def test_the_response_carries_the_id_of_the_request():
    ids = []

    async def app(scope, receive, send):
        ids.append(current_id())
        await plain(scope, receive, send)

    server = serve(app)
    assert server.ids() == ids
    assert server.sent[0]["headers"] == [(b"content-type", b"text/plain"), (NAME, ids[0])]
    assert server.sent[1] is BODY
    assert serve(app).ids() == [ids[1]] != [ids[0]]


def test_the_result_of_the_application_is_the_result():
    async def app(scope, receive, send):
        await pause()
        return 17, "x"

    assert finish(Server().begin(app)) == (17, "x")


# -- headers that go out ---------------------------------------------------------


class Pairs:
    """Iterable once, as a header or as all of them."""

    def __init__(self, *items):
        self.items = iter(items)

    def __iter__(self):
        return self.items


@pytest.mark.parametrize(
    "headers",
    [
        [(b"a", b"1"), (b"X-Request-Id", b"own"), (b"b", b"2")],
        ((b"a", b"1"), (b"x-request-id", b"own"), (b"X-REQUEST-ID", b"twice"), (b"b", b"2")),
        [[b"a", b"1"], [b"x-request-id", b"own"], [b"b", b"2"]],
        Pairs((b"a", b"1"), (b"x-request-id", b"own"), (b"b", b"2")),
        [Pairs(b"a", b"1"), Pairs(b"x-request-id", b"own"), Pairs(b"b", b"2")],
        Pairs(Pairs(b"a", b"1"), Pairs(bytearray(b"X-request-id"), b"own"), Pairs(memoryview(b"b"), b"2")),
        [(b"a", b"1"), ("X-Request-ID", "own"), (b"b", b"2")],
    ],
    ids=["list", "tuple", "lists", "iterator", "iterators", "buffers", "text"],
)
def test_headers_of_every_shape(headers):
    ids = []

    async def app(scope, receive, send):
        ids.append(current_id())
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    server = serve(app)
    pairs = [(bytes(name), value) for name, value in server.sent[0]["headers"]]
    assert pairs == [(b"a", b"1"), (b"b", b"2"), (NAME, ids[0])]


def test_no_headers_at_all():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 204})

    server = serve(app)
    assert server.sent[0]["headers"] == [(NAME, server.ids()[0])]


def test_the_message_of_the_application_is_not_changed():
    headers = [(b"x-request-id", b"own")]
    message = {"type": "http.response.start", "status": 200, "headers": headers, "trailers": False}

    async def app(scope, receive, send):
        await send(message)

    server = serve(app)
    assert message == {**START, "headers": [(NAME, b"own")], "trailers": False}
    assert message["headers"] is headers
    assert server.sent[0] is not message
    assert server.sent[0]["trailers"] is False
    assert server.ids() != [b"own"]


@pytest.mark.parametrize(
    "headers",
    [None, 3, "text", b"bytes", {b"a": b"1"}, [b"ab"], ["ab"], [(b"a",)], [(b"a", b"1", b"2")], [(3, b"1")]],
    ids=repr,
)
def test_malformed_headers_pass_as_they_are(headers):
    message = {"type": "http.response.start", "status": 200, "headers": headers}

    async def app(scope, receive, send):
        await send(message)

    assert serve(app).sent == [message]
    assert serve(app).sent[0] is message


def test_malformed_headers_that_iterate_once_lose_nothing():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": Pairs((b"a", b"1"), (b"b",))})

    assert serve(app).sent[0]["headers"] == [(b"a", b"1"), (b"b",)]


def test_an_error_of_the_headers_iterator_is_the_applications():
    def headers():
        yield (b"a", b"1")
        raise LookupError("announced")

    async def app(scope, receive, send):
        with pytest.raises(LookupError, match="announced"):
            await send({"type": "http.response.start", "status": 200, "headers": headers()})
        await plain(scope, receive, send)

    assert len(serve(app).sent) == 2


OTHERS = [None, 3, {}, {"type": None}, {"type": "http.response.trailers"}]


@pytest.mark.parametrize("message", OTHERS, ids=repr)
def test_other_messages_pass_untouched(message):
    async def app(scope, receive, send):
        await send(message)

    assert serve(app).sent[0] is message


def test_what_the_servers_send_returns_is_what_the_application_awaits():
    awaitable = pause()

    async def app(scope, receive, send):
        assert send(START) is awaitable
        assert send(BODY) is awaitable
        assert send(message := dict(BODY)) is awaitable
        assert sent[2] is message
        with pytest.raises(TypeError):
            send()
        await awaitable

    sent = []

    def send(message):
        sent.append(message)
        return awaitable

    finish(sidecar.ASGIMiddleware(app)(scope_of(), None, send))
    assert [message["type"] for message in sent] == [START["type"], BODY["type"], BODY["type"]]


# -- headers that come in --------------------------------------------------------


@pytest.mark.parametrize("kind", [list, tuple, iter], ids=["list", "tuple", "iterator"])
def test_an_inbound_id_is_not_adopted(kind):
    given = [(b"host", b"h"), (NAME, b"theirs"), (b"accept", b"*/*"), (b"X-Request-ID", b"more")]
    seen = []

    async def app(scope, receive, send):
        seen.append((list(scope["headers"]), current_id()))

    scope = scope_of(headers=kind(given))
    serve(app, scope)
    headers, id = seen[0]
    assert headers == [(b"host", b"h"), (NAME, id), (b"accept", b"*/*")]
    if kind is not iter:
        assert scope["headers"] == kind(given)


@pytest.mark.parametrize("headers", [None, 3, "x", {NAME: b"1"}, [None, b"x"], [(NAME,)]], ids=repr)
def test_malformed_inbound_headers_are_the_applications(headers):
    async def app(scope, receive, send):
        assert scope["headers"] is headers
        await plain(scope, receive, send)

    assert len(serve(app, scope_of(headers=headers)).ids()) == 1


# -- receive ---------------------------------------------------------------------


def test_messages_come_in_untouched():
    messages = [{"type": "http.request", "body": b"x"}, {"type": "other"}, None, {"type": "http.disconnect"}]

    async def app(scope, receive, send):
        for message in messages:
            assert await receive() is message

    serve(app, server=Server(messages))


def test_a_disconnect_is_noticed():
    async def app(scope, receive, send):
        await receive()
        assert not receive.disconnected
        await send(START)
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await receive()
        assert receive.disconnected

    serve(app, server=Server([{"type": "http.request"}, {"type": "http.disconnect"}]))


@pytest.mark.parametrize("last", [BODY, {**BODY, "more_body": False}, {"type": "http.response.pathsend"}])
def test_the_disconnect_that_follows_every_response_is_none(last):
    async def app(scope, receive, send):
        await send(START)
        await send(last)
        await receive()
        assert not receive.disconnected

    serve(app, server=Server([{"type": "http.disconnect"}]))


def test_errors_of_the_servers_functions_are_the_applications():
    def broken(*args):
        raise OSError("announced")

    async def app(scope, receive, send):
        with pytest.raises(OSError, match="announced"):
            await receive()
        with pytest.raises(OSError, match="announced"):
            await send(START)
        with pytest.raises(TypeError):
            await receive(3)
        return "done"

    coroutine = sidecar.ASGIMiddleware(app)(scope_of(), broken, broken)
    with pytest.raises(OSError, match="announced"):
        finish(coroutine)


def test_a_receive_that_is_no_awaitable():
    async def app(scope, receive, send):
        with pytest.raises(TypeError, match="await"):
            await receive()

    finish(sidecar.ASGIMiddleware(app)(scope_of(), lambda: 3, None))


# -- websockets ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["websocket.accept", "websocket.http.response.start"])
def test_a_websockets_answer_carries_the_id(kind):
    ids = []
    text = {"type": "websocket.send", "text": "x"}

    async def app(scope, receive, send):
        ids.append(current_id())
        assert scope["sidecar.request"] is sidecar.current()
        assert receive == server.receive
        assert await receive() is messages[0]
        await send({"type": kind, "headers": [(b"x-request-id", b"own")]})
        await send(text)

    messages = [{"type": "websocket.connect"}]
    server = Server(messages)
    finish(server.begin(app, scope_of("websocket")))
    assert server.ids() == ids
    assert server.sent[1] is text


def test_an_accept_without_headers():
    async def app(scope, receive, send):
        await send({"type": "websocket.accept"})

    server = Server()
    finish(server.begin(app, scope_of("websocket")))
    assert len(server.ids()) == 1


# -- what passes -----------------------------------------------------------------


@pytest.mark.parametrize("scope", [{"type": "mqtt"}, {"type": 3}, {}, {"type": "HTTP"}, None, [3]], ids=repr)
def test_other_scopes_pass_untouched(scope):
    awaitable = object()

    def app(*args):
        assert args[0] is scope
        assert args[1:] == (receive, send)
        assert sidecar.current() is None
        return awaitable

    receive, send = object(), object()
    assert sidecar.ASGIMiddleware(app)(scope, receive, send) is awaitable


def test_a_request_in_progress_passes_untouched():
    given = {}

    async def inner(scope, receive, send):
        assert (scope, receive, send) == (given["scope"], given["receive"], given["send"])
        assert scope is given["scope"]
        await plain(scope, receive, send)

    async def outer(scope, receive, send):
        given.update(scope=dict(scope, root_path="/mounted"), receive=receive, send=send)
        await sidecar.ASGIMiddleware(inner)(given["scope"], receive, send)
        assert given["scope"]["sidecar.request"] is sidecar.current()

    assert len(serve(outer).ids()) == 1


def test_a_request_of_another_scope_is_not_this_one():
    """An application that calls another as a client does makes a new request of it."""
    ids = []

    async def inner(scope, receive, send):
        ids.append(current_id())

    async def outer(scope, receive, send):
        ids.append(current_id())
        await sidecar.ASGIMiddleware(inner)(scope_of(), receive, send)
        ids.append(current_id())

    serve(outer)
    assert ids[0] == ids[2] != ids[1]
    old = sidecar.current()
    assert old is None


def test_a_request_that_is_over_is_not_in_progress():
    kept = []

    async def app(scope, receive, send):
        kept.append(scope)

    serve(app)
    serve(app, kept[0])
    assert kept[0]["sidecar.request"] is not kept[1]["sidecar.request"]


# -- lifespan --------------------------------------------------------------------


def test_lifespan_state_gets_the_bridge():
    scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    state = scope["state"]

    async def app(*args):
        assert args == (scope, server.receive, server.send)
        assert args[0] is scope
        assert scope["state"] is state
        assert state == {"sidecar": sidecar.get_bridge()}
        assert sidecar.current() is None

    server = Server()
    running = sidecar.is_running()
    finish(server.begin(app, scope))
    assert sidecar.is_running() is running


def test_without_state_nothing_is_invented():
    async def app(scope, receive, send):
        assert scope == {"type": "lifespan"}

    finish(Server().begin(app, {"type": "lifespan"}))


def test_an_application_without_lifespan_says_so_itself():
    async def app(scope, receive, send):
        raise NotImplementedError("only http")

    with pytest.raises(NotImplementedError, match="only http"):
        finish(Server().begin(app, {"type": "lifespan", "state": {}}))


def test_a_state_that_takes_nothing_is_told_and_passed(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: told.append(it.exc_type))

    async def app(scope, receive, send):
        return scope["state"]

    assert finish(Server().begin(app, {"type": "lifespan", "state": ()})) == ()
    assert told == [TypeError]


# -- life ------------------------------------------------------------------------


def test_a_request_is_gone_when_its_call_ends():
    async def app(scope, receive, send):
        await receive()
        await plain(scope, receive, send)

    def requests():
        return [found for found in gc.get_objects() if type(found) is sidecar.Request]

    gc.collect()
    before = len(requests())
    gc.disable()
    try:
        serve(app)
        assert len(requests()) == before
    finally:
        gc.enable()


def test_nothing_grows_over_many_requests():
    async def app(scope, receive, send):
        await receive()
        await pause()
        if scope["raises"]:
            raise LookupError
        await plain(scope, receive, send)

    scopes = [scope_of(raises=raises, headers=[(NAME, b"theirs")]) for raises in (False, True)]

    def run(times):
        for _ in range(times):
            finish(Server().begin(app, scopes[0]))
            with pytest.raises(LookupError):
                finish(Server().begin(app, scopes[1]))
            Server().begin(app, scopes[0]).close()
            suspended = Server().begin(app, scopes[0])
            suspended.send(None)
            suspended.close()

    watched = [app, plain, START, BODY, *scopes, scopes[0]["headers"], sidecar.ASGIMiddleware]
    run(100)
    gc.collect()
    counts, blocks = [sys.getrefcount(it) for it in watched], sys.getallocatedblocks()
    run(2500)
    gc.collect()
    assert [sys.getrefcount(it) for it in watched] == counts
    assert sys.getallocatedblocks() - blocks < 500


def test_a_cycle_through_the_middleware_is_collected():
    import weakref

    class App:
        async def __call__(self, scope, receive, send):
            pass

    app = App()
    app.middleware = sidecar.ASGIMiddleware(app)
    gone = weakref.ref(app)
    del app
    gc.collect()
    assert gone() is None
