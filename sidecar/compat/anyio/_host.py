"""The thread behind ``start_blocking_portal()``, and the loop it runs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import importlib
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sidecar._bridge import Sidecar

if TYPE_CHECKING:
    from sidecar.compat.anyio.from_thread import BlockingPortal

_Factory = Callable[[], asyncio.AbstractEventLoop]


def open_host(
    portal: BlockingPortal, backend: str, options: dict[str, Any], name: str | None
) -> Callable[[bool], None]:
    """Start it and wait for its portal to be open. Returns what ends it, told whether to cancel what runs."""
    if backend == "trio":
        raise LookupError(
            "No such backend: trio. sidecar.compat.anyio has asyncio's; "
            "for Trio use anyio.from_thread.start_blocking_portal()"
        )
    if backend != "asyncio":
        raise LookupError(f"No such backend: {backend}")
    factory, debug = _factory(options), bool(options.get("debug", False))
    name = name or f"asyncio-portal-{id(portal):x}"
    ready: concurrent.futures.Future[None] = concurrent.futures.Future()

    def target() -> None:
        try:
            if bridge is not None:
                _run_bridge(bridge, portal, debug, ready)
            elif factory is not None:
                _run_loop(factory, portal, debug, ready)
        finally:
            over.set()

    # Before CPython 3.13 a join() that an exception interrupts takes its thread for dead.
    over = threading.Event()

    bridge = portal._bridge = Sidecar(name=name) if factory is None else None
    # Not in the context of the request that happened to open it.
    thread = threading.Thread(target=contextvars.Context().run, args=(target,), name=name, daemon=True)
    thread.start()

    def stop(cancel: bool) -> None:
        loop = portal._loop
        try:
            if loop is not None:
                loop.call_soon_threadsafe(lambda: loop.create_task(portal.stop(cancel)))
        except RuntimeError:
            pass  # it is closed

    def close(cancel: bool) -> None:
        if portal._pid != os.getpid():
            return  # the thread is the parent's
        try:
            stop(cancel)
            over.wait()
        except BaseException:  # a signal handler has raised
            stop(True)
            over.wait()
            raise
        finally:
            thread.join()

    try:
        ready.result()
    except BaseException:
        ready.add_done_callback(lambda _: stop(True))  # a signal handler has raised before it was open
        raise
    return close


def _factory(options: dict[str, Any]) -> _Factory | None:
    """``None`` for the bridge's loop."""
    factory: _Factory | None = options.get("loop_factory")
    if factory is None and options.get("use_uvloop"):
        factory = importlib.import_module("winloop" if sys.platform == "win32" else "uvloop").new_event_loop
    return factory


async def _serve(portal: BlockingPortal, debug: bool, ready: concurrent.futures.Future[None]) -> None:
    if debug:
        asyncio.get_running_loop().set_debug(True)
    async with portal:
        ready.set_result(None)
        await portal.sleep_until_stopped()


def _run_bridge(
    bridge: Sidecar, portal: BlockingPortal, debug: bool, ready: concurrent.futures.Future[None]
) -> None:
    """This thread's call lasts as long as the portal is open, so this thread drives the loop all that time.

    A thread with a tracer's hook would run no coroutines but its own, and leave the others to one without: a debugger
    or a coverage tool would not see them. So the call begins without hooks, and they come back with its first step.
    """
    tracer, profiler = sys.gettrace(), sys.getprofile()

    async def with_hooks() -> None:
        sys.setprofile(profiler)
        sys.settrace(tracer)
        await _serve(portal, debug, ready)

    sys.settrace(None)
    sys.setprofile(None)
    try:
        _run(lambda: bridge.run_sync(with_hooks()), ready)
    finally:
        bridge.shutdown()


def _run_loop(
    factory: _Factory, portal: BlockingPortal, debug: bool, ready: concurrent.futures.Future[None]
) -> None:
    if sys.version_info >= (3, 11):
        with asyncio.Runner(debug=debug, loop_factory=factory) as runner:
            _run(lambda: runner.run(_serve(portal, debug, ready)), ready)
        return
    loop = factory()
    try:
        loop.set_debug(debug)
        asyncio.set_event_loop(loop)
        _run(lambda: loop.run_until_complete(_serve(portal, debug, ready)), ready)
    finally:
        try:
            _wind_up(loop)
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _run(serve: Callable[[], None], ready: concurrent.futures.Future[None]) -> None:
    try:
        serve()
    except BaseException as error:
        if not ready.done():
            ready.set_exception(error)
        # Else: cancelled from outside, at the end of the process. What the portal ran has told its callers.


def _wind_up(loop: asyncio.AbstractEventLoop) -> None:
    """What ``asyncio.run()`` does at its end."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
