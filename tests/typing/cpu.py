"""What ``run_cpu`` and ``map`` return, to a type checker."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Generator
from typing import TYPE_CHECKING

from typing_extensions import assert_type

import sidecar

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any


def area(width: int, height: float = 1.0) -> float:
    return width * height


def blocking(bridge: sidecar.Sidecar) -> None:
    assert_type(sidecar.run_cpu(area, 2, height=3.0), float)
    assert_type(bridge.run_cpu(area, 2), float)
    sidecar.run_cpu(area, "2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    sidecar.run_cpu(area)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def waiting(bridge: sidecar.Sidecar) -> None:
    assert_type(await bridge.run_cpu.aio(area, 2), float)


def later(bridge: sidecar.Sidecar) -> None:
    assert_type(bridge.run_cpu.future(area, 2), concurrent.futures.Future[float])
    coroutine: Coroutine[Any, Any, float] = bridge.run_cpu.aio(area, 2)
    coroutine.close()


def batches(bridge: sidecar.Sidecar) -> None:
    assert_type(bridge.map(area, [1, 2], in_flight=3), Generator[float, None, None])
    bridge.map(area, ["1"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def counts(bridge: sidecar.Sidecar) -> None:
    stats = bridge.stats()
    assert_type(stats["cpu"], str)
    assert_type(stats["cpu_orphans"], int)
