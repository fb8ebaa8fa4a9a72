"""asyncio-thread-runner's ``ThreadRunner``, on a bridge: the thread that calls runs the loop until its call is done."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import warnings
import weakref
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar, Union, final

import sidecar
from sidecar._support import start_thread
from sidecar.errors import BridgeClosedError

if TYPE_CHECKING:
    from types import TracebackType

    _Source = Union[AbstractAsyncContextManager["_T"], Callable[[], AbstractAsyncContextManager["_T"]]]

__all__ = ["ThreadRunner"]

_T = TypeVar("_T")


@final
class ThreadRunner:
    """A bridge of one's own, which starts with its first call; also a context manager, which closes it.

    debug: asyncio's debug mode.
    loop_factory: is not called, and warned of: the loop is sidecar's.
    """

    def __init__(
        self, *, debug: bool | None = None, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    ) -> None:
        if loop_factory is not None:
            warnings.warn("loop_factory is not called: the loop is a sidecar bridge's own", stacklevel=2)
        self._bridge = sidecar.Sidecar(name="ThreadRunner")
        self._stack = contextlib.ExitStack()
        self._closed = False
        if debug is not None:
            self._bridge.on_worker_start(_debugging(debug))
        # At exit all bridges are shut down in order.
        weakref.finalize(self, _drop, self._bridge).atexit = False

    def __enter__(self) -> ThreadRunner:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> bool | None:
        """Leave what ``enter_context()`` has entered, the last one first, and end the loop."""
        if self._closed:
            return False
        try:
            return self._stack.__exit__(exc_type, exc, traceback)
        finally:
            self._closed = True
            self._bridge.shutdown()

    def close(self) -> None:
        self.__exit__(None, None, None)

    def run(self, coro: Coroutine[Any, Any, _T]) -> _T:
        """The coroutine's result. Raises ``RuntimeError`` after ``close()``, and inside a coroutine of this runner."""
        return self._open(coro).run_sync(coro)

    def run_as_future(self, coro: Coroutine[Any, Any, _T]) -> Future[_T]:
        """The same, without waiting for it."""
        return self._open(coro).submit(coro)

    def wrap_context(self, cm: _Source[_T], /) -> AbstractContextManager[_T]:
        """An async context manager for ``with``: entered and left in one task.

        cm: the context manager; or a function that makes it, which is called on the loop.
        """
        return self._open().wrap_context(cm)

    def enter_context(self, cm: _Source[_T], /) -> _T:
        """Enter it now, and leave it when the runner is closed. Returns its value."""
        return self._stack.enter_context(self.wrap_context(cm))

    def wrap_iter(self, it: AsyncIterable[_T]) -> Iterable[_T]:
        """An async iterable for ``for``: all of its steps in one task, closed when it is left."""
        bridge = self._open()
        if not hasattr(type(it), "__aiter__"):
            raise TypeError(f"{type(it).__name__!r} object is not an async iterable")
        return bridge.stream(it)

    def _open(self, coro: Any = None) -> sidecar.Sidecar:
        if coro is not None and not inspect.iscoroutine(coro):
            raise TypeError("A coroutine object is required")
        if self._closed:
            if coro is not None:
                coro.close()
            raise BridgeClosedError(f"Runner is closed [{BridgeClosedError.code}]")
        return self._bridge

    # -- names in use -----------------------------------------------------------------

    @property
    def _runner(self) -> sidecar.Sidecar:
        """What has the loop."""
        return self._bridge

    @property
    def _thread(self) -> threading.Thread | None:
        """The thread that runs the loop just now, where that is this one."""
        running = asyncio._get_running_loop()
        return threading.current_thread() if running is not None and running is self._bridge.get_loop() else None


def _debugging(debug: bool) -> Callable[[], Coroutine[Any, Any, None]]:
    async def set_debug() -> None:
        asyncio.get_running_loop().set_debug(debug)

    return set_debug


def _drop(bridge: sidecar.Sidecar) -> None:
    """Its runner is gone, on whatever thread, inside anything: end it somewhere else."""
    if bridge.is_running():
        start_thread(bridge.shutdown, "ThreadRun-close")
