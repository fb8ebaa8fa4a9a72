"""``sidecar.Loop``: asyncio's selector loop, its hot paths in C; and the loop that belongs to a bridge."""

from __future__ import annotations

import asyncio
import contextvars
import selectors
import sys
import weakref
from asyncio import constants
from asyncio.base_events import _run_until_complete_cb  # type: ignore[attr-defined]
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from sidecar import _core
from sidecar._sent import drop_sent
from sidecar.errors import LoopOwnedError

if TYPE_CHECKING:
    from sidecar._bridge import Sidecar
    from sidecar._lifespan import Lifespan
    from sidecar._sent import Sent

__all__ = ["Loop"]


class _NoSelector(selectors.BaseSelector):
    """Stands where asyncio's loop keeps its selector; the loop's C part watches the descriptors itself."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError("sidecar.Loop has no selector; use loop.add_reader() and loop.add_writer()")

    register = unregister = modify = select = _refuse

    def close(self) -> None:
        pass

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {}


# asyncio asks recv() for 256 KiB: so much that malloc maps and unmaps memory for each read, however little
# came. This comes from the heap; large transfers are no slower.
RECEIVE_SIZE = 64 * 1024


class Loop(_core.LoopCore, asyncio.SelectorEventLoop):
    """An asyncio event loop on Linux' epoll, with nanosecond timers.

    By itself (``asyncio.Runner(loop_factory=sidecar.Loop)``) it is an ordinary asyncio loop.
    """

    def __init__(self) -> None:
        super().__init__(_NoSelector())

    def close(self) -> None:
        if self.is_closed():
            return
        super().close()
        self._release()

    def remove_signal_handler(self, sig: int) -> bool:
        removed = super().remove_signal_handler(sig)
        # With the last one asyncio takes away any wake-up descriptor: the next wait sets ours again.
        self._signals_kept = False
        return removed

    def _make_socket_transport(self, *args: Any, **kwargs: Any) -> Any:
        transport = super()._make_socket_transport(*args, **kwargs)  # type: ignore[misc]
        transport.max_size = RECEIVE_SIZE
        return transport

    def _make_read_pipe_transport(self, *args: Any, **kwargs: Any) -> Any:
        transport = super()._make_read_pipe_transport(*args, **kwargs)  # type: ignore[misc]
        transport.max_size = RECEIVE_SIZE
        return transport

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        # A first step that ends in SystemExit or KeyboardInterrupt takes its task with it, which would
        # report an exception that is on its way to the caller.
        leaving = isinstance(context.get("exception"), (KeyboardInterrupt, SystemExit))
        if (leaving and self._starting) or (self._bridged and self.is_closed()):
            return
        super().call_exception_handler(context)


class BridgeLoop(Loop):
    """The loop of a bridge: its callers and its pump drive it, and only the bridge ends it."""

    def __init__(self, executor: Any) -> None:
        super().__init__()
        self._bridged = True
        self._default_executor = executor
        self._lifespan: Lifespan
        self._bridge: weakref.ref[Sidecar]
        self._sent: set[Sent] = set()
        self._root = contextvars.Context().run(self._plant_root)

    def _plant_root(self) -> asyncio.Task[None]:
        """Make the one task that outlives all calls, marked as a loop's main task is.

        anyio ties its worker threads and limiters to that task; without it each call would get its own.
        Made past ``create_task``, it does not count among the tasks that callers left behind.
        """
        task = asyncio.Task(_sleep_for_good(self.create_future()), loop=self, name="sidecar-root")
        if not _exiting:
            task.add_done_callback(_run_until_complete_cb)
        self._share_task(task)
        return task

    def _end_root(self) -> None:
        """On the loop: what is tied to it ends; calls that come later have something of their own for that."""
        self._root.remove_done_callback(_run_until_complete_cb)
        self._root.cancel()

    def _set_coroutine_origin_tracking(self, enabled: bool) -> None:
        """``set_debug()`` by what runs here: for the rest of this turn. The marks set and restore it otherwise."""
        sys.set_coroutine_origin_tracking_depth(constants.DEBUG_STACK_DEPTH if enabled else 0)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        pool = self._default_executor if executor is None else executor
        if not isinstance(pool, _core.Pool):
            return super().run_in_executor(executor, func, *args)
        self._check_closed()  # type: ignore[attr-defined]
        if self.get_debug():
            self._check_callback(func, "run_in_executor")  # type: ignore[attr-defined]
        return pool.run_in(self, func, *args)

    def _refuse(self, what: str) -> NoReturn:
        raise LoopOwnedError(
            f"loop.{what}() on a bridge's loop: sidecar runs, stops and closes it; "
            f"use sidecar.run_sync() to run something on it, and shutdown() to end it [{LoopOwnedError.code}]"
        )

    def run_forever(self) -> NoReturn:
        self._refuse("run_forever")

    def run_until_complete(self, future: object) -> NoReturn:
        if asyncio.iscoroutine(future):
            future.close()
        self._refuse("run_until_complete")

    def stop(self) -> NoReturn:
        self._refuse("stop")

    def close(self) -> NoReturn:
        self._refuse("close")

    def _abandon(self) -> None:
        """Its bridge was shut down, but calls on it did not end."""

    def __del__(self) -> None:
        # Left behind at its bridge's shutdown, which has named what held it.
        if not self.is_closed() and not self.is_running():
            self._finish()

    def _finish(self) -> None:
        """Close it, for good; nobody drives it any more."""
        super().close()
        drop_sent(self)
        # It holds the loop, which would else wait for the garbage collector.
        self.__dict__.pop("_root", None)


# The interpreter is about to wait for its threads, anyio's workers among them: no loop keeps them for good now.
_exiting = False


def note_exit() -> None:
    global _exiting
    _exiting = True


async def _sleep_for_good(future: asyncio.Future[None]) -> None:
    await future
