"""The kinds of threads that call a bridge, and what tells on which of them it is: for the tests of ``to_caller``."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sidecar
from sidecar import to_caller

LONG = 30.0

KINDS = ["main", "thread", "pool", "foreign loop"]

Where = Callable[[Callable[[], Any]], Any]


def run_on(kind: str, bridge: sidecar.Sidecar, function: Callable[[], Any]) -> Any:
    """What the function returns on a thread of that kind."""
    if kind == "main":
        return function()
    if kind == "pool":
        return bridge.submit(function).result(LONG)
    if kind == "foreign loop":

        async def main() -> Any:
            return function()

        return asyncio.run(main())
    outcome: list[Any] = []
    thread = threading.Thread(target=lambda: outcome.append(function()))
    thread.start()
    thread.join(LONG)
    return outcome[0]


async def whose() -> int:
    """The thread that waits for this."""
    await asyncio.sleep(0)
    found: int = await to_caller(threading.get_ident)
    return found


@pytest.fixture
def bridge() -> Iterator[sidecar.Sidecar]:
    with sidecar.Sidecar(workers=2, name="callers", cleanup_timeout=0.1) as bridge:
        yield bridge


@pytest.fixture(params=KINDS)
def where(request: pytest.FixtureRequest, bridge: sidecar.Sidecar) -> Where:
    """Runs a function on a thread of that kind."""
    return functools.partial(run_on, request.param, bridge)
