"""WSGIMiddleware: PEP 3333 on both sides of it."""

from __future__ import annotations

import contextvars
import gc
import sys
import wsgiref.handlers
import wsgiref.util
import wsgiref.validate
from io import BytesIO

import pytest

import sidecar

HEADERS = [("Content-Type", "text/plain")]
step: contextvars.ContextVar[str] = contextvars.ContextVar("step", default="unset")


class Server:
    """start_response as a server has it, and what it was given."""

    def __init__(self):
        self.calls = []
        self.written = []

    def start_response(self, status, headers, exc_info=None):
        self.calls.append((status, headers, exc_info))
        return self.written.append

    @property
    def headers(self):
        return self.calls[-1][1]

    def ids(self):
        return [value for name, value in self.headers if name.lower() == "x-request-id"]


def serve(app, environ=None):
    """The result of the app in the middleware, the server's side of it, and the environ."""
    server = Server()
    environ = {} if environ is None else environ
    return sidecar.WSGIMiddleware(app)(environ, server.start_response), server, environ


# -- the call --------------------------------------------------------------------


def test_attributes_and_repr():
    def app(environ, start_response):
        raise NotImplementedError

    middleware = sidecar.WSGIMiddleware(app)
    assert middleware.app is middleware.wrapped is app
    assert repr(middleware) == f"<sidecar.WSGIMiddleware around {app!r}>"
    assert sidecar.WSGIMiddleware(app=app).app is app
    with pytest.raises(TypeError):
        sidecar.WSGIMiddleware(app, "X-Request-ID")
    with pytest.raises(TypeError, match="there is no option 'timeout'; there are request_id_header, trust, deadline"):
        sidecar.WSGIMiddleware(app, timeout=3)


@pytest.mark.parametrize("app", [None, "module:app", 3])
def test_what_is_no_application_is_refused(app):
    with pytest.raises(TypeError, match=f"callable, not {type(app).__name__}"):
        sidecar.WSGIMiddleware(app)


def test_wrong_calls_are_refused():
    middleware = sidecar.WSGIMiddleware(lambda environ, start_response: [])
    with pytest.raises(TypeError, match="1 positional and 0 keyword"):
        middleware({})
    with pytest.raises(TypeError, match="1 positional and 1 keyword"):
        middleware({}, start_response=None)
    with pytest.raises(TypeError, match="environ must be a dict, not list"):
        middleware([], None)


def test_environ_and_headers_carry_the_id():
    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        return [environ["HTTP_X_REQUEST_ID"].encode()]

    body, server, environ = serve(app)
    (text,) = body
    assert server.calls[0][0] == "200 OK"
    assert server.headers == [*HEADERS, ("X-Request-ID", text.decode())]
    assert environ["sidecar.request"].id == text.decode()


def test_an_inbound_id_is_not_adopted():
    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        return []

    _, server, environ = serve(app, {"HTTP_X_REQUEST_ID": "theirs"})
    assert server.ids() == [environ["HTTP_X_REQUEST_ID"]] != ["theirs"]


def test_an_error_passes_untouched():
    error = KeyError("the app's")

    def app(environ, start_response):
        raise error

    with pytest.raises(KeyError) as caught:
        serve(app)
    assert caught.value is error
    assert sidecar.current() is None


def test_a_middleware_within_another_is_the_same_request():
    seen = []

    def app(environ, start_response):
        seen.append(environ["HTTP_X_REQUEST_ID"])
        start_response("200 OK", HEADERS)
        return []

    inner = sidecar.WSGIMiddleware(app)

    def outer(environ, start_response):
        seen.append(environ["HTTP_X_REQUEST_ID"])
        return inner(environ, start_response)

    _, server, _ = serve(outer)
    assert server.ids() == [seen[0]] == [seen[1]]


def test_an_environ_used_again_makes_a_new_request():
    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        return []

    _, first, environ = serve(app)
    _, second, _ = serve(app, environ)
    assert first.ids() != second.ids()


# -- start_response --------------------------------------------------------------


@pytest.mark.parametrize("name", ["X-Request-ID", "x-request-id", "X-REQUEST-Id"])
def test_the_apps_own_header_is_replaced(name):
    given = [(name, "mine"), *HEADERS, (name, "again")]
    kept = list(given)

    def app(environ, start_response):
        start_response("200 OK", given)
        return []

    _, server, environ = serve(app)
    assert server.headers == [*HEADERS, ("X-Request-ID", environ["HTTP_X_REQUEST_ID"])]
    assert given == kept


@pytest.mark.parametrize("name", ["X-Request-I", "X-Request-IDs", "X_Request_ID", "X-Request-\u0130D"])
def test_other_headers_stay(name):
    def app(environ, start_response):
        start_response("200 OK", [(name, "mine")])
        return []

    _, server, _ = serve(app)
    assert server.headers[0] == (name, "mine")
    assert len(server.headers) == 2


def test_bad_headers_are_the_servers_to_refuse():
    bad = [("one",), "X-Request-ID", ("X-Request-ID", "a", "b"), None, (b"X-Request-ID", b"x")]
    bad.append(["x-request-id", "y"])

    def app(environ, start_response):
        start_response("200 OK", bad)
        return []

    _, server, environ = serve(app)
    assert server.headers == [*bad[:-1], ("X-Request-ID", environ["HTTP_X_REQUEST_ID"])]

    def worse(environ, start_response):
        start_response("200 OK", 3)

    with pytest.raises(TypeError, match="not iterable"):
        serve(worse)


def test_start_response_refuses_what_no_server_takes():
    def app(environ, start_response):
        with pytest.raises(TypeError, match="1 positional and 0 keyword"):
            start_response("200 OK")
        with pytest.raises(TypeError, match="4 positional"):
            start_response("200 OK", [], None, None)
        with pytest.raises(TypeError, match="1 positional and 1 keyword"):
            start_response("200 OK", headers=[])
        start_response("200 OK", [], exc_info=None)
        assert "start_response" in repr(start_response)
        return []

    _, server, _ = serve(app)
    assert len(server.calls) == 1


def test_a_second_start_response_replaces_the_first():
    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        try:
            raise ValueError("late")
        except ValueError:
            start_response("500 Error", [("x-request-id", "mine")], sys.exc_info())
        return [b"sorry"]

    _, server, environ = serve(app)
    assert [status for status, _, _ in server.calls] == ["200 OK", "500 Error"]
    assert server.calls[1][2][0] is ValueError
    assert server.headers == [("X-Request-ID", environ["HTTP_X_REQUEST_ID"])]


def test_a_server_that_keeps_the_first_headers_gets_no_second_id():
    class Keeping:
        """As gunicorn's Response."""

        def __init__(self):
            self.headers = []

        def start_response(self, status, headers, exc_info=None):
            self.headers.extend(headers)

    def app(environ, start_response):
        start_response("200 OK", [("A", "1")])
        start_response("500 Error", [("B", "2")], (ValueError, ValueError(), None))
        return []

    server, environ = Keeping(), {}
    sidecar.WSGIMiddleware(app)(environ, server.start_response)
    assert server.headers == [("A", "1"), ("B", "2"), ("X-Request-ID", environ["HTTP_X_REQUEST_ID"])]


def test_write_passes_through():
    def app(environ, start_response):
        write = start_response("200 OK", HEADERS)
        write(b"one")
        return []

    _, server, _ = serve(app)
    assert server.written == [b"one"]


def test_an_error_of_the_servers_reaches_the_app():
    def refuse(status, headers, exc_info=None):
        raise AssertionError("headers already sent")

    def app(environ, start_response):
        with pytest.raises(AssertionError, match="already sent"):
            start_response("200 OK", HEADERS)
        return []

    sidecar.WSGIMiddleware(app)({}, refuse)


# -- bodies ----------------------------------------------------------------------


@pytest.mark.parametrize("body", [[b"a", b"b"], (b"a",), b"ab"])
def test_whole_bodies_pass_as_they_are(body):
    result, _, _ = serve(lambda environ, start_response: body)
    assert result is body


def test_a_list_of_another_class_is_wrapped():
    class Lazy(list):
        def __iter__(self):
            yield sidecar.current().id.encode()

    result, _, environ = serve(lambda environ, start_response: Lazy())
    assert list(result) == [environ["HTTP_X_REQUEST_ID"].encode()]


def test_each_step_runs_in_the_request():
    seen = []

    class Body:
        def __iter__(self):
            seen.append(("iter", sidecar.current().id, step.get()))
            step.set("iter")
            return self

        def __next__(self):
            seen.append(("next", sidecar.current().id, step.get()))
            if step.get() == "next":
                raise StopIteration
            step.set("next")
            return b"x"

        def close(self):
            seen.append(("close", sidecar.current().id, step.get()))

    def app(environ, start_response):
        step.set("call")
        start_response("200 OK", HEADERS)
        return Body()

    body, _, environ = serve(app)
    own = environ["HTTP_X_REQUEST_ID"]
    assert repr(body) == f"<sidecar.WSGIBody {own} around Body object>"
    assert iter(body) is body
    assert list(body) == [b"x"]
    body.close()
    assert {id for _, id, _ in seen} == {own}
    steps = [(where, before) for where, _, before in seen]
    assert steps == [("iter", "call"), ("next", "iter"), ("next", "next"), ("close", "next")]
    assert (sidecar.current(), step.get()) == (None, "unset")


def test_two_bodies_at_once_do_not_mix():
    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        return (sidecar.current().id.encode() for _ in range(3))

    first, one, _ = serve(app)
    second, two, _ = serve(app)
    for a, b in zip(first, second):
        assert [a.decode()] == one.ids()
        assert [b.decode()] == two.ids()
    first.close()
    second.close()


def test_an_app_that_is_a_generator_starts_late():
    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        yield sidecar.current().id.encode()

    body, server, environ = serve(app)
    assert server.calls == []
    assert next(body).decode() == environ["HTTP_X_REQUEST_ID"]
    assert server.ids() == [environ["HTTP_X_REQUEST_ID"]]
    body.close()


def test_close_runs_once_also_after_an_error():
    closed = []

    class Body:
        def __iter__(self):
            raise LookupError("no body")

        def close(self):
            closed.append(sidecar.current().id)

    body, _, environ = serve(lambda environ, start_response: Body())
    with pytest.raises(LookupError, match="no body"):
        iter(body)
    with pytest.raises(LookupError, match="no body"):
        next(body)
    assert body.close() is None
    assert body.close() is None
    assert closed == [environ["HTTP_X_REQUEST_ID"]]
    assert list(body) == []
    assert repr(body) == "<sidecar.WSGIBody closed>"


def test_an_error_in_close_reaches_the_server():
    class Body:
        def __iter__(self):
            return iter([])

        def close(self):
            raise OSError("cannot close")

    body, _, _ = serve(lambda environ, start_response: Body())
    with pytest.raises(OSError, match="cannot close"):
        body.close()
    assert body.close() is None
    assert sidecar.current() is None


def test_what_is_no_iterable_is_an_error_of_the_apps():
    body, _, _ = serve(lambda environ, start_response: object())
    with pytest.raises(TypeError, match="object is not iterable"):
        iter(body)
    body.close()
    body, _, _ = serve(lambda environ, start_response: None)
    with pytest.raises(TypeError, match="NoneType"):
        next(body)
    body.close()


def test_a_generator_is_closed_in_its_request():
    seen = []

    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        try:
            yield b"one"
            yield b"two"
        finally:
            seen.append(sidecar.current().id)

    body, _, environ = serve(app)
    next(body)
    body.close()
    assert seen == [environ["HTTP_X_REQUEST_ID"]]


def test_a_body_that_closes_itself_in_a_step():
    bodies = []

    class Body:
        def __iter__(self):
            return self

        def __next__(self):
            bodies[0].close()
            return sidecar.current().id.encode()

    body, _, environ = serve(lambda environ, start_response: Body())
    bodies.append(body)
    assert list(body) == [environ["HTTP_X_REQUEST_ID"].encode()]
    bodies.clear()


def test_a_step_within_a_step_is_an_error_not_a_crash():
    bodies = []

    class Body:
        def __iter__(self):
            return self

        def __next__(self):
            return next(bodies[0])

    body, _, _ = serve(lambda environ, start_response: Body())
    bodies.append(body)
    with pytest.raises(RuntimeError, match="already entered"):
        next(body)
    bodies.clear()
    body.close()


def test_a_length_is_there_where_the_app_has_one():
    class Sized:
        def __iter__(self):
            return iter([b"one"])

        def __len__(self):
            return 1

    sized, _, _ = serve(lambda environ, start_response: Sized())
    assert len(sized) == 1
    sized.close()
    with pytest.raises(ValueError, match="closed"):
        len(sized)
    unsized, _, _ = serve(lambda environ, start_response: iter([b"one"]))
    with pytest.raises(TypeError, match="has no len"):
        len(unsized)
    unsized.close()


# -- wsgi.file_wrapper -----------------------------------------------------------


def test_a_file_wrapper_that_is_a_class():
    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        return environ["wsgi.file_wrapper"](BytesIO(b"data"))

    body, _, _ = serve(app, {"wsgi.file_wrapper": wsgiref.util.FileWrapper})
    assert type(body) is wsgiref.util.FileWrapper


def test_a_file_wrapper_that_is_a_function():
    """As uWSGI's, which knows the file it returned by its identity."""
    data = BytesIO(b"data")

    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        return environ["wsgi.file_wrapper"](data)

    wrapper = {"wsgi.file_wrapper": lambda file, size=0: file}
    body, _, _ = serve(app, dict(wrapper))
    assert body is data
    body, _, _ = serve(lambda environ, start_response: iter([b"x"]), dict(wrapper))
    assert list(body) == [b"x"]
    assert repr(body).startswith("<sidecar.WSGIBody")
    body.close()


def test_another_result_of_a_server_with_a_file_wrapper_is_wrapped():
    environ = {"wsgi.file_wrapper": wsgiref.util.FileWrapper}
    body, _, _ = serve(lambda environ, start_response: BytesIO(b"x"), environ)
    assert repr(body).startswith("<sidecar.WSGIBody")
    body.close()


# -- as a whole ------------------------------------------------------------------


@pytest.mark.filterwarnings("default")
def test_the_standards_own_checker_on_both_sides():
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (chunk for chunk in [b"a", b"b"])

    environ: dict[str, object] = {"QUERY_STRING": ""}
    wsgiref.util.setup_testing_defaults(environ)
    validator = wsgiref.validate.validator
    output = BytesIO()
    handler = wsgiref.handlers.SimpleHandler(environ["wsgi.input"], output, sys.stderr, environ)
    handler.run(validator(sidecar.WSGIMiddleware(validator(app))))
    head, _, body = output.getvalue().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK") or head.startswith(b"Status: 200 OK")
    assert head.lower().count(b"x-request-id: ") == 1
    assert body == b"ab"


def test_nothing_is_left_behind():
    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        return (b"x" for _ in range(2))

    def round_trip():
        body, _, _ = serve(app)
        list(body)
        body.close()

    def ours():
        gc.collect()
        names = {"Request", "WSGIBody", "StartResponse", "WSGIMiddleware"}
        return sum(type(found).__name__ in names for found in gc.get_objects())

    round_trip()
    before = ours()
    for _ in range(100):
        round_trip()
    assert ours() == before


def test_a_cycle_through_the_app_is_collected():
    class App:
        def __call__(self, environ, start_response):
            return []

    app = App()
    app.middleware = sidecar.WSGIMiddleware(app)
    gc.collect()
    count = sum(type(found) is App for found in gc.get_objects())
    del app
    gc.collect()
    assert sum(type(found) is App for found in gc.get_objects()) == count - 1
