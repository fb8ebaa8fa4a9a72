"""The scope of a request: current(), its Request, its context."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref

import pytest

import sidecar

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


def call(view):
    """The view's result, as a request's."""
    results = []

    def app(environ, start_response):
        results.append(view(environ))
        start_response("200 OK", [])
        return []

    sidecar.WSGIMiddleware(app)({}, lambda status, headers: None)
    return results[0]


def test_there_is_none_outside():
    assert sidecar.current() is None
    call(lambda environ: None)
    assert sidecar.current() is None


def test_it_is_the_environs():
    def view(environ):
        assert sidecar.current() is environ["sidecar.request"]
        assert sidecar.current().id == environ["HTTP_X_REQUEST_ID"]

    call(view)


def test_each_request_has_its_own():
    assert call(lambda environ: sidecar.current().id) != call(lambda environ: sidecar.current().id)


def test_coroutines_and_their_tasks_see_it():
    async def child():
        await asyncio.sleep(0)
        return sidecar.current().id

    async def work():
        first = sidecar.current().id
        task = asyncio.create_task(child())
        await asyncio.sleep(0.001)
        return {first, sidecar.current().id, await task}

    def view(environ):
        return {environ["HTTP_X_REQUEST_ID"]}, sidecar.run_sync(work()), sidecar.current().run_sync(work())

    own, module, method = call(view)
    assert own == module == method


def test_run_sync_of_the_request_takes_what_run_sync_takes():
    async def work():
        await asyncio.sleep(60)

    def view(environ):
        request = sidecar.current()
        with pytest.raises(sidecar.CallTimeoutError):
            request.run_sync(work(), timeout=0.01)
        with pytest.raises(TypeError, match="awaitable, not 3"):
            request.run_sync(3)

        async def read():
            return var.get()

        context = contextvars.copy_context()
        context.run(var.set, "given")
        return request.run_sync(read(), context=context)

    assert call(view) == "given"


def test_a_task_left_behind_keeps_it_and_ends_with_it():
    seen = []

    async def background():
        try:
            await asyncio.sleep(60)
        finally:
            seen.append(sidecar.current().id)

    async def start():
        task = asyncio.create_task(background())
        await asyncio.sleep(0)
        return task

    def view(environ):
        return environ["HTTP_X_REQUEST_ID"], sidecar.run_sync(start())

    own, task = call(view)
    assert seen == [own]
    assert task.cancelled()
    assert sidecar.current() is None


def test_context_variables_stay_in_the_request():
    var.set("outer")

    def view(environ):
        before = var.get()
        var.set("inner")
        return before

    assert call(view) == "outer"
    assert var.get() == "outer"
    assert call(view) == "outer"


def test_it_is_left_after_an_error():
    def view(environ):
        var.set("inner")
        raise LookupError("the app's")

    var.set("outer")
    with pytest.raises(LookupError, match="the app's"):
        call(view)
    assert sidecar.current() is None
    assert var.get() == "outer"


def test_repr_and_id():
    request = call(lambda environ: sidecar.current())
    assert repr(request) == f"<sidecar.Request {request.id}>"
    with pytest.raises(AttributeError):
        request.id = "mine"
    with pytest.raises(TypeError):
        type(request)()
    assert isinstance(request, sidecar.Request)


def test_a_request_goes_without_the_garbage_collector():
    class Token:
        pass

    token: contextvars.ContextVar[Token] = contextvars.ContextVar("token")
    alive = []

    def view(environ):
        value = Token()
        alive.append(weakref.ref(value))
        token.set(value)

    gc.disable()
    try:
        call(view)
        assert alive[0]() is None
    finally:
        gc.enable()
