"""What a type checker must make of Sidecar's public names. Never run: ``test_stubs.py`` has it checked."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

import sidecar
from sidecar import Resource, Sidecar, resource

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from typing_extensions import assert_type


async def length(text: str) -> int:
    return len(text)


def calls() -> None:
    number: int = sidecar.run_sync(length("abc"))
    again: int = sidecar.run_sync(length("abc"), timeout=1.5, context=contextvars.copy_context())
    pair: tuple[int, int] = sidecar.run_sync(asyncio.gather(length("a"), length("b")))
    print(number + again + sum(pair))


def mistakes() -> None:
    text: str = sidecar.run_sync(length("abc"))  # type: ignore[assignment]
    sidecar.run_sync(length)  # type: ignore[arg-type]
    sidecar.run_sync(length("abc"), timeout="1")  # type: ignore[arg-type]
    print(text)


def bridges() -> None:
    with sidecar.Sidecar(workers=2, name="reports", timeout=5.0) as bridge:
        number: int = bridge.run_sync(length("abc"))
        loop: asyncio.AbstractEventLoop = bridge.get_loop()
        running: bool = bridge.is_running()
        print(number, loop.time(), running)
    clean: bool = sidecar.get_bridge().start().shutdown(timeout=2)
    print(clean, sidecar.shutdown())
    runner: asyncio.AbstractEventLoop = sidecar.Loop()
    runner.close()


def requests() -> str | None:
    request = sidecar.current()
    if request is None:
        return None
    number: int = request.run_sync(length(request.id))
    return request.id * number


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    request: sidecar.Request = environ["sidecar.request"]
    return [request.id.encode()]


def wrapped(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    return sidecar.WSGIMiddleware(application)(environ, start_response)


def caught() -> str:
    try:
        sidecar.run_sync(length("abc"), timeout=0.1)
    except sidecar.CallTimeoutError as error:
        return error.code
    except (sidecar.DeadlockError, sidecar.BridgeClosedError, sidecar.errors.LoopOwnedError) as error:
        return error.code
    return ""


class Client:
    async def __aenter__(self) -> str:
        return "entered"

    async def __aexit__(self, *_: object) -> None: ...

    async def aclose(self) -> None: ...


async def generator() -> AsyncGenerator[str, None]:
    yield ""


@contextlib.asynccontextmanager
async def manager() -> AsyncIterator[bytes]:
    yield b""


async def client() -> Client:
    return Client()


@resource
async def decorated() -> AsyncIterator[int]:
    yield 1


@resource(close=Client.aclose)
async def closing() -> Client:
    return Client()


@resource(bridge=sidecar.get_bridge())
async def of_a_bridge() -> AsyncIterator[int]:
    yield 1


async def resources() -> None:
    assert_type(decorated, Resource[int])
    assert_type(decorated.get(timeout=1.5), int)
    assert_type(await decorated, int)
    assert_type(closing, Resource[Client])
    assert_type(of_a_bridge, Resource[int])
    assert_type(resource(generator), Resource[str])
    assert_type(resource(manager), Resource[bytes])
    assert_type(resource(client), Resource[Client])
    assert_type(resource(lambda: 1j), Resource[complex])
    assert_type(resource(Client), Resource[str])
    assert_type(resource(Client, close="aclose"), Resource[Client])
    assert_type(resource(asyncio.Lock), Resource[asyncio.Lock])
    decorated.get(timeout="1")  # type: ignore[arg-type]
    resource(3)  # type: ignore[call-overload]


def resources_of_a_bridge(bridge: Sidecar) -> None:
    @bridge.resource
    async def mine() -> AsyncIterator[int]:
        yield 1

    @bridge.resource()
    async def also_mine() -> AsyncIterator[int]:
        yield 1

    @bridge.resource(close="aclose")
    async def closed() -> Client:
        return Client()

    assert_type(mine, Resource[int])
    assert_type(also_mine, Resource[int])
    assert_type(closed, Resource[Client])
    assert_type(bridge.resource(manager).get(), bytes)
    assert_type(bridge.resource(client), Resource[Client])
    assert_type(bridge.resource(Client), Resource[str])
    assert_type(bridge.resource(Client, close=Client.aclose), Resource[Client])
    assert_type(bridge.resource(asyncio.Semaphore), Resource[asyncio.Semaphore])
    assert_type(bridge.resource(lambda: 1j), Resource[complex])
    bridge.resource(Client, bridge=bridge)  # type: ignore[call-overload]


def hooks(bridge: Sidecar) -> None:
    @sidecar.on_worker_start
    def begin() -> int:
        return 1

    @sidecar.on_worker_stop(bridge=bridge)
    async def end() -> None: ...

    @bridge.on_worker_start
    async def begin_too() -> None: ...

    @bridge.on_worker_stop()
    def end_too() -> str:
        return ""

    assert_type(begin(), int)
    assert_type(end_too(), str)
    sidecar.run_sync(begin_too())
    sidecar.run_sync(end())
    bridge.on_worker_start(3)  # type: ignore[call-overload]


def entered(bridge: Sidecar) -> None:
    assert_type(sidecar.enter_context(Client()), str)
    assert_type(bridge.enter_context(manager), bytes)
    with bridge.wrap_context(Client) as value:
        assert_type(value, str)
