"""Measure ``sidecar.compat.anyio`` against ``anyio.from_thread``; print tables.

Both do the same work in one process, in turn, in an order shuffled anew each round; a figure is the median of the
rounds, in microseconds an operation, "of it" that of the rounds' own ratios to anyio's. anyio is imported, so the
tasks of both have its cancel scopes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import anyio.from_thread
import bridge_case
from bridge_case import Case, Measure, Opened, Sampler, Taken, stopwatch

import sidecar.compat.anyio

MODULES: dict[str, Any] = {"anyio": anyio.from_thread, "sidecar.compat.anyio": sidecar.compat.anyio}
AT_ONCE = 100

Work = Callable[[Any, int], None]


async def number() -> int:
    return 1


async def hop() -> int:
    await asyncio.sleep(0)
    return 1


class Manager:
    async def __aenter__(self) -> int:
        return 1

    async def __aexit__(self, *exc_info: object) -> None: ...


async def ready(*, task_status: Any) -> None:
    task_status.started(1)


def call_function(portal: Any, times: int) -> None:
    for _ in range(times):
        portal.call(int)


def call_number(portal: Any, times: int) -> None:
    for _ in range(times):
        portal.call(number)


def call_hop(portal: Any, times: int) -> None:
    for _ in range(times):
        portal.call(hop)


def soon(portal: Any, times: int) -> None:
    for _ in range(times):
        portal.start_task_soon(number).result()


def soon_at_once(portal: Any, times: int) -> None:
    for _ in range(times // AT_ONCE):
        futures = [portal.start_task_soon(number) for _ in range(AT_ONCE)]
        if [future.result() for future in futures] != [1] * AT_ONCE:
            raise AssertionError


def start_task(portal: Any, times: int) -> None:
    for _ in range(times):
        future, _ = portal.start_task(ready)
        future.result()


def managed(portal: Any, times: int) -> None:
    for _ in range(times):
        with portal.wrap_async_context_manager(Manager()):
            pass


def call_async(portal: Any, times: int) -> None:
    async def main() -> None:
        for _ in range(times):
            await portal.call_async(number)

    asyncio.run(main())


def timed(work: Work, portal: Any) -> Sampler:
    def sample(times: int) -> dict[str, Taken]:
        watch = stopwatch()
        work(portal, times)
        return {"": watch()}

    return sample


@contextlib.contextmanager
def through_open(work: Work, title: str, unit: int) -> Iterator[Opened]:
    with contextlib.ExitStack() as stack:
        portals = {name: stack.enter_context(each.start_blocking_portal()) for name, each in MODULES.items()}
        samplers = {name: timed(work, portal) for name, portal in portals.items()}
        yield Opened(samplers, "anyio", {"": Measure(title, {"sidecar.compat.anyio": 1.0})}, unit)


def open_and_call(module: Any, times: int) -> None:
    for _ in range(times):
        with module.start_blocking_portal() as portal:
            portal.call(number)


@contextlib.contextmanager
def opening() -> Iterator[Opened]:
    samplers = {name: timed(open_and_call, module) for name, module in MODULES.items()}
    yield Opened(samplers, "anyio", {"": Measure("open a portal, one call", {"sidecar.compat.anyio": 1.0})})


def case(name: str, work: Work, title: str, unit: int = 1) -> Case:
    return Case(name, title, lambda: through_open(work, title, unit))


CASES = [
    case("function", call_function, "portal.call(a function)"),
    case("call", call_number, "portal.call(a coroutine that does not wait)"),
    case("hop", call_hop, "portal.call(a coroutine that waits once)"),
    case("soon", soon, "portal.start_task_soon(...).result()"),
    case("soon-100", soon_at_once, "portal.start_task_soon, 100 at once", AT_ONCE),
    case("start", start_task, "portal.start_task(...)"),
    case("managed", managed, "with portal.wrap_async_context_manager(...)"),
    Case("open", "open a portal, one call", opening),
]
if hasattr(anyio.from_thread.BlockingPortal, "call_async"):
    CASES.append(case("async", call_async, "await portal.call_async(...) from another loop"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each case (default: 20)")
    parser.add_argument("--slice", type=float, default=0.05, help="seconds of a sample (default: 0.05)")
    parser.add_argument(
        "--only", action="append", choices=[each.name for each in CASES], help="may be repeated"
    )
    arguments = parser.parse_args()
    print(f"CPython {platform.python_version()}, {os.cpu_count()} cores; anyio {version('anyio')}")
    for each in CASES:
        if not arguments.only or each.name in arguments.only:
            bridge_case.run(each, arguments.rounds, arguments.slice)


if __name__ == "__main__":
    main()
