"""The places a function may be called from: sync code, asyncio, a bridge's coroutine, Trio."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Callable
from typing import Any

import pytest
from harness import wait_for

import sidecar

LONG = 30.0

HAS_TRIO = importlib.util.find_spec("trio") is not None


class Land:
    """``run(make)`` calls ``make`` in it, and awaits what it gives where that is how a result comes."""

    name = "sync"

    def run(self, make: Callable[[], Any]) -> Any:
        return make()

    async def sleep(self, seconds: float) -> None:
        """In an async function that is called from here."""
        await asyncio.sleep(seconds)


class AsyncioLand(Land):
    name = "asyncio"

    def run(self, make: Callable[[], Any]) -> Any:
        async def main() -> Any:
            return await make()

        return asyncio.run(main())


class BridgeLand(Land):
    name = "bridge"

    def run(self, make: Callable[[], Any]) -> Any:
        async def main() -> Any:
            return await make()

        return sidecar.run_sync(main())


class TrioLand(Land):
    name = "trio"

    def run(self, make: Callable[[], Any]) -> Any:
        import trio

        async def main() -> Any:
            return await make()

        return trio.run(main)

    async def sleep(self, seconds: float) -> None:
        import trio

        await trio.sleep(seconds)


LANDS: list[Land] = [Land(), AsyncioLand(), BridgeLand(), TrioLand()]

_needs_trio = pytest.mark.skipif(not HAS_TRIO, reason="Trio is not installed")


def every_land(but: str = "") -> pytest.MarkDecorator:
    lands = [
        pytest.param(land, id=land.name, marks=[_needs_trio] if land.name == "trio" else [])
        for land in LANDS
        if land.name not in but.split()
    ]
    return pytest.mark.parametrize("land", lands)


class Gate:
    """A sync function that tells that it runs, and goes on when it is told to."""

    def __init__(self, result: object = "through", error: BaseException | None = None) -> None:
        self.running = threading.Event()
        self.released = threading.Event()
        self.over = threading.Event()
        self.thread = ""
        self._result = result
        self._error = error

    def block(self) -> object:
        self.thread = threading.current_thread().name
        self.running.set()
        try:
            assert self.released.wait(LONG)
            if self._error is not None:
                raise self._error
            return self._result
        finally:
            self.over.set()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        if self.running.is_set():
            wait_for(self.over.is_set, "the released function has ended")
