"""``sidecar.django``: bodies that are streamed, files."""

from __future__ import annotations

import asyncio
import contextvars
import gzip
import io

import pytest

import sidecar

django = pytest.importorskip("django", reason="Django is not installed")

from django.core.handlers.wsgi import WSGIHandler  # noqa: E402
from django.core.signals import request_finished  # noqa: E402
from django.http import FileResponse, StreamingHttpResponse  # noqa: E402
from django.test import Client, override_settings  # noqa: E402
from frameworks.django_project.asking import ASYNC, OWN, Urls, ask, bridge_loop, own_id, respond  # noqa: E402

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


def test_async_content_is_read_one_item_at_a_time() -> None:
    """Django collects it all, with a warning; this one would never end."""
    events = []

    async def view(request):
        async def endless():
            try:
                for at in range(10**9):
                    await asyncio.sleep(0)
                    events.append((at, own_id(), asyncio.get_running_loop() is bridge_loop()))
                    yield str(at)
            finally:
                events.append(("closed", own_id(), asyncio.get_running_loop() is bridge_loop()))

        return StreamingHttpResponse(endless())

    body, own = respond(view)
    steps = iter(body)
    assert [next(steps), next(steps)] == [b"0", b"1"]
    assert events == [(0, own, True), (1, own, True)]
    body.close()
    assert events[2:] == [("closed", own, True)]
    assert sidecar.current() is None


@pytest.mark.parametrize("chain", [[OWN], [OWN, ASYNC], [ASYNC, OWN]], ids=["sync", "async-below", "async-above"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync-content", "async-content"])
def test_a_body_is_in_its_request_until_it_is_closed(chain, is_async) -> None:
    events = []

    class Resource:
        def close(self) -> None:
            events.append(("resource", own_id(), tenant.get()))
            raise OSError("the others are closed all the same")

    def step(name: str) -> bytes:
        events.append((name, own_id(), tenant.get()))
        return name.encode()

    def lines():
        try:
            tenant.set("body")
            yield step("one")
            yield step("two")
        finally:
            step("closed")

    async def async_lines():
        try:
            tenant.set("body")
            yield step("one")
            yield step("two")
        finally:
            step("closed")

    def view(request):
        tenant.set("view")
        response = StreamingHttpResponse(async_lines() if is_async else lines())
        response._resource_closers.insert(0, Resource().close)
        return response

    finished = []

    def on_finish(sender, **kwargs) -> None:
        finished.append(sender)

    request_finished.connect(on_finish)
    try:
        body, own = respond(view, middleware=chain)
        steps = iter(body)
        assert (next(steps), tenant.get()) == (b"one", "nobody")
        body.close()
    finally:
        request_finished.disconnect(on_finish)
    # What a stream sets is its own; what a plain generator sets is the request's.
    in_view = "view" if is_async else "body"
    assert events[0] == ("one", own, "body")
    assert sorted(events[1:]) == [("closed", own, "body"), ("resource", own, in_view)]
    assert finished == [WSGIHandler]
    assert tenant.get() == "nobody"


def test_a_body_that_is_never_read() -> None:
    events = []

    def view(request):
        def lines():
            events.append("begun")
            yield b""

        response = StreamingHttpResponse(lines())
        response._resource_closers.append(lambda: events.append(own_id()))
        return response

    body, own = respond(view)
    body.close()
    body.close()
    assert events == [own]


def test_middleware_above_may_wrap_the_body() -> None:
    middleware = ["django.middleware.gzip.GZipMiddleware", OWN]

    def view(request):
        return StreamingHttpResponse(own_id() for _ in range(100))

    answer = ask(view, middleware, HTTP_ACCEPT_ENCODING="gzip")
    assert gzip.decompress(answer.getvalue()).decode() == answer.headers["X-Request-ID"] * 100


def test_a_file_that_the_server_sends_is_left_to_it() -> None:
    class Wrapper:
        def __init__(self, file, size) -> None:
            self.file = file

    file = io.BytesIO(b"content")
    wrapped, _ = respond(lambda request: FileResponse(file), {"wsgi.file_wrapper": Wrapper})
    assert type(wrapped) is Wrapper
    assert wrapped.file is file
    file.close()
    body, _ = respond(lambda request: FileResponse(io.BytesIO(b"content")))
    assert b"".join(body) == b"content"
    body.close()


def test_lists_and_head() -> None:
    answer = ask(lambda request: StreamingHttpResponse([b"a", b"b"]))
    assert answer.getvalue() == b"ab"
    with override_settings(ROOT_URLCONF=Urls(lambda request: StreamingHttpResponse([b"a"])), MIDDLEWARE=[OWN]):
        answer = Client().head("/")
    assert answer.getvalue() == b""
    assert answer.headers["X-Request-ID"]
