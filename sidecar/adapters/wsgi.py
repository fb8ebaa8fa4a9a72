"""A WSGI application for a server of ASGI."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from sidecar import _core
from sidecar._bridge import Sidecar, is_running, shutdown
from sidecar._support import logger, native_lock, start_thread
from sidecar.adapters.environ import build_environ
from sidecar.adapters.exchange import Exchange

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from sidecar._core import Policy

__all__ = ["WSGIApp"]

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_NO_WEBSOCKETS = b"This application takes no WebSockets.\n"


class WSGIApp:
    """An ASGI 3 application around one of WSGI, which runs on threads of a bridge's pool.

    app: called for each request, on a thread that it has until its body's ``close()``.
    threads: so many of its own, in a bridge of its own; ``None``: those of ``bridge``.
    bridge: whose pool it is; ``None``: this process's own.
    policy: of the request scope that each request gets, as of ``sidecar.ASGIMiddleware``.

    What comes on top of the pool's threads waits in its queue; what does not get into that is ``QueueFull``, a 503.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        threads: int | None = None,
        bridge: Sidecar | None = None,
        policy: Policy | None = None,
    ) -> None:
        if not callable(app):
            raise TypeError(f"a WSGI application is a callable with environ and start_response, not {app!r}")
        if threads is not None and bridge is not None:
            raise TypeError("threads= are of a bridge of the adapter's own, bridge= names another one")
        if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
            raise ValueError(f"threads must be a whole number from 1 on, or None, not {threads!r}")
        self.app = app
        self._bridge = bridge
        self._own = None if threads is None else _OwnBridge(threads)
        self._asgi = _core.ASGIMiddleware(self._serve, **({} if policy is None else {"policy": policy}))
        self._has_refused = False

    def __repr__(self) -> str:
        return f"<sidecar.adapters.WSGIApp around {self.app!r}>"

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        await self._asgi(scope, receive, send)

    async def _serve(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._serve_http(scope, receive, send)
        elif kind == "lifespan":
            await self._live(receive, send)
        elif kind == "websocket":
            await self._refuse(scope, receive, send)
        else:
            raise ValueError(f"sidecar.adapters.WSGIApp serves http; it knows no scope of type {kind!r}")

    async def _serve_http(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        exchange = Exchange(self.app, scope, receive, send)
        await exchange.run(self._pool_of(), build_environ(scope, exchange.body))

    def _pool_of(self) -> Sidecar:
        if self._own is not None:
            return self._own.bridge()
        return self._bridge or _core.get_bridge()

    # -- what is no request --

    async def _live(self, receive: _Receive, send: _Send) -> None:
        """The worker's bridge begins and ends with the server: nobody else here would drain it in time."""
        await receive()
        try:
            await asyncio.to_thread(_core.get_bridge().start)
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self._own is not None:
            await asyncio.to_thread(self._own.shutdown)
        if is_running():
            await asyncio.to_thread(shutdown)
        await send({"type": "lifespan.shutdown.complete"})

    async def _refuse(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if not self._has_refused:
            self._has_refused = True
            logger.warning("WebSockets are not served by a WSGI application; they are refused")
        await receive()
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1000})  # the server answers with 403
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(_NO_WEBSOCKETS))]
        await send({"type": "websocket.http.response.start", "status": 501, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": _NO_WEBSOCKETS})


class _OwnBridge:
    """For its pool; it begins with the first request, and anew after a shutdown."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._lock = native_lock()
        self._present: tuple[Sidecar, weakref.finalize[Any, Any]] | None = None

    def bridge(self) -> Sidecar:
        present = self._present
        return self._make() if present is None else present[0]

    def _make(self) -> Sidecar:
        with self._lock:
            if self._present is None:
                bridge = Sidecar(workers=self._threads, name="WSGI")
                self._present = bridge, weakref.finalize(self, _drop, bridge)
                self._present[1].atexit = False  # which ends all bridges in order
            return self._present[0]

    def shutdown(self) -> None:
        present, self._present = self._present, None
        if present is not None:
            present[1].detach()
            present[0].shutdown()


def _drop(bridge: Sidecar) -> None:
    """Its adapter is gone, on whatever thread, inside anything: end it somewhere else."""
    if bridge.is_running():
        start_thread(bridge.shutdown, "WSGI-close")
