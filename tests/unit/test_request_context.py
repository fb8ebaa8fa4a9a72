"""sidecar.context: the request's mapping, and where it goes."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest
from harness import wait_for
from lands import LONG, Land, every_land

import sidecar
from sidecar.anycall import call_any, parallel_map
from sidecar.context import get_request_ctx, request_context, set_request_ctx, spawn_thread_with_ctx


@pytest.fixture(autouse=True)
def own_context(request: pytest.FixtureRequest) -> None:
    """Each test starts with none set, and leaves none: it runs in a context of its own."""
    test = request.node.obj
    request.node.obj = lambda *args, **kwargs: contextvars.Context().run(test, *args, **kwargs)


def test_none_is_set() -> None:
    assert get_request_ctx() is None
    assert get_request_ctx("default") == "default"


def test_set_and_get_are_the_same_mapping() -> None:
    ctx = {"user_id": 42}
    set_request_ctx(ctx)
    assert get_request_ctx() is ctx is get_request_ctx("default")


@pytest.mark.parametrize("before", [None, {"user_id": 42}])
def test_block(before: Any) -> None:
    if before is not None:
        set_request_ctx(before)
    with request_context({"user_id": 99}) as ctx:
        assert get_request_ctx() is ctx == {"user_id": 99}
        with request_context({"user_id": 100}):
            assert get_request_ctx()["user_id"] == 100
        assert get_request_ctx() is ctx
    assert get_request_ctx() is before


def test_block_that_fails() -> None:
    with pytest.raises(KeyError), request_context({"user_id": 99}):
        raise KeyError
    assert get_request_ctx() is None


@every_land(but="sync")
def test_async_block(land: Land) -> None:
    async def main() -> None:
        async with request_context({"user_id": 99}) as ctx:
            await land.sleep(0)
            assert get_request_ctx() is ctx == {"user_id": 99}
        assert get_request_ctx() is None

    land.run(main)


def test_a_block_is_entered_once_at_a_time() -> None:
    block = request_context({"user_id": 99})
    with pytest.raises(RuntimeError, match="not entered"):
        block.__exit__(None, None, None)
    with block, pytest.raises(RuntimeError, match="entered already"):
        block.__enter__()
    with block:  # again, after it was left
        assert get_request_ctx() == {"user_id": 99}


def test_tasks_have_their_own() -> None:
    async def request(number: int, all_in: asyncio.Event, come: list[int]) -> int:
        async with request_context({"number": number}):
            come.append(number)
            if len(come) == 5:
                all_in.set()
            await all_in.wait()
            seen: int = (await asyncio.ensure_future(child()))["number"]
            return seen

    async def child() -> Any:
        return get_request_ctx()

    async def main() -> list[int]:
        all_in, come = asyncio.Event(), []  # type: ignore[var-annotated]
        return await asyncio.gather(*(request(number, all_in, come) for number in range(5)))

    assert asyncio.run(main()) == sidecar.run_sync(main()) == list(range(5))


async def look() -> Any:
    await asyncio.sleep(0)
    return get_request_ctx()


def test_goes_into_run_sync_and_the_pool() -> None:
    with request_context({"user_id": 7}) as ctx:
        assert sidecar.run_sync(look()) is ctx
        assert call_any(get_request_ctx, force_offload=True) is ctx
        assert parallel_map([(get_request_ctx, (), {}, LONG), (look, (), {}, None)]) == [ctx, ctx]

        async def pool() -> Any:
            return await call_any(get_request_ctx)

        assert sidecar.run_sync(pool()) is ctx is asyncio.run(pool())


def test_what_a_coroutine_sets_stays_in_it() -> None:
    async def change() -> None:
        set_request_ctx({"user_id": 8})

    with request_context({"user_id": 7}):
        sidecar.run_sync(change())
        assert get_request_ctx() == {"user_id": 7}


# -- threads ------------------------------------------------------------------

OTHER: contextvars.ContextVar[str] = contextvars.ContextVar("OTHER", default="unset")


def test_a_spawned_thread_has_a_copy_of_the_whole_context() -> None:
    seen: list[Any] = []

    def work(*args: Any, **kwargs: Any) -> None:
        seen.append((get_request_ctx(), OTHER.get(), args, kwargs, sidecar.run_sync(look())))
        set_request_ctx({"user_id": "the thread's"})

    OTHER.set("caller's")
    with request_context({"user_id": 7}) as ctx:
        thread = spawn_thread_with_ctx(work, 1, 2, target=3)
        assert isinstance(thread, threading.Thread) and thread.daemon
        thread.join(LONG)
        assert seen == [(ctx, "caller's", (1, 2), {"target": 3}, ctx)]
        assert get_request_ctx() is ctx
    seen.clear()
    spawn_thread_with_ctx(work).join(LONG)
    assert seen[0][0] is None


def test_what_a_spawned_thread_raises_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    hook: Callable[[Any], None] = told.append
    monkeypatch.setattr(threading, "excepthook", hook)

    def fail() -> None:
        raise KeyError("in the thread")

    spawn_thread_with_ctx(fail).join(LONG)
    wait_for(lambda: told, "the hook is called")
    assert told[0].exc_type is KeyError
