"""Synchronizer: async generators and context managers for both sides, each in one task."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from harness import wait_for

from sidecar.errors import BridgeClosedError, DeadlockError
from sidecar.synchronizer import Synchronizer

var = contextvars.ContextVar("var", default="unset")


@pytest.fixture
def sync() -> Iterator[Synchronizer]:
    made = Synchronizer()
    yield made
    made.close()


@pytest.fixture(params=["sync", "async"])
def collect(request: pytest.FixtureRequest, sync: Synchronizer) -> Any:
    """All items of a wrapped generator function, by one of its two faces."""

    def run(function: Any, *args: Any) -> list[Any]:
        face = sync.wrap(function)
        if request.param == "sync":
            return list(face(*args))

        async def main() -> list[Any]:
            return [item async for item in face.aio(*args)]

        return asyncio.run(main())

    return run


async def count(end: int) -> AsyncGenerator[int, None]:
    for number in range(end):
        await asyncio.sleep(0.001)
        yield number


async def echo() -> AsyncGenerator[Any, Any]:
    got: Any = "first"
    while got != "stop":
        try:
            got = yield got
        except LookupError as error:
            got = error


def test_items(collect: Any) -> None:
    assert collect(count, 4) == [0, 1, 2, 3]
    assert collect(count, 0) == []


def test_they_are_generators(sync: Synchronizer) -> None:
    face = sync.wrap(count)
    assert inspect.isgenerator(face(1))
    made = face.aio(1)
    assert inspect.isasyncgen(made)
    asyncio.run(made.aclose())
    for call in (lambda: face.future(1), lambda: face(1, _future=True)):
        with pytest.raises(TypeError, match="Can not return futures for generators"):
            call()


def test_one_task_and_one_context(collect: Any) -> None:
    async def steps() -> AsyncGenerator[Any, None]:
        token = var.set("inside")
        yield asyncio.current_task()
        yield asyncio.current_task()
        assert var.get() == "inside"
        var.reset(token)
        yield var.get()
        yield asyncio.current_task()

    var.set("callers")
    first, second, value, third = collect(steps)
    assert first is second is third is not None
    assert value == "callers"


def test_errors(collect: Any) -> None:
    error = ValueError("no")

    async def fails() -> AsyncGenerator[int, None]:
        yield 1
        raise error

    with pytest.raises(ValueError) as raised:
        collect(fails)
    assert raised.value is error


def test_send_and_throw(sync: Synchronizer) -> None:
    generator = sync.wrap(echo)()
    error = LookupError("thrown")
    assert (next(generator), generator.send("a"), generator.throw(error)) == ("first", "a", error)
    with pytest.raises(StopIteration):
        generator.send("stop")

    async def main() -> None:
        generator = sync.wrap(echo).aio()
        assert await generator.__anext__() == "first"
        assert await generator.asend("a") == "a"
        assert await generator.athrow(error) is error
        with pytest.raises(StopAsyncIteration):
            await generator.asend("stop")

    asyncio.run(main())


def test_items_are_translated(sync: Synchronizer, collect: Any) -> None:
    class Thing:
        pass

    wrapped = sync.wrap(Thing)

    async def things() -> AsyncGenerator[list[Thing], None]:
        yield [Thing()]

    assert type(collect(things)[0][0]) is wrapped


def closing(seconds: float, log: list[Any]) -> Any:
    async def generator() -> AsyncGenerator[int, None]:
        log.append(asyncio.current_task())
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(seconds)
            log.append(asyncio.current_task())

    return generator


@pytest.mark.parametrize("how", ["close", "break", "drop", "aclose"])
def test_left_early_it_is_closed_and_waited_for(sync: Synchronizer, how: str) -> None:
    log: list[Any] = []
    face = sync.wrap(closing(0.01, log))
    if how == "break":
        for _ in face():
            break
        gc.collect()
    elif how == "aclose":

        async def main() -> None:
            generator = face.aio()
            await generator.__anext__()
            await generator.aclose()

        asyncio.run(main())
    else:
        generator = face()
        next(generator)
        if how == "close":
            generator.close()
        del generator
        gc.collect()
    assert len(log) == 2
    assert log[0] is log[1]


@pytest.mark.parametrize("side", ["sync", "async"])
def test_finalizer_timeout(sync: Synchronizer, side: str, caplog: pytest.LogCaptureFixture) -> None:
    sync.finalizer_timeout = 0.01
    log: list[Any] = []
    face = sync.wrap(closing(0.3, log))
    began = time.monotonic()
    if side == "sync":
        generator = face()
        next(generator)
        generator.close()
    else:

        async def main() -> None:
            generator = face.aio()
            await generator.__anext__()
            await generator.aclose()

        asyncio.run(main())
    assert len(log) == 1 or time.monotonic() - began >= 0.3  # unless this machine stood still
    assert "does not close within 0.01 s" in caplog.text
    wait_for(lambda: len(log) == 2, "the cleanup, which goes on")


@pytest.mark.parametrize("side", ["sync", "async"])
def test_what_the_cleanup_raises(sync: Synchronizer, side: str) -> None:
    async def fails() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            raise LookupError("cleanup")

    face = sync.wrap(fails)

    async def main() -> None:
        generator = face.aio()
        await generator.__anext__()
        await generator.aclose()

    generator = face()
    next(generator)
    with pytest.raises(LookupError, match="cleanup"):
        generator.close() if side == "sync" else asyncio.run(main())
    if side == "async":
        with pytest.raises(LookupError):
            generator.close()


def test_a_step_is_cancelled(sync: Synchronizer) -> None:
    log: list[str] = []
    began = threading.Event()

    async def waits() -> AsyncGenerator[int, None]:
        try:
            yield 1
            began.set()
            await asyncio.sleep(60)
            yield 2
        finally:
            await asyncio.sleep(0.01)
            log.append("closed")

    async def main() -> None:
        generator = sync.wrap(waits).aio()
        await generator.__anext__()
        step = asyncio.ensure_future(generator.__anext__())
        while not began.is_set():
            await asyncio.sleep(0.001)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        assert log == ["closed"]

    asyncio.run(main())


def test_a_generator_that_goes_on_is_closed_later(sync: Synchronizer) -> None:
    """A second cancellation ends the waiting; the generator is closed after its step, on its loop."""
    began, release = threading.Event(), threading.Event()
    closed_on: list[Any] = []

    async def stubborn() -> AsyncGenerator[int, None]:
        try:
            yield 1
            began.set()
            while not release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.001)
            yield 2
        finally:
            closed_on.append(asyncio.get_running_loop())

    async def main() -> None:
        generator = sync.wrap(stubborn).aio()
        await generator.__anext__()
        step = asyncio.ensure_future(generator.__anext__())
        while not began.is_set():
            await asyncio.sleep(0.001)
        for _ in range(2):
            step.cancel()
            await asyncio.sleep(0.005)
        assert step.cancelled()
        release.set()

    asyncio.run(main())
    wait_for(lambda: closed_on, "the generator's end")
    assert closed_on == [sync.get_loop()]


def test_inside_its_own_loop(sync: Synchronizer) -> None:
    face = sync.wrap(count)

    async def by_aio() -> list[int]:
        return [item async for item in face.aio(3)]

    async def blocking() -> list[int]:
        return list(face(3))

    assert sync.wrap(by_aio)() == [0, 1, 2]
    with pytest.raises(DeadlockError):
        sync.wrap(blocking)()


def test_close_ends_an_open_generator(sync: Synchronizer) -> None:
    log: list[Any] = []

    async def main() -> None:
        generator = sync.wrap(closing(0, log)).aio()
        await generator.__anext__()
        await asyncio.get_running_loop().run_in_executor(None, sync.close)
        assert len(log) == 2
        with pytest.raises(BridgeClosedError):
            await generator.__anext__()

    asyncio.run(main())


def test_an_iterator_by_annotation(sync: Synchronizer) -> None:
    class Iterates:
        def __init__(self) -> None:
            self.left = 2

        def __aiter__(self) -> Iterates:
            return self

        async def __anext__(self) -> int:
            self.left -= 1
            if self.left < 0:
                raise StopAsyncIteration
            return self.left

    def make() -> AsyncIterator[int]:
        return Iterates()

    async def main() -> list[int]:
        return [item async for item in sync.wrap(make).aio()]

    assert list(sync.wrap(make)()) == asyncio.run(main()) == [1, 0]


# -- context managers -----------------------------------------------------------------


@contextlib.asynccontextmanager
async def lend(log: list[Any]) -> AsyncIterator[str]:
    log.append(asyncio.current_task())
    try:
        yield "lent"
    finally:
        await asyncio.sleep(0.001)
        log.append(asyncio.current_task())


class Lent:
    def __init__(self, log: list[Any]) -> None:
        self.log = log

    async def __aenter__(self) -> str:
        self.log.append(asyncio.current_task())
        return "lent"

    async def __aexit__(self, *exc_info: object) -> None:
        self.log.append(asyncio.current_task())


def by_annotation(log: list[Any]) -> AbstractAsyncContextManager[str]:
    return Lent(log)


async def by_coroutine(log: list[Any]) -> AbstractAsyncContextManager[str]:
    return lend(log)


@pytest.mark.parametrize("function", [lend, by_annotation, by_coroutine])
def test_context_managers(sync: Synchronizer, function: Any) -> None:
    log: list[Any] = []
    face = sync.wrap(function)
    with face(log) as value:
        assert value == "lent"
    with pytest.raises(ValueError):
        with face(log):
            raise ValueError("body")

    async def main() -> None:
        made = face.aio(log)
        async with (await made if inspect.iscoroutine(made) else made) as value:
            assert value == "lent"
        if function is not by_coroutine:
            async with face(log):
                pass

    asyncio.run(main())
    pairs = list(zip(log[::2], log[1::2]))
    assert len(pairs) == (3 if function is by_coroutine else 4)
    assert all(entered is left for entered, left in pairs)
    assert len({id(entered) for entered, _ in pairs}) == len(pairs)


def test_scopes_work_in_a_stay(sync: Synchronizer) -> None:
    anyio = pytest.importorskip("anyio", reason="anyio is not installed")

    @contextlib.asynccontextmanager
    async def group() -> AsyncIterator[Any]:
        async with anyio.create_task_group() as tasks:
            yield tasks
            tasks.cancel_scope.cancel()

    for _ in range(2):
        with sync.wrap(group)():
            pass

    async def main() -> None:
        async with sync.wrap(group).aio():
            pass

    asyncio.run(main())


def test_a_context_goes_back_in_as_it_was(sync: Synchronizer) -> None:
    async def enter(manager: Any) -> str:
        async with manager as value:
            return str(value)

    assert sync.wrap(enter)(sync.wrap(lend)([])) == "lent"
