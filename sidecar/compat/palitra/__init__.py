"""palitra's names: coroutines run from sync code, on bridges that live as long as their runners.

``EventLoopThreadRunner`` is used as an instance or, as in palitra's first releases, as the class itself, which then
stands for the runner that ``run()`` and ``gather()`` share.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import threading
import types
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import sidecar
from sidecar._loop import BridgeLoop
from sidecar._support import start_thread
from sidecar.errors import BridgeClosedError, DeadlockError

__all__ = ["EventLoopThreadRunner", "gather", "is_runner_alive", "run", "shutdown_global_runner"]

_T = TypeVar("_T")


class _Loop(BridgeLoop):
    """A bridge's loop says that it runs only while a thread runs it; palitra's does so until it is closed."""

    def is_running(self) -> bool:
        return not self.is_closed()

    def _finish(self) -> None:
        # Nobody drives it any more, and a loop that runs cannot be closed.
        self.__class__ = BridgeLoop  # type: ignore[assignment]
        self._finish()


class _Bridge(sidecar.Sidecar):
    def _make_loop(self) -> BridgeLoop:
        loop = super()._make_loop()
        if type(loop) is BridgeLoop:  # gevent's is another one
            loop.__class__ = _Loop
        return loop


class _OfClassToo:
    """A method that, looked up on the class, is the shared runner's."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__wrapped__ = function
        self.__doc__ = function.__doc__

    def __get__(self, runner: EventLoopThreadRunner | None, owner: type | None = None) -> Any:
        return types.MethodType(self.__wrapped__, _shared() if runner is None else runner)


class EventLoopThreadRunner:
    """A bridge of one's own, which starts with the first call. Also a context manager, which closes it."""

    def __init__(self) -> None:
        self._bridge = _Bridge(name="palitra")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        # At exit all bridges are shut down in order.
        weakref.finalize(self, _drop, self._bridge).atexit = False

    @_OfClassToo
    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Its loop, which runs; after ``close()`` it is a closed one."""
        if not self._closed:
            # Asked for anew: in the child of a fork it is another one.
            with contextlib.suppress(BridgeClosedError):
                self._loop = self._bridge.get_loop()
        if self._loop is None:
            self._loop = sidecar.Loop()
            self._loop.close()
        return self._loop

    @_OfClassToo
    def run(
        self,
        coro: Coroutine[Any, Any, _T],
        *,
        timeout: float | None = None,
        debug: bool | None = None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> _T:
        """The coroutine's result.

        timeout: seconds; after that it is cancelled, and ``TimeoutError`` raised once it has cleaned up.
        debug: asyncio's debug mode of the loop, from now on.
        loop_factory: not there in palitra, either: ``NotImplementedError``.

        Raises ``RuntimeError`` after ``close()``, and inside a coroutine of this runner.
        """
        try:
            if loop_factory is not None:
                raise NotImplementedError("`loop_factory` currently not implemented.")
            if debug is not None and not self._closed:
                self._bridge.get_loop().set_debug(debug)
        except BaseException:
            _close((coro,))
            raise
        try:
            found: _T = self._bridge.run_sync(coro if inspect.iscoroutine(coro) else _awaited(coro), timeout=timeout)
            return found
        except (BridgeClosedError, DeadlockError) as error:
            self._raise_known(error)
            raise

    @_OfClassToo
    def gather(
        self,
        *coros_or_futures: Awaitable[Any],
        return_exceptions: bool = False,
        timeout: float | None = None,
    ) -> list[Any]:
        """``asyncio.gather()`` on its loop: the first error is raised, and does not end the others."""
        gathering = _Gathering(coros_or_futures, return_exceptions)
        try:
            return self._bridge.run_sync(gathering.all(), timeout=timeout)
        except (BridgeClosedError, DeadlockError) as error:
            self._raise_known(error)
            raise
        finally:
            if not gathering.begun:
                _close(coros_or_futures)

    def close(self) -> None:
        """End its loop: what runs is cancelled, and its cleanup waited for. A second call does nothing."""
        if self._closed:
            return
        if self._bridge.is_running():
            self.get_loop()
        self._bridge.shutdown()
        self._closed = True

    def __enter__(self) -> EventLoopThreadRunner:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: types.TracebackType | None,
    ) -> None:
        self.close()

    def _raise_known(self, error: BridgeClosedError | DeadlockError) -> None:
        """By palitra's messages, where it is about this very call; what a coroutine has raised passes."""
        if isinstance(error, BridgeClosedError):
            if self._closed:
                raise BridgeClosedError(f"Event loop is closed [{error.code}]") from None
        elif asyncio._get_running_loop() is self.get_loop():
            raise DeadlockError(f"Cannot call run() from the loop thread [{error.code}]") from None


class _Gathering:
    def __init__(self, awaitables: tuple[Awaitable[Any], ...], return_exceptions: bool) -> None:
        self._awaitables = awaitables
        self._return_exceptions = return_exceptions
        self.begun = False

    async def all(self) -> list[Any]:
        self.begun = True
        return list(await asyncio.gather(*self._awaitables, return_exceptions=self._return_exceptions))

    all.__qualname__ = "gather"  # the name that messages have


async def _awaited(awaitable: Awaitable[_T]) -> _T:
    return await awaitable


def _close(awaitables: tuple[Any, ...]) -> None:
    """Nobody will await them: nothing is to say so."""
    for each in awaitables:
        if inspect.iscoroutine(each):
            each.close()


def _drop(bridge: sidecar.Sidecar) -> None:
    """Its runner is gone, on whatever thread, inside anything: end it somewhere else."""
    if bridge.is_running():
        start_thread(bridge.shutdown, "palitra-close")


# -- the shared runner ------------------------------------------------------------

_lock = threading.Lock()
_runner: EventLoopThreadRunner | None = None


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)  # another thread of the parent may have held it


def _shared() -> EventLoopThreadRunner:
    global _runner
    runner = _runner
    if runner is None:
        with _lock:
            if _runner is None:
                _runner = EventLoopThreadRunner()
            runner = _runner
    return runner


def run(
    coro: Coroutine[Any, Any, _T],
    *,
    timeout: float | None = None,
    debug: bool | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> _T:
    """``EventLoopThreadRunner.run()`` on the runner that all of the process shares; it starts with its first call."""
    result: _T = _shared().run(coro, timeout=timeout, debug=debug, loop_factory=loop_factory)
    return result


def gather(
    *coros_or_futures: Awaitable[Any], return_exceptions: bool = False, timeout: float | None = None
) -> list[Any]:
    """``EventLoopThreadRunner.gather()`` on the shared runner."""
    results: list[Any] = _shared().gather(*coros_or_futures, return_exceptions=return_exceptions, timeout=timeout)
    return results


def is_runner_alive() -> bool:
    """Whether the shared runner's loop runs, in this process."""
    runner = _runner
    return runner is not None and runner._bridge.is_running()


def shutdown_global_runner() -> None:
    """Close the shared runner. The next call makes another one."""
    global _runner
    with _lock:
        runner, _runner = _runner, None
    if runner is not None:
        runner.close()
