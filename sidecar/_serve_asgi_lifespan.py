"""An ASGI application's lifespan on a worker's bridge: from the bridge's start to its drain."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from sidecar import _core
from sidecar._lifespan import on_worker_start, on_worker_stop
from sidecar._serve_asgi_scope import ASGI
from sidecar._support import logger

if TYPE_CHECKING:
    _App = Callable[[MutableMapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Any]

__all__ = ["Life", "Lifespan"]

# How a worker says that it cannot start: gunicorn stops then, and so does uWSGI with need-app and lazy-apps.
_BOOT_FAILED = {"uwsgi": 22, "gunicorn": 3}


class Life:
    """One worker's: what its lifespan has made, and which applications run.

    failure: why there is none; requests are refused with it.
    running: the cycles of requests, and of what follows their responses.
    """

    def __init__(self, bridge: Any) -> None:
        self.bridge = bridge
        self.state: dict[str, Any] = {"sidecar": bridge}
        self.cleanup: float = bridge._cleanup_timeout
        self.running: set[Any] = set()
        self.closing = False
        self.failure: str | None = None
        self.started: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.stopped: asyncio.Event = asyncio.Event()
        self.messages: asyncio.Queue[str] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None

    # -- on the loop --

    async def begin(self, app: _App) -> None:
        """Until the application has started up, or has said that it knows no lifespan."""
        self.messages.put_nowait("lifespan.startup")
        # Not by the loop, which would count it among the tasks that calls have left behind: while there are any,
        # the main thread does not drive. This one sleeps between startup and shutdown.
        self.task = asyncio.Task(self._run(app), loop=asyncio.get_running_loop())
        if not await self.started:
            self.task.cancel()  # one that has failed may still wait for its shutdown
            await asyncio.wait({self.task})
            self.task = None

    async def finish(self) -> None:
        """After the last request: have it shut down."""
        if self.task is not None and not self.task.done():
            self.messages.put_nowait("lifespan.shutdown")
            stopped = asyncio.ensure_future(self.stopped.wait())
            await asyncio.wait({self.task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()

    async def _run(self, app: _App) -> None:
        scope = {"type": "lifespan", "asgi": ASGI.copy(), "state": self.state}
        try:
            await app(scope, self._receive, self._send)
        except Exception as error:
            if self.started.done():
                logger.error("the ASGI application's lifespan failed", exc_info=error)
            else:
                # The specification's way to say that it is not supported.
                logger.info("the ASGI application has no lifespan: %s: %s", type(error).__name__, error)
        finally:
            if not self.started.done():
                self.started.set_result(False)
            self.stopped.set()

    async def _receive(self) -> dict[str, Any]:
        return {"type": await self.messages.get()}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        kind = message["type"]
        if kind not in (
            "lifespan.startup.complete",
            "lifespan.startup.failed",
            "lifespan.shutdown.complete",
            "lifespan.shutdown.failed",
        ):
            raise RuntimeError(f"unexpected ASGI message {kind!r} in a lifespan")
        of_startup = kind.startswith("lifespan.startup")
        if of_startup == self.started.done():
            raise RuntimeError(f"unexpected ASGI message {kind!r}: it comes out of turn")
        if kind == "lifespan.startup.failed":
            self.failure = str(message.get("message") or "it gave no reason")
        elif kind == "lifespan.shutdown.failed":
            logger.error("the ASGI application's shutdown failed: %s", message.get("message") or "it gave no reason")
        if of_startup:
            self.started.set_result(self.failure is None)
        else:
            self.stopped.set()


class Lifespan:
    """Of one application in this process: it is run anew by each of its bridges, also in the child of a fork."""

    def __init__(self, app: _App) -> None:
        self._app = app
        self._forget()
        _all.add(self)
        # The last one registered stops first: requests and background tasks end before the lifespan does.
        on_worker_stop(self.shut_down)
        on_worker_stop(self.finish_responses)
        on_worker_start(self.start_up)

    def _forget(self) -> None:
        self.life: Life | None = None
        self._begun = threading.Event()

    async def start_up(self) -> None:
        life = Life(_core.get_bridge())
        try:
            await life.begin(self._app)
        except BaseException:
            life.failure = "it was interrupted"
            raise
        finally:
            self.life = life
            self._begun.set()
        if life.failure is not None:
            logger.error("the ASGI application could not start: %s", life.failure)
            for server, code in _BOOT_FAILED.items():
                if server in sys.modules:
                    raise SystemExit(code)

    async def finish_responses(self) -> None:
        life = self.life
        if life is not None and life.running:
            loop = asyncio.get_running_loop()
            ends = []
            for cycle in life.running:
                cycle.end = loop.create_future()
                ends.append(cycle.end)
            await asyncio.wait(ends)

    async def shut_down(self) -> None:
        life = self.life
        self._forget()
        if life is not None:
            life.closing = True
            await life.finish()

    def wait(self) -> Life:
        """On a request's thread: the worker's, started up."""
        life = self.life
        if life is None:
            bridge = _core.get_bridge().start()
            # Another thread may have started it, and run the startup.
            while not self._begun.wait(0.1) and bridge.is_running():
                pass
            life = self.life
            if life is None:
                raise RuntimeError("the worker is being shut down")
        if life.failure is not None:
            raise RuntimeError(f"the ASGI application could not start: {life.failure}")
        return life


_all: weakref.WeakSet[Lifespan] = weakref.WeakSet()


def _forget_all() -> None:
    for lifespan in list(_all):
        lifespan._forget()


os.register_at_fork(after_in_child=_forget_all)
