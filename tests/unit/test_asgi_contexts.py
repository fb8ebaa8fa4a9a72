"""ASGIMiddleware and context variables: the request's is set in its steps alone, others pass through."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import sys

import pytest
from unit.asgi_server import Server, current_id, finish, pause, scope_of

import sidecar

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def app_that_pauses(scope, receive, send):
    assert sidecar.current() is scope["sidecar.request"]
    await pause()
    assert sidecar.current() is scope["sidecar.request"]
    await pause()
    assert sidecar.current() is scope["sidecar.request"]


def test_the_request_is_current_in_every_step_and_never_between():
    coroutine = Server().begin(app_that_pauses)
    for _ in range(2):
        coroutine.send(None)
        assert sidecar.current() is None
    with pytest.raises(StopIteration):
        coroutine.send(None)
    assert sidecar.current() is None


def test_calls_interleaved_in_one_context_do_not_mix():
    """A server may drive all of its calls in one context; granian does."""
    coroutines = [Server().begin(app_that_pauses) for _ in range(10)]
    for _ in range(2):
        for coroutine in coroutines:
            coroutine.send(None)
            assert sidecar.current() is None
    for coroutine in coroutines:
        with pytest.raises(StopIteration):
            coroutine.send(None)


def test_steps_may_be_in_different_contexts():
    """As where a server or a garbage collector closes what another task has begun."""
    for end in ("send", "throw", "close"):
        coroutine = Server().begin(app_that_pauses)
        contextvars.copy_context().run(coroutine.send, None)
        contextvars.copy_context().run(coroutine.send, None)
        if end == "close":
            contextvars.copy_context().run(coroutine.close)
        else:
            sent = None if end == "send" else LookupError()
            with pytest.raises((StopIteration, LookupError)):
                contextvars.copy_context().run(getattr(coroutine, end), sent)
        assert sidecar.current() is None


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_the_application_sets_is_set_as_without_us(wrapped):
    async def app(scope, receive, send):
        variable.set("in the first step")
        await pause()
        assert variable.get() == "by the server"
        variable.set("in the second")

    def drive():
        coroutine = Server().begin(app) if wrapped else app(scope_of(), None, None)
        coroutine.send(None)
        seen = [variable.get()]
        variable.set("by the server")
        finish(coroutine)
        return [*seen, variable.get()]

    assert contextvars.copy_context().run(drive) == ["in the first step", "in the second"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_token_of_the_application_is_good_in_a_later_step(wrapped):
    async def app(scope, receive, send):
        token = variable.set("mine")
        await pause()
        variable.reset(token)
        return variable.get()

    coroutine = Server().begin(app) if wrapped else app(scope_of(), None, None)
    assert finish(coroutine) == "unset"


def test_the_context_of_the_server_holds_no_more_than_before():
    async def app(scope, receive, send):
        await pause()
        raise LookupError

    def drive():
        before = set(contextvars.copy_context())
        coroutine = Server().begin(app)
        coroutine.send(None)
        assert set(contextvars.copy_context()) == before
        with pytest.raises(LookupError):
            coroutine.send(None)
        assert set(contextvars.copy_context()) == before

    contextvars.copy_context().run(drive)


def test_the_request_around_is_current_again_after():
    async def inner(scope, receive, send):
        await pause()

    async def outer(scope, receive, send):
        outside = current_id()
        coroutine = Server().begin(inner)
        coroutine.send(None)
        assert current_id() == outside
        await pause()
        finish(coroutine)
        assert current_id() == outside

    finish(Server().begin(outer))


def test_a_context_left_on_top_is_told(monkeypatch):
    """C code may leave one; the application's own result stands."""
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: told.append(it.exc_type))
    left = ctypes.py_object(contextvars.copy_context())

    async def app(scope, receive, send):
        ctypes.pythonapi.PyContext_Enter(left)
        if scope["raises"]:
            raise LookupError("announced")
        return "done"

    def drive(raises):
        coroutine = Server().begin(app, scope_of(raises=raises))
        try:
            if raises:
                with pytest.raises(LookupError, match="announced"):
                    finish(coroutine)
            else:
                assert finish(coroutine) == "done"
        finally:
            ctypes.pythonapi.PyContext_Exit(left)

    for raises in (False, True):
        contextvars.copy_context().run(drive, raises)
        assert told == [ValueError]
        told.clear()


# -- tasks, generators, jobs -----------------------------------------------------


def test_tasks_that_the_application_starts_have_its_request():
    async def child(ids):
        ids.append(current_id())
        await asyncio.sleep(0)
        ids.append(current_id())

    async def app(scope, receive, send):
        ids = []
        asyncio.get_running_loop().call_soon(lambda: ids.append(current_id()))
        await asyncio.gather(child(ids), child(ids))
        return current_id(), ids

    async def main():
        results = await asyncio.gather(*(Server().begin(app) for _ in range(20)))
        for own, ids in results:
            assert ids == [own] * 5
        assert len({own for own, _ in results}) == 20
        assert sidecar.current() is None

    asyncio.run(main())


def test_a_task_left_behind_keeps_its_request():
    async def child(gate):
        await gate.wait()
        return current_id()

    async def app(scope, receive, send):
        scope["state"]["tasks"].append(asyncio.ensure_future(child(scope["state"]["gate"])))
        return current_id()

    async def main():
        state = {"tasks": [], "gate": asyncio.Event()}
        own = await Server().begin(app, scope_of(state=state))
        assert sidecar.current() is None
        state["gate"].set()
        assert await state["tasks"][0] == own

    asyncio.run(main())


def test_async_generators_of_the_application():
    async def numbers(ids):
        try:
            for number in range(10):
                ids.append(current_id())
                await asyncio.sleep(0)
                yield number
        finally:
            ids.append(current_id())

    async def app(scope, receive, send):
        ids = []
        generator = numbers(ids)
        async for number in generator:
            if number == 3:
                break
        await generator.aclose()
        return [current_id()] * 5 == ids

    async def main():
        assert all(await asyncio.gather(*(Server().begin(app) for _ in range(5))))

    asyncio.run(main())


def test_jobs_on_the_pool_have_the_request():
    def job():
        return current_id()

    async def app(scope, receive, send):
        own = current_id()
        assert await sidecar.to_async(job)() == own
        assert await asyncio.gather(*(sidecar.to_async(job)() for _ in range(5))) == [own] * 5
        assert current_id() == own
        return own

    async def main():
        owns = await asyncio.gather(*(Server().begin(app) for _ in range(50)))
        assert len(set(owns)) == 50

    asyncio.run(main())


def test_a_bridge_of_the_application_runs_in_the_request():
    async def inner():
        await asyncio.sleep(0)
        return current_id()

    async def app(scope, receive, send):
        return current_id(), await sidecar.to_async(lambda: sidecar.run_sync(inner()))()

    async def main():
        own, seen = await Server().begin(app)
        assert own == seen

    asyncio.run(main())


def test_under_trio():
    trio = pytest.importorskip("trio", reason="trio is not installed")
    results = []

    async def child(ids):
        await trio.sleep(0)
        ids.append(current_id())

    async def app(scope, receive, send):
        ids = [current_id()]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, ids)
            nursery.start_soon(receive)
            await trio.sleep(0.001)
        with trio.move_on_after(0.001):
            await trio.sleep_forever()
        with trio.move_on_after(0.001) as limit:
            await receive()
        assert limit.cancelled_caught
        ids.append(current_id())
        results.append(ids)

    class Inbox:
        calls = 0

        async def receive(self):
            self.calls += 1
            await (trio.sleep(0) if self.calls == 1 else trio.sleep_forever())

    async def main():
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(sidecar.ASGIMiddleware(app), scope_of(), Inbox().receive, None)

    trio.run(main)
    assert all(len(ids) == 3 and len(set(ids)) == 1 for ids in results)
    assert len({ids[0] for ids in results}) == len(results) == 20
