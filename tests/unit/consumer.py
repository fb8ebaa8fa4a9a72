"""What a type checker must make of Sidecar's public names. Never run: ``test_stubs.py`` has it checked."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import sidecar

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


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
