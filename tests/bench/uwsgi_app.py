"""The application that ``tests/bench/uwsgi`` serves. ``SIDECAR_BENCH`` says what each request does.

Each kind of call runs the same coroutine, which waits once, and gets its result.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

KIND = os.environ["SIDECAR_BENCH"]
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", "2")]


async def once() -> int:
    await asyncio.sleep(0)
    return 1


def threadsafe() -> Callable[[], Any]:
    """One loop in a thread of its own, started by the worker's first request."""
    started: list[asyncio.AbstractEventLoop] = []
    lock = threading.Lock()

    def call() -> int:
        if not started:
            with lock:
                if not started:
                    loop = asyncio.new_event_loop()
                    threading.Thread(target=loop.run_forever, daemon=True).start()
                    started.append(loop)
        return asyncio.run_coroutine_threadsafe(once(), started[0]).result()

    return call


def stepped() -> int:
    """No task, no loop, no context: nothing that could wait."""
    coro = once()
    try:
        while True:
            coro.send(None)
    except StopIteration as stop:
        value: int = stop.value
        return value


def private_loop() -> Callable[[], Any]:
    """A loop for each request thread, kept; nothing is shared, and nothing runs between calls."""
    kept = threading.local()

    def call() -> int:
        if not hasattr(kept, "loop"):
            kept.loop = asyncio.new_event_loop()
        result: int = kept.loop.run_until_complete(once())
        return result

    return call


def run_sync() -> Callable[[], Any]:
    import sidecar

    return lambda: sidecar.run_sync(once())


def asgiref() -> Callable[[], Any]:
    from asgiref.sync import async_to_sync

    return async_to_sync(once)


CALLS: dict[str, Callable[[], Callable[[], Any]]] = {
    "run_sync": run_sync,
    "stepped": lambda: stepped,
    "threadsafe": threadsafe,
    "private": private_loop,
    "asgiref": asgiref,
}
call = CALLS[KIND]() if KIND in CALLS else None


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if call is not None:
        call()
    start_response("200 OK", HEADERS)
    return [b"ok"]
