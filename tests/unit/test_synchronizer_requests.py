"""Synchronizer inside a request: its id, its deadline and its end reach what runs on the Synchronizer's loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
from harness import wait_for
from requested import call

import sidecar
from sidecar.synchronizer import Synchronizer


@pytest.fixture
def sync() -> Iterator[Synchronizer]:
    made = Synchronizer()
    yield made
    made.close()


class Slow:
    """Each of its calls sleeps until it is cancelled, and tells of its cleanup."""

    def __init__(self) -> None:
        self.cleaned = threading.Event()

    async def _sleep(self) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.001)
            self.cleaned.set()

    async def method(self) -> None:
        await self._sleep()

    async def items(self) -> AsyncGenerator[int, None]:
        yield 1
        await self._sleep()

    async def __aenter__(self) -> None:
        await self._sleep()

    async def __aexit__(self, *exc_info: object) -> None: ...


def request_id() -> str | None:
    request = sidecar.current()
    return None if request is None else request.id


async def async_id() -> str | None:
    return request_id()


async def ids() -> AsyncGenerator[str | None, None]:
    yield request_id()


def test_the_id_is_known_there(sync: Synchronizer) -> None:
    face, stream = sync.wrap(async_id), sync.wrap(ids)

    def view() -> list[Any]:
        return [request_id(), face(), asyncio.run(face.aio()), face.future().result(10), *stream()]

    seen = call(view)
    assert seen[0] is not None
    assert set(seen) == {seen[0]}
    assert face() is None


def use_method(slow: Any) -> None:
    slow.method()


def use_items(slow: Any) -> None:
    for _ in slow.items():
        pass


def use_stay(slow: Any) -> None:
    with slow:
        pytest.fail("entered")


@pytest.mark.parametrize("use", [use_method, use_items, use_stay])
def test_the_deadline_ends_what_blocks(sync: Synchronizer, use: Any) -> None:
    slow = sync.wrap(Slow)()

    def view() -> None:
        with pytest.raises(sidecar.DeadlineExceeded):
            use(slow)
        # Its cleanup was waited for.
        assert sync.translate_in(slow).cleaned.is_set()

    call(view, deadline=0.05)


def test_a_future_ends_with_its_request(sync: Synchronizer) -> None:
    slow = sync.wrap(Slow)()
    future: concurrent.futures.Future[None] = call(slow.method.future)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(10)
    wait_for(future.cancelled, "the end of the request's work")
