"""What type checkers must make of the wrappers. Never run: ``test_typing.py`` has it checked.

A deliberate mistake is ignored by name for mypy and for pyright; one that is none any more is an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager
from typing import IO, Any, TypeVar

from typing_extensions import ParamSpec, assert_type

from sidecar import Sidecar, Stream
from sidecar._wrappers import enter_context, to_async, to_sync, wrap_context

P = ParamSpec("P")
T = TypeVar("T")


def blocking(number: int, /, *, base: int = 10) -> str:
    return str(number * base)


async def fetching(number: int, /, *, base: int = 10) -> str:
    return str(number * base)


def counting(end: int) -> Generator[int, str, None]:
    said = yield end
    print(said.upper())


def iterating(end: int) -> Iterator[int]:
    yield from range(end)


async def async_counting(end: int) -> AsyncGenerator[int, str]:
    for number in range(end):
        yield number


async def async_iterating(end: int) -> AsyncIterator[int]:
    for number in range(end):
        yield number


def file_of(name: str) -> IO[str]:
    return open(name)


@contextlib.contextmanager
def opened(name: str) -> Generator[bytes, None, None]:
    yield name.encode()


@contextlib.asynccontextmanager
async def async_opened(name: str) -> AsyncGenerator[bytes, None]:
    yield name.encode()


class Client:
    def __init__(self, host: str) -> None:
        self.host = host

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def fetch(self, path: str) -> bytes:
        return path.encode()

    sync_fetch = to_sync(fetch)


async def asynchronous() -> None:
    function = to_async(blocking)
    assert_type(await function(3, base=2), str)
    await function("3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await function(3, bass=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert_type(await to_async(len)("abc"), int)
    # An iterator to its class, but what opens it is no generator function.
    assert_type(await to_async(file_of)("name"), "IO[str]")

    numbers = to_async(counting)(3)
    assert_type(numbers, "AsyncGenerator[int, str]")
    assert_type(await numbers.asend("more"), int)
    assert_type(to_async(iterating)(3), "AsyncGenerator[int, None]")
    assert_type(to_async(iter([1, 2])), "AsyncGenerator[int, None]")
    assert_type(to_async(counting(3)), "AsyncGenerator[int, str]")

    assert_type(to_async(opened)("name"), "AbstractAsyncContextManager[bytes, bool | None]")
    async with to_async(opened)("name") as raw, to_async(opened("name")) as again:
        assert_type(raw, bytes)
        assert_type(again, bytes)

    # Async already: the same types.
    async with to_async(async_opened)("name") as raw, to_async(Client("host")) as client:
        assert_type(raw, bytes)
        assert_type(client, Client)
    assert_type(await to_async(fetching)(3), str)
    assert_type(to_async(async_counting)(3), "AsyncGenerator[int, str]")


def synchronous() -> None:
    function = to_sync(fetching, timeout=3.0)
    assert_type(function(3, base=2), str)
    function("3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    to_sync(fetching, timeout="3")  # type: ignore[call-overload]  # pyright: ignore
    assert_type(Client("host").sync_fetch("path"), bytes)

    numbers = to_sync(async_counting)(3)
    assert_type(numbers, Stream[int])
    assert_type(next(numbers), int)
    assert_type(numbers.send("more"), int)
    for number in to_sync(async_iterating)(3):
        assert_type(number, int)
    for number in to_sync(async_counting(3)):
        assert_type(number, int)

    with to_sync(async_opened)("name") as raw, to_sync(async_opened("name")) as again:
        assert_type(raw, bytes)
        assert_type(again, bytes)
    with to_sync(Client("host")) as client:
        assert_type(client, Client)


@to_async
def decorated(number: int) -> str:
    return str(number)


@to_async()
def decorated_with_arguments(number: int) -> str:
    return str(number)


@to_sync(timeout=2, bridge=Sidecar())
async def bounded(number: int) -> str:
    return str(number)


async def decorators() -> None:
    assert_type(await decorated(3), str)
    assert_type(await decorated_with_arguments(3), str)
    assert_type(bounded(3), str)
    text: int = bounded(3)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(text)


class Service:
    @to_async
    def load(self, name: str) -> bytes:
        return name.encode()

    @to_sync
    async def save(self, name: str) -> int:
        return len(name)


async def methods() -> None:
    assert_type(await Service().load("name"), bytes)
    assert_type(Service().save("name"), int)


def generic(function: Callable[P, Awaitable[T]]) -> Callable[P, T]:
    """The signature goes through code that does not know it."""
    return to_sync(function)


def contexts(bridge: Sidecar) -> None:
    with wrap_context(async_opened("name")) as raw:
        assert_type(raw, bytes)
    with wrap_context(lambda: Client("host"), bridge=bridge) as client:
        assert_type(client, Client)
    assert_type(enter_context(Client("host"), bridge=bridge), Client)
    wrap_context(opened("name"))  # type: ignore[arg-type]  # pyright: ignore


Blocking = to_async(Client)
face: Any = Blocking("host")
manager: AbstractAsyncContextManager[Any] = face
