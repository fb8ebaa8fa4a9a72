"""Under gevent's monkey patches: a greenlet that waits lets its hub run, and the loop keeps to native threads.

The bridge's pump runs every coroutine, on a thread that has no hub. What asyncio makes and waits on there is
what the interpreter had before it was patched.
"""

from __future__ import annotations

import _socket
import asyncio
import concurrent.futures
import importlib
import os
import socket
import threading
import types
import weakref
from asyncio import base_events, selector_events, unix_events
from collections.abc import Callable
from typing import Any, NoReturn

from sidecar import _core, _submit
from sidecar._loop import BridgeLoop
from sidecar.errors import BridgeClosedError, DeadlockError

# By name: gevent has no types, and may be absent where ours are checked.
monkey = importlib.import_module("gevent.monkey")
get_hub = importlib.import_module("gevent.hub").get_hub
Waiter = importlib.import_module("gevent.hub").Waiter
get_hub_if_exists = importlib.import_module("gevent._hub_local").get_hub_if_exists
getcurrent = importlib.import_module("greenlet").getcurrent

__all__ = ["Future", "GeventLoop", "GreenletWait", "leave_thread", "make_loop"]

# gevent takes a hub without a timer or a descriptor to watch for deadlocked; native threads it does not see.
_A_YEAR = 365 * 86400.0


def _hub_here() -> Any:
    """The hub whose greenlets this thread would hold up; ``None`` where it has none, or drives a bridge's loop.

    A coroutine may have run patched code, which has made a hub on the loop's thread; nobody waits in that one.
    """
    if isinstance(asyncio._get_running_loop(), GeventLoop):
        return None
    hub = get_hub_if_exists()
    if hub is None and threading.get_native_id() == os.getpid():
        return get_hub()
    return hub


# -- waiting --------------------------------------------------------------------


class GreenletWait:
    """How one greenlet waits for one call (``core/greenlet.h``): ``wake()`` on any thread, the rest on the hub's.

    What the hub runs to resume the greenlet is C code only, which no signal handler can cut short.
    """

    __slots__ = ("__weakref__", "_error", "_waiter", "hub", "loop")

    def __init__(self, hub: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.hub = hub
        self.loop = loop
        self._waiter = Waiter(hub)
        self._error: BaseException | None = None

    def wait(self, seconds: float | None) -> None:
        if self._error is None:
            timer = self.hub.loop.timer(_A_YEAR if seconds is None else seconds)
            try:
                _waits.add(self)
                timer.start(self._waiter.switch, None)
                self._waiter.get()
            finally:
                timer.close()
                _waits.discard(self)
                self._waiter.clear()
        if self._error is not None:
            raise self._error

    def wake(self) -> None:
        # If it comes before the wait, the hub runs the callback as soon as the wait has begun.
        hub_loop = self.hub.loop
        if hub_loop is not None:
            hub_loop.run_callback_threadsafe(self._waiter.switch, None)

    def give_up(self, error: BaseException) -> None:
        """End this wait, and all that follow in the same call, with ``error``."""
        self._error = error
        self.wake()


_waits: weakref.WeakSet[GreenletWait] = weakref.WeakSet()


def _begin_wait(loop: asyncio.AbstractEventLoop) -> GreenletWait | None:
    """For the core: how the calling greenlet waits. ``None`` on a thread without a hub, which just sleeps."""
    hub = _hub_here()
    if hub is None:
        return None
    if getcurrent() is hub:
        raise DeadlockError(
            "a callback of gevent's hub must not wait for a coroutine: no greenlet could run meanwhile. "
            f"Have it spawn a greenlet that does: gevent.spawn(run_sync, ...) [{DeadlockError.code}]"
        )
    return GreenletWait(hub, loop)


def _wake_in_child() -> None:
    """Greenlets live on in the child of a fork: each that waits sees there that its loop stayed behind."""
    here = get_hub_if_exists()
    for wait in list(_waits):
        if wait.hub is here:
            wait.wake()


os.register_at_fork(after_in_child=_wake_in_child)


# -- what asyncio uses on native threads ----------------------------------------


class Future(concurrent.futures.Future):  # type: ignore[type-arg]
    """A pool job's future. Greenlets may wait for it, so it is settled on the thread of their hub.

    Its own lock is a native one, held for moments. What ``result()`` and ``wait()`` sleep on is gevent's, whose
    sleepers may not hear of a release on another native thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self._condition = threading.Condition(_native_rlock())
        self._hub = _hub_here()
        if self._hub is not None:
            timer = self._hub.loop.timer(_A_YEAR)
            timer.start(_nothing)
            self.add_done_callback(lambda _: self._on_hub(timer.close))

    def _on_hub(self, function: Callable[..., Any], *args: Any) -> None:
        hub_loop = self._hub and self._hub.loop
        if hub_loop is None or get_hub_if_exists() is self._hub:
            function(*args)
        else:
            hub_loop.run_callback_threadsafe(function, *args)

    def set_running_or_notify_cancel(self) -> bool:
        if not self.cancelled():
            return super().set_running_or_notify_cancel()
        self._on_hub(super().set_running_or_notify_cancel)
        return False

    def set_result(self, result: Any) -> None:
        self._on_hub(super().set_result, result)

    def set_exception(self, exception: BaseException | None) -> None:
        self._on_hub(super().set_exception, exception)


class SubmittedFuture(_submit.Submitted, Future):
    """The future of ``submit()``, likewise."""

    def result(self, timeout: float | None = None) -> Any:
        try:
            return super().result(timeout)
        except BaseException as error:
            self._asked = self._asked or error is self._exception
            raise
        finally:
            del self  # frames further in, which the traceback holds, hold this one

    def exception(self, timeout: float | None = None) -> BaseException | None:
        error = super().exception(timeout)
        self._asked = True
        return error

    def __del__(self) -> None:
        if not self._asked:
            self._log_lost()


_native_rlock: Callable[[], Any] = monkey.get_original("_thread", "RLock")


def _nothing() -> None:
    pass


class _Socket(monkey.get_original("socket", "socket")):  # type: ignore[misc]
    """A socket as it was before the patches, which accepts such sockets."""

    def accept(self) -> tuple[_Socket, Any]:
        descriptor, address = self._accept()
        return type(self)(self.family, self.type, self.proto, fileno=descriptor), address


def _socketpair(*args: Any) -> tuple[_Socket, ...]:
    return tuple(_Socket(fileno=one.detach()) for one in _socket.socketpair(*args))


def _overlay(module: types.ModuleType, **replaced: Any) -> types.ModuleType:
    """The module, with other values for some of its names."""
    made = types.ModuleType(module.__name__, module.__doc__)
    made.__dict__.update(replaced, __getattr__=lambda name: getattr(module, name))
    return made


def _give_asyncio_native_sockets() -> None:
    """asyncio never blocks on a socket, so for a loop on gevent's own selector these are as good."""
    sockets = _overlay(socket, socket=_Socket, socketpair=_socketpair)
    for module in (base_events, selector_events, unix_events):
        module.socket = sockets  # type: ignore[attr-defined]


_getaddrinfo = monkey.get_original("socket", "getaddrinfo")
_getnameinfo = monkey.get_original("socket", "getnameinfo")


class GeventLoop(BridgeLoop):
    """The loop of a bridge in a patched process."""

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        return await self.run_in_executor(None, _getaddrinfo, host, port, family, type, proto, flags)

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> Any:
        return await self.run_in_executor(None, _getnameinfo, sockaddr, flags)

    def _check_thread(self) -> None:
        """Debug mode's; asyncio's own compares numbers of greenlets."""
        if self._thread_id is not None and not self._is_mine():  # type: ignore[attr-defined]
            raise RuntimeError("Non-thread-safe operation invoked on an event loop other than the current one")

    async def _make_subprocess_transport(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(
            "no subprocess from a coroutine under gevent: gevent collects the exit of every child itself. "
            "Start it in a greenlet, with subprocess.run() or gevent.subprocess, and hand its output in"
        )

    def _abandon(self) -> None:
        """Its bridge was shut down, and it is left behind: end the waits for calls that nobody runs any more."""
        for wait in list(_waits):
            if wait.loop is self:
                text = f"the bridge was shut down, and the call did not end in time [{BridgeClosedError.code}]"
                wait.give_up(BridgeClosedError(text))


def leave_thread() -> None:
    """A thread of ours ends: so does the hub that patched code, run there, may have made."""
    hub = get_hub_if_exists()
    if hub is not None:
        hub.destroy(destroy_loop=True)


def make_loop(pool: concurrent.futures.Executor) -> GeventLoop:
    """A bridge's loop, with all it needs in this process."""
    _core._use_greenlets(_begin_wait, Future)
    _submit.future_type = SubmittedFuture
    _give_asyncio_native_sockets()
    return GeventLoop(pool)
