"""``a2wsgi.asgi``: an ASGI application for a server of WSGI, on the worker's bridge.

Unlike ``sidecar.adapters.ASGIApp`` it runs no lifespan, makes no request scope, shows WSGI's environ in the scope,
answers an application's error itself, and holds the end of a response back until the application has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sidecar import _core
from sidecar._core import run_sync
from sidecar._serve_asgi_cycle import END, ERROR, NO_BODY, READ, Cycle
from sidecar._serve_asgi_lifespan import Life, Lifespan
from sidecar._serve_asgi_scope import status_line
from sidecar.errors import SidecarError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

    from sidecar.compat.a2wsgi.asgi_typing import ASGIApp, HTTPScope, Receive, Scope, Send

__all__ = ["ASGIMiddleware", "build_scope"]

_FAILED = b"Server got itself in trouble"


class ASGIMiddleware:
    """A WSGI application around one of ASGI.

    wait_time: seconds that the application may go on after its response before it is cancelled; ``None``: any number.
    loop: one that runs elsewhere, and that the application is run on; ``None``: the worker's bridge.
    """

    def __init__(
        self, app: ASGIApp, wait_time: float | None = None, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self.app = app
        self.wait_time = wait_time
        self._given_loop = loop
        self._run: Any = app if loop is None else _Elsewhere(app, loop)
        self._lifespan = _no_lifespan()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._given_loop or _core.get_bridge().get_loop()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        cycle = Cycle(self._run, environ, self._lifespan.wait())
        cycle.scope["wsgi_environ"] = environ
        event = cycle.run()
        while event is READ:
            event = run_sync(cycle.feed(cycle.read()))
        if event is ERROR:
            return _answer_failed(cycle, start_response)
        headers = cycle.headers
        if event is not END:
            start_response(status_line(cycle.status), headers)
            return _Body(cycle, event, self.wait_time)
        if not cycle.has_length and cycle.status not in NO_BODY:
            headers.append(("content-length", str(len(cycle.last))))
        start_response(status_line(cycle.status), headers)
        body = b"" if cycle.mute else cycle.last
        return [body] if cycle.task is None else _Body(cycle, body, self.wait_time, True)


class _Body:
    """The parts of a response as they come; then the application's end is waited for."""

    def __init__(self, cycle: Cycle, first: bytes, wait_time: float | None, complete: bool = False) -> None:
        self._cycle = cycle
        self._first: bytes | None = first
        self._wait_time = wait_time
        self._complete = complete
        self._over = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._over:
            raise StopIteration
        cycle = self._cycle
        event: Any = END if self._complete else cycle.events.popleft() if cycle.events else run_sync(cycle.next())
        while event is READ:
            event = run_sync(cycle.feed(cycle.read()))
        if event is END:
            self._over = True
            self._wait()
            raise StopIteration
        if event is ERROR:
            self._over = True
            raise _taken_error(cycle)
        part: bytes = event
        return part

    def _wait(self) -> None:
        task = self._cycle.task
        if task is not None:
            run_sync(_wait_for(task, self._wait_time))

    def close(self) -> None:
        """Before the end: nobody takes the rest, and the application is cancelled."""
        if not self._over:
            self._over = True
            try:
                run_sync(self._cycle.cut_off())
            except SidecarError:
                pass  # it has ended otherwise, by the request's deadline, say


async def _wait_for(task: asyncio.Task[Any], seconds: float | None) -> None:
    _, pending = await asyncio.wait({task}, timeout=seconds)
    if pending:
        task.cancel()


def _taken_error(cycle: Cycle) -> BaseException:
    error, cycle.error = cycle.error, None
    assert error is not None
    return error


def _answer_failed(cycle: Cycle, start_response: StartResponse) -> list[bytes]:
    error = _taken_error(cycle)
    if not isinstance(error, Exception) or isinstance(error, SidecarError):
        raise error  # the request's deadline, say, which has an answer of its own
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(_FAILED)))]
    assert error.__traceback__ is not None
    start_response("500 Internal Server Error", headers, (type(error), error, error.__traceback__))
    return [b"" if cycle.mute else _FAILED]


class _Elsewhere:
    """The application on another loop. What it receives and sends goes to and fro."""

    def __init__(self, app: ASGIApp, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._loop = loop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ours = asyncio.get_running_loop()

        async def receive_here() -> Any:
            return await _on(ours, receive())

        async def send_here(message: Any) -> None:
            await _on(ours, send(message))

        await _on(self._loop, self._app(scope, receive_here, send_here))


def _on(loop: asyncio.AbstractEventLoop, awaitable: Awaitable[Any]) -> asyncio.Future[Any]:
    async def run() -> Any:
        return await awaitable

    return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), loop))


# -- no lifespan -----------------------------------------------------------------------


class _NoLifespan(Lifespan):
    """What a worker's requests need of one."""

    async def start_up(self) -> None:
        bridge = _core.get_bridge()
        if self.life is None or self.life.bridge is not bridge:
            self.life = Life(bridge)

    def wait(self) -> Life:
        life = self.life
        if life is None or life.bridge is not _core.get_bridge():
            run_sync(self.start_up())
            life = self.life
            assert life is not None
        return life


_shared: list[_NoLifespan] = []


def _no_lifespan() -> _NoLifespan:
    """All of these applications have one: it holds nothing of theirs."""
    if not _shared:
        _shared.append(_NoLifespan(_never_called))
    return _shared[0]


async def _never_called(scope: Any, receive: Any, send: Any) -> None:
    raise NotImplementedError


# -- the scope -------------------------------------------------------------------------


def build_scope(environ: dict[str, Any]) -> HTTPScope:
    """The scope of a request, and in it the environ that it is made of."""
    scope: Any = Cycle(_never_called, {"wsgi.input": None, **environ}, _Nothing()).scope
    del scope["state"]
    scope["wsgi_environ"] = environ
    if scope["client"] is None:
        del scope["client"]
    found: HTTPScope = scope
    return found


class _Nothing:
    """A life for a scope that no application is called with."""

    def __init__(self) -> None:
        self.bridge = _core.get_bridge()
        self.state: dict[str, Any] = {}
        self.running: set[Any] = set()
