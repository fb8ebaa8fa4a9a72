"""The coroutine that ASGIMiddleware returns: send, throw, close, what printers ask, what servers look for."""

from __future__ import annotations

import asyncio
import collections.abc
import gc
import inspect
import sys
import warnings

import pytest
from unit.asgi_server import Server, current_id, finish, pause, scope_of

import sidecar


async def waits(scope, receive, send):
    return await pause("first"), await pause("second")


# -- steps -----------------------------------------------------------------------


def test_values_go_in_and_out():
    """Trio answers what is yielded with an object of its own, which must arrive."""
    coroutine = Server().begin(waits)
    assert coroutine.send(None) == "first"
    assert coroutine.send(17) == "second"
    with pytest.raises(StopIteration) as stop:
        coroutine.send((1, 2))
    assert stop.value.value == (17, (1, 2))


def test_values_go_through_receive():
    class Inbox:
        async def receive(self):
            return await pause("empty")

    async def app(scope, receive, send):
        return await receive()

    coroutine = sidecar.ASGIMiddleware(app)(scope_of(), Inbox().receive, None)
    assert coroutine.send(None) == "empty"
    with pytest.raises(StopIteration) as stop:
        coroutine.send({"type": "http.request"})
    assert stop.value.value == {"type": "http.request"}


def test_it_can_be_awaited():
    async def outer():
        return await Server().begin(waits)

    assert finish(outer(), sent=3) == (3, 3)
    assert finish(Server().begin(waits).__await__()) == (None, None)


def test_only_none_goes_into_a_new_one():
    coroutine = Server().begin(waits)
    with pytest.raises(TypeError, match="can't send non-None value to a just-started coroutine"):
        coroutine.send(3)
    assert finish(coroutine) == (None, None)


def test_it_cannot_be_used_again():
    coroutine = Server().begin(waits)
    finish(coroutine)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        coroutine.send(None)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        coroutine.throw(LookupError())
    coroutine.close()


def test_it_does_not_run_within_itself():
    async def app(scope, receive, send):
        for method, argument in ((coroutine.send, None), (coroutine.throw, LookupError())):
            with pytest.raises(ValueError, match="already executing"):
                method(argument)
        with pytest.raises(ValueError, match="already executing"):
            coroutine.close()
        assert coroutine.cr_running
        return "done"

    coroutine = Server().begin(app)
    assert finish(coroutine) == "done"
    assert not coroutine.cr_running


@pytest.mark.parametrize("when", ["before the response", "after its start"])
def test_errors_arrive_as_raised(when):
    error = LookupError("announced")

    async def app(scope, receive, send):
        if when != "before the response":
            await send({"type": "http.response.start", "status": 200})
        raise error

    server = Server()
    with pytest.raises(LookupError) as raised:
        finish(server.begin(app))
    assert raised.value is error
    assert len(server.sent) == (when != "before the response")
    assert [entry.name for entry in raised.traceback][-1] == "app"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_errors_that_are_no_exceptions(error):
    async def app(scope, receive, send):
        raise error

    with pytest.raises(error):
        finish(Server().begin(app))


def test_an_application_that_raises_when_it_is_called():
    def app(scope, receive, send):
        assert sidecar.current() is scope["sidecar.request"]
        raise StopIteration(3) if scope["stops"] else LookupError("announced")

    with pytest.raises(LookupError, match="announced"):
        finish(Server().begin(app, scope_of(stops=False)))
    with pytest.raises(RuntimeError, match="coroutine raised StopIteration") as raised:
        finish(Server().begin(app, scope_of(stops=True)))
    assert isinstance(raised.value.__cause__, StopIteration)


@pytest.mark.parametrize("result", [None, 3, [], print])
def test_an_application_that_returns_no_awaitable(result):
    with pytest.raises(TypeError, match="await"):
        finish(Server().begin(lambda *args: result))


def test_any_awaitable_will_do():
    class Awaitable:
        def __await__(self):
            assert sidecar.current() is not None
            yield "out"
            return "result"

    coroutine = Server().begin(lambda *args: Awaitable())
    assert coroutine.send(None) == "out"
    assert finish(coroutine) == "result"


# -- throw and close -------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [(LookupError,), (LookupError("x"),), (LookupError, LookupError("x"), None)],
    ids=["type", "value", "three"],
)
def test_what_is_thrown_arrives(given):
    async def app(scope, receive, send):
        with pytest.raises(LookupError):
            await pause()
        assert sidecar.current() is not None
        return await pause("cleaning up")

    coroutine = Server().begin(app)
    coroutine.send(None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert coroutine.throw(*given) == "cleaning up"
    assert finish(coroutine) is None


def test_what_is_thrown_and_not_caught_comes_back():
    coroutine = Server().begin(waits)
    coroutine.send(None)
    error = LookupError()
    with pytest.raises(LookupError) as raised:
        coroutine.throw(error)
    assert raised.value is error
    assert sidecar.current() is None


def test_a_throw_before_the_first_step():
    called = []
    coroutine = Server().begin(lambda *args: called.append(args))
    with pytest.raises(LookupError):
        coroutine.throw(LookupError())
    assert not called
    with pytest.raises(RuntimeError, match="reuse"):
        coroutine.send(None)


def test_nonsense_is_not_thrown():
    coroutine = Server().begin(waits)
    coroutine.send(None)
    with pytest.raises(TypeError, match="deriving from BaseException"):
        coroutine.throw(3)
    assert finish(coroutine) == (None, None)


def test_close_runs_the_applications_cleanup_in_its_request():
    log = []

    async def app(scope, receive, send):
        try:
            await pause()
        finally:
            log.append(sidecar.current() is scope["sidecar.request"])

    coroutine = Server().begin(app)
    coroutine.send(None)
    assert coroutine.close() is None
    assert coroutine.close() is None
    assert log == [True]
    assert sidecar.current() is None


def test_close_of_one_that_goes_on():
    async def app(scope, receive, send):
        try:
            await pause()
        except GeneratorExit:
            await pause()

    coroutine = Server().begin(app)
    coroutine.send(None)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        coroutine.close()


def test_a_dropped_one_is_closed():
    log = []

    async def app(scope, receive, send):
        try:
            await pause()
        finally:
            log.append(sidecar.current() is scope["sidecar.request"])

    coroutine = Server().begin(app)
    coroutine.send(None)
    del coroutine
    gc.collect()
    assert log == [True]


def test_close_before_the_first_step_is_silent():
    Server().begin(waits).close()
    gc.collect()


def test_one_that_is_never_awaited_is_told():
    with pytest.warns(RuntimeWarning, match=r"coroutine 'ASGIMiddleware.__call__' was never awaited"):
        Server().begin(waits)
        gc.collect()


def test_a_receive_that_is_never_awaited_is_told_of_by_the_servers():
    async def app(scope, receive, send):
        receive().close()
        with pytest.warns(RuntimeWarning, match=r"coroutine 'Server.receive' was never awaited"):
            receive()
            gc.collect()

    finish(Server().begin(app))


def test_receive_is_cancelled_where_it_waits():
    log = []

    async def wait_for_message():
        try:
            await pause()
        finally:
            log.append("left")

    async def app(scope, receive, send):
        with pytest.raises(LookupError):
            await receive()
        return "done"

    coroutine = sidecar.ASGIMiddleware(app)(scope_of(), wait_for_message, None)
    coroutine.send(None)
    with pytest.raises(StopIteration) as stop:
        coroutine.throw(LookupError())
    assert (stop.value.value, log) == ("done", ["left"])


# -- in asyncio ------------------------------------------------------------------


def test_a_task_of_it_can_be_cancelled():
    log = []

    async def app(scope, receive, send):
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            log.append(current_id() == scope["sidecar.request"].id.encode())
            raise

    async def main():
        task = asyncio.ensure_future(Server().begin(app))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(Server().begin(app), 0.01)

    asyncio.run(main())
    assert log == [True, True]


def test_tasks_show_the_application():
    async def app(scope, receive, send):
        await receive()
        await asyncio.sleep(100)

    async def main():
        task = asyncio.ensure_future(Server().begin(app))
        assert "ASGIMiddleware.__call__()" in repr(task)
        assert task.get_stack() == []
        await asyncio.sleep(0)
        assert "app() running at" in repr(task)
        assert __file__ in repr(task)
        assert [frame.f_code.co_name for frame in task.get_stack()] == ["app"]
        coroutine = task.get_coro()
        assert coroutine.cr_code is app.__code__
        assert coroutine.cr_await.__name__ == "sleep"
        if sys.version_info >= (3, 14):
            graph = asyncio.format_call_graph(task)
            assert (graph.count("app()"), graph.count("sleep()")) == (1, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "cancelled" in repr(task)

    asyncio.run(main(), debug=True)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio's call graphs are 3.14's")
def test_the_call_graph_of_a_task_that_has_not_begun():
    async def main():
        task = asyncio.ensure_future(Server().begin(waits))
        asyncio.format_call_graph(task)
        task.cancel()

    asyncio.run(main())


def test_receive_can_be_a_task():
    """Django and others wait for a disconnect beside their work."""

    async def app(scope, receive, send):
        task = asyncio.ensure_future(receive())
        await asyncio.wait([task])
        assert task.result() == {"type": "http.request"}
        return await asyncio.wait_for(receive(), 10)

    async def main():
        server = Server([{"type": "http.request"}, {"type": "http.disconnect"}])
        assert await server.begin(app) == {"type": "http.disconnect"}

    asyncio.run(main())


def test_no_task_is_added():
    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200})
        return asyncio.current_task(), asyncio.all_tasks()

    async def main():
        task, tasks = await Server().begin(app)
        assert task is asyncio.current_task()
        assert tasks == {task}

    asyncio.run(main())


# -- what others look for --------------------------------------------------------


def test_it_looks_like_a_coroutine():
    coroutine = Server().begin(waits)
    assert isinstance(coroutine, collections.abc.Coroutine)
    assert asyncio.iscoroutine(coroutine)
    assert inspect.isawaitable(coroutine)
    assert coroutine.__name__ == coroutine.__qualname__ == "ASGIMiddleware.__call__"
    assert repr(coroutine).startswith("<sidecar.ASGICoroutine object ASGIMiddleware.__call__ at 0x")
    # Missing, not None: Trio and asyncio count on the frame of what has the attribute.
    for name in ("cr_frame", "cr_code", "cr_await"):
        assert not hasattr(coroutine, name)
    assert (coroutine.cr_running, coroutine.cr_suspended) == (False, False)
    coroutine.send(None)
    assert (coroutine.cr_running, coroutine.cr_suspended) == (False, True)
    assert coroutine.__qualname__ == "waits"
    assert coroutine.cr_frame.f_code is waits.__code__
    coroutine.close()
    assert (coroutine.cr_running, coroutine.cr_suspended) == (False, False)


def test_servers_take_it_for_asgi_3():
    middleware = sidecar.ASGIMiddleware(waits)
    assert inspect.iscoroutinefunction(middleware.__call__)
    assert callable(middleware)
    assert not inspect.isfunction(middleware)
    assert not inspect.isclass(middleware)
    assert list(inspect.signature(middleware.__call__).parameters) == ["scope", "receive", "send"]
    assert sidecar.ASGIMiddleware.__name__ == "ASGIMiddleware"
    assert finish(middleware.__call__(scope_of(), Server().receive, None)) == (None, None)


def test_with_a_class_based_application():
    class App:
        async def __call__(self, scope, receive, send):
            return sidecar.current() is not None

    assert finish(Server().begin(App())) is True
