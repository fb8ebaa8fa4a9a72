"""Measure ``sidecar.compat.asgiref`` against asgiref; print tables.

``async_to_sync`` from blocking code, ``sync_to_async`` from asyncio's own loop, from ``sidecar.Loop``, and from a
bridge's, both nested, contexts, and ``Local``. The functions do nothing: what is measured is the way there and back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import asgiref.local
import asgiref.sync
import compat_case
from compat_case import CALL, SLOWER_NEVER, TO_ASYNC, Work, case, repeated

import sidecar
import sidecar.compat.asgiref.local
import sidecar.compat.asgiref.sync

OURS: Any = sidecar.compat.asgiref
AT_ONCE = 200

Main = Coroutine[Any, Any, None]
Run = Callable[[Main], object]


def work() -> int:
    return 1


async def number() -> int:
    return 1


async def turn() -> int:
    await asyncio.sleep(0)
    return 1


# -- loops to call from ------------------------------------------------------------------


@contextlib.contextmanager
def asyncio_loop() -> Iterator[Run]:
    loop = asyncio.new_event_loop()
    yield loop.run_until_complete
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@contextlib.contextmanager
def sidecar_loop() -> Iterator[Run]:
    loop = sidecar.Loop()
    yield loop.run_until_complete
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@contextlib.contextmanager
def bridge_loop() -> Iterator[Run]:
    yield lambda main: sidecar.submit(main).result()


LOOPS = {"asyncio": asyncio_loop, "loop": sidecar_loop, "bridge": bridge_loop}

# -- what is done ---------------------------------------------------------------------------


def blocking(make: Callable[[Any], Callable[[], object]]) -> Any:
    @contextlib.contextmanager
    def pair() -> Iterator[tuple[Work, Work]]:
        yield repeated(make(OURS)), repeated(make(asgiref))

    return pair


def awaited(loop: str, make: Callable[[Any], Callable[[], Coroutine[Any, Any, object]]], unit: int = 1) -> Any:
    async def again(call: Callable[[], Coroutine[Any, Any, object]], times: int) -> None:
        for _ in range(times // unit):
            await call()

    @contextlib.contextmanager
    def pair() -> Iterator[tuple[Work, Work]]:
        ours, theirs = make(OURS), make(asgiref)
        with LOOPS[loop]() as run:
            yield lambda times: run(again(ours, times)), lambda times: run(again(theirs, times))

    return pair


def inside(module: Any) -> Callable[[], Coroutine[Any, Any, object]]:
    call: Any = module.sync.sync_to_async(lambda: module.sync.async_to_sync(number)())
    return call  # type: ignore[no-any-return]


def in_context(module: Any) -> Callable[[], Coroutine[Any, Any, object]]:
    call = module.sync.sync_to_async(work)

    async def request() -> None:
        async with module.sync.ThreadSensitiveContext():
            await call()

    return request


def at_once(module: Any) -> Callable[[], Coroutine[Any, Any, object]]:
    call = module.sync.sync_to_async(work)

    async def many() -> None:
        await asyncio.gather(*(call() for _ in range(AT_ONCE)))

    return many


@contextlib.contextmanager
def on_the_waiting_thread() -> Iterator[tuple[Work, Work]]:
    def make(module: Any) -> Work:
        call = module.sync.sync_to_async(work)

        @module.sync.async_to_sync
        async def again(times: int) -> None:
            for _ in range(times):
                await call()

        return again  # type: ignore[no-any-return]

    yield make(OURS), make(asgiref)


def local(module: Any) -> Callable[[], object]:
    data = module.local.Local()

    def use() -> None:
        data.value = 1
        data.value  # noqa: B018

    return use


def from_each_loop() -> list[compat_case.Case]:
    found = []
    for loop in LOOPS:
        there = f"from {loop}"

        def add(name: str, what: str, make: Any, target: float, unit: int = 1, loop: str = loop) -> None:
            found.append(case(f"{name}-{loop}", what, "asgiref", awaited(loop, make, unit), target, unit))

        add("sensitive", f"sync_to_async, {there}", lambda m: m.sync.sync_to_async(work), TO_ASYNC)
        add("any", f"the same, not thread-sensitive, {there}", _any, TO_ASYNC)
        add("at-once", f"{AT_ONCE} at once, {there}", at_once, TO_ASYNC, AT_ONCE)
        add("context", f"in a ThreadSensitiveContext, {there}", in_context, SLOWER_NEVER)
        add("nested", f"async_to_sync in sync_to_async, {there}", inside, SLOWER_NEVER)
    return found


def _any(module: Any) -> Any:
    return module.sync.sync_to_async(work, thread_sensitive=False)


def forced(module: Any) -> Any:
    return module.sync.async_to_sync(number, force_new_loop=True)


CASES = [
    case("call", "async_to_sync", "asgiref", blocking(lambda m: m.sync.async_to_sync(number)), CALL),
    case("turn", "the same, with a wait", "asgiref", blocking(lambda m: m.sync.async_to_sync(turn)), CALL),
    case("forced", "with force_new_loop", "asgiref", blocking(forced), SLOWER_NEVER),
    case("waiting", "sync_to_async to the waiting thread", "asgiref", lambda: on_the_waiting_thread(), TO_ASYNC),
    *from_each_loop(),
    case("local", "Local, set and get", "asgiref", blocking(local), SLOWER_NEVER),
]

if __name__ == "__main__":
    compat_case.main(__doc__, "asgiref", CASES)
