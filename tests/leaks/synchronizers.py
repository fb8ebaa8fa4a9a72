"""Scenarios: a Synchronizer's faces, each by each way it can go."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import Any

from leaks.calls import fail, nap, refused
from leaks.measure import Scenarios

from sidecar.synchronizer import Synchronizer

scenario = Scenarios()

sync = Synchronizer(name="leaks")
# The caller's loop; one for all, as asyncio's own leaves something behind with each.
loop = asyncio.new_event_loop()


class _Thing:
    def __init__(self, value: object) -> None:
        self.value = value

    async def get(self) -> object:
        return self.value

    async def other(self) -> _Thing:
        return _Thing([self])

    @property
    def held(self) -> object:
        return self.value

    async def __aenter__(self) -> _Thing:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.sleep(0)


async def _rows(count: int, error: BaseException | None = None) -> AsyncIterator[object]:
    for number in range(count):
        yield [number]
    if error is not None:
        raise error


@contextlib.asynccontextmanager
async def _stay(error: BaseException | None = None) -> AsyncIterator[object]:
    await asyncio.sleep(0)
    yield []
    if error is not None:
        raise error


napping: Any = sync.wrap(nap)
failing: Any = sync.wrap(fail)
rows: Any = sync.wrap(_rows)
stay: Any = sync.wrap(_stay)
Thing: Any = sync.wrap(_Thing)


def run(coro: Any) -> Any:
    return loop.run_until_complete(coro)


@scenario()
def calls() -> None:
    assert napping(0, []) == []
    refused(ValueError, failing, ValueError([]))


@scenario()
def awaited_calls() -> None:
    assert run(napping.aio(0, [])) == []
    refused(ValueError, run, failing.aio(ValueError([])))


@scenario()
def cancelled_calls() -> None:
    async def main() -> None:
        task = asyncio.ensure_future(napping.aio(60))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        del task

    run(main())


@scenario()
def never_awaited() -> None:
    napping.aio(0).close()


@scenario()
def futures() -> None:
    assert napping.future(0, []).result(20) == []
    refused(ValueError, failing.future(ValueError([])).result, 20)
    future = napping.future(60)
    future.cancel()
    assert not concurrent.futures.wait([future], 20).not_done


@scenario()
def generators() -> None:
    assert list(rows(2)) == [[0], [1]]
    refused(ValueError, list, rows(1, ValueError([])))
    for _ in rows(2):
        break
    dropped = rows(2)
    next(dropped)


@scenario()
def awaited_generators() -> None:
    async def main() -> None:
        assert [item async for item in rows.aio(2)] == [[0], [1]]
        try:
            async for _ in rows.aio(0, ValueError([])):
                raise AssertionError
        except ValueError:
            pass
        left = rows.aio(2)
        await left.__anext__()
        await left.aclose()

    run(main())


@scenario()
def never_begun() -> None:
    rows(2)
    rows.aio(2)


@scenario()
def stays() -> None:
    async def main() -> None:
        async with stay() as found:
            assert found == []

    def failed(how: Any, error: BaseException | None = None) -> None:
        with how:
            if error is not None:
                raise error

    run(main())
    failed(stay())
    refused(ValueError, failed, stay(), ValueError([]))
    refused(LookupError, failed, stay(LookupError([])))


@scenario()
def proxies() -> None:
    thing = Thing([])
    assert thing.get() == [] and thing.held == [] and run(thing.get.aio()) == []
    assert isinstance(thing.other(), Thing)
    with thing as same:
        assert same is thing
    assert sync.translate_out(sync.translate_in([thing])) == [thing]


@scenario(10)
def wrappers() -> None:
    """A function and a class that go, and their wrappers with them."""

    async def inner() -> list[object]:
        return []

    class Inner:
        async def get(self) -> list[object]:
            return []

    assert sync.wrap(inner)() == [] and sync.wrap(Inner)().get() == []
    del inner, Inner
    gc.collect()


@scenario(10)
def lives() -> None:
    """What is wrapped keeps its Synchronizer."""

    async def inner() -> list[object]:
        return []

    own = Synchronizer(name="own")
    wrapped = own.wrap(inner)
    assert wrapped() == []
    own.close()
    assert wrapped() == []
    own.close()
    del inner, wrapped, own
    gc.collect()
