"""The loops that CPython's suites get instead of asyncio's own, and where they get them from.

Imported by ``runner.py`` in a process of its own: what is patched here stays patched.
"""

from __future__ import annotations

import _thread
import asyncio
import asyncio.base_events
import asyncio.events
import asyncio.unix_events
import atexit
import concurrent.futures
import contextvars
import functools
import sys
import threading
import time
import weakref
from typing import Any

import sidecar
from sidecar import _bridge, _support
from sidecar._loop import BridgeLoop

made = 0
"""How many loops of ours there have been in this process: a test that makes none says nothing about them."""


def _count() -> None:
    global made
    made += 1


def _drop(selector: Any) -> None:
    """Suites give the loop each kind of selector in turn; ours has none, and runs those tests as well."""
    if hasattr(selector, "close"):
        selector.close()


class RunLoop(sidecar.Loop):
    """Mode ``run``: ``sidecar.Loop`` as it is."""

    def __init__(self, selector: object = None) -> None:
        super().__init__()
        _drop(selector)
        _count()


class _MadeByItsBridge(type(BridgeLoop)):  # type: ignore[misc]
    """Calling the class starts a bridge, which makes its loop of that class."""

    def __call__(cls, selector: object = None) -> Any:
        _drop(selector)
        bridge = _Bridge(cls)
        loop = bridge.get_loop()
        loop.bridge = bridge
        _driven.add(loop)
        loop.freeze()
        loop.wait_until_frozen()
        _count()
        return loop


class _Bridge(sidecar.Sidecar):
    """A bridge as any other, but for the class of its loop."""

    _making = threading.Lock()

    def __init__(self, kind: type[DrivenLoop]) -> None:
        super().__init__(workers=8, name="suite")
        self._kind = kind

    def _make_loop(self) -> BridgeLoop:
        with self._making:
            _bridge.BridgeLoop = functools.partial(type.__call__, self._kind)  # type: ignore
            try:
                return super()._make_loop()
            finally:
                _bridge.BridgeLoop = BridgeLoop  # type: ignore[misc]


class _Gate:
    """A callback that holds the thread that runs it until the gate is opened."""

    def __init__(self, loop: BridgeLoop) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()
        self._loop = loop
        self._for_a_call = False

    def open(self, for_a_call: bool) -> None:
        self._for_a_call = for_a_call
        self._open.set()

    def hold(self) -> None:
        self.reached.set()
        self._open.wait()
        deadline = time.monotonic() + 1.0
        while self._for_a_call and self._loop._calls == 0 and time.monotonic() < deadline:
            time.sleep(0.0001)


class DrivenLoop(BridgeLoop, metaclass=_MadeByItsBridge):
    """Mode ``driven``: a bridge's loop, which whoever wants something run to its end calls the bridge for.

    A coroutine is the call's own. For a future or task, and for ``run_forever()``, the call's coroutine waits until
    that is done or ``stop()`` was called. Such a call of the main thread is driven by it or, while tasks are left,
    by the pump.

    A suite relies on a loop that stands still between two calls: it looks at what there is, closes sockets,
    cancels tasks. So a call's last act is to freeze the loop, and the next one begins with a thaw. What was
    scheduled in between is run by the pump; then the loop is free, and the caller takes it.
    """

    bridge: _Bridge
    _gate: _Gate | None = None
    _stopper: asyncio.Future[None] | None = None
    _stop_next = False

    def _plant_root(self) -> Any:
        """The task that stays is for anyio. Suites count tasks, and end all there are."""
        root = self.create_future()
        root.set_result(None)
        return root

    def freeze(self) -> None:
        """Whoever has the loop next is held up behind what is ready now."""
        self._gate = _Gate(self)
        self.call_soon_threadsafe(self._gate.hold)

    def _freeze_after_this_round(self) -> None:
        """asyncio's loop learns of the end of a task in the round after, and finishes that one."""
        gate = self._gate = _Gate(self)
        self.call_soon(self.call_soon, gate.hold)

    def wait_until_frozen(self) -> None:
        gate = self._gate
        if gate is not None and not gate.reached.wait(20.0):
            raise AssertionError("nobody runs what is due on the loop: the gate was not reached")

    def thaw(self, for_a_call: bool = False) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.open(for_a_call)

    def is_running(self) -> bool:
        return self._gate is None and super().is_running()

    def _check_thread(self) -> None:
        if self._gate is None:
            super()._check_thread()

    def _call(self, coro: Any, *, itself: bool = False) -> Any:
        if not self._is_mine():
            # What there is would run ahead, so the loop goes on where the call has come. Where nothing but a
            # coroutine is run, the caller finds the loop free, and begins the call itself.
            idle = itself and not asyncio.all_tasks(self) and not self._transports
            self.thaw(for_a_call=not idle)
            deadline = time.monotonic() + 0.01
            while idle and self.is_running() and time.monotonic() < deadline:
                time.sleep(0.0001)
        try:
            return self._drive(coro)
        finally:
            if not self._is_mine():
                self.wait_until_frozen()

    def _drive(self, coro: Any) -> Any:
        return self.bridge.run_sync(coro)

    async def _to_its_end(self, coro: Any) -> Any:
        try:
            return await coro
        finally:
            self._freeze_after_this_round()

    async def _until(self, future: asyncio.Future[Any] | None) -> None:
        self._stopper = self.create_future()
        if self._stop_next:
            self.call_soon(self._end_run)
        elif future is not None:
            future.add_done_callback(self._end_run)
        try:
            await self._stopper
        finally:
            self._stopper, self._stop_next = None, False
            if future is not None:
                future.remove_done_callback(self._end_run)

    def _end_run(self, _: object = None) -> None:
        if self._stopper is not None and not self._stopper.done():
            self._stopper.set_result(None)
            self.freeze()

    def run_until_complete(self, future: Any) -> Any:
        self._check_closed()
        if asyncio.iscoroutine(future):
            return self._call(self._to_its_end(future), itself=True)
        future = asyncio.ensure_future(future, loop=self)
        self._call(self._until(future))
        if not future.done():
            raise RuntimeError("Event loop stopped before Future completed.")
        return future.result()

    def run_forever(self) -> None:
        self._check_closed()
        self._call(self._until(None))

    def stop(self) -> None:
        if self._stopper is None:
            self._stop_next = True
        elif self._is_mine():
            self._end_run()
        else:
            self.call_soon_threadsafe(self._end_run)

    def close(self) -> None:
        if self.is_closed():
            return
        if self._is_mine():
            raise RuntimeError("Cannot close a running event loop")
        self.thaw()
        if not self.bridge.shutdown():
            raise RuntimeError("the bridge left something behind: see the log")


class ThreadDrivenLoop(DrivenLoop):
    """Mode ``driven-by-a-thread``: the calls come from a thread that may drive whatever there is to run."""

    def _drive(self, coro: Any) -> Any:
        if self._is_mine():
            return super()._drive(coro)
        answer: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def call() -> None:
            try:
                result, failure = self.bridge.run_sync(coro), None
            except BaseException as error:  # noqa: BLE001 - the suite's thread gets it
                result, failure = None, error
            _support.forget_thread()
            if failure is None:
                answer.set_result(result)
            else:
                answer.set_exception(failure)

        # No Thread: the suites count those, and an exception they keep would keep it, by its frames.
        _thread.start_new_thread(contextvars.copy_context().run, (call,))
        while not answer.done():
            # interrupt_main() does not wake a main thread that waits for a lock: it looks by itself.
            concurrent.futures.wait([answer], timeout=0.02)
        return answer.result()


_driven: weakref.WeakSet[DrivenLoop] = weakref.WeakSet()


def _thaw_all() -> None:
    """At exit, before bridges are shut down: some suites leave a loop unclosed."""
    for loop in _driven:
        loop.thaw()


def _hide_gates() -> None:
    """In debug mode a gate is a slow callback; nobody is to hear of it."""
    note = _support.note_duration

    def note_others(loop: Any, handle: Any, seconds: float) -> None:
        if getattr(handle._callback, "__func__", None) is not _Gate.hold:
            note(loop, handle, seconds)

    _support.note_duration = note_others


# "asyncio" leaves asyncio's loop where it is: what fails with that one as well says nothing about ours.
MODES: dict[str, type[sidecar.Loop] | None] = {
    "run": RunLoop,
    "driven": DrivenLoop,
    "driven-by-a-thread": ThreadDrivenLoop,
    "asyncio": None,
}


def _put_in_place(kind: type[sidecar.Loop]) -> None:
    for module in (asyncio, asyncio.unix_events):
        module.SelectorEventLoop = kind  # type: ignore[misc]
        if sys.version_info >= (3, 13):
            module.EventLoop = kind  # type: ignore[attr-defined]
    asyncio.BaseEventLoop = kind  # type: ignore[misc]
    policy = (
        asyncio.unix_events.DefaultEventLoopPolicy
        if sys.version_info < (3, 14)
        else (
            asyncio.unix_events._DefaultEventLoopPolicy  # type: ignore[attr-defined]
        )
    )
    policy._loop_factory = kind  # type: ignore[attr-defined]


def use(mode: str) -> None:
    """From here on whatever makes a loop makes one of ours."""
    # Bases are fixed where a class is made: the suites' own loops with a clock of their own stay asyncio's.
    import test.test_asyncio.utils  # noqa: F401

    kind = MODES[mode]
    if kind is None:
        return
    _put_in_place(kind)
    if issubclass(kind, DrivenLoop):
        atexit.register(_thaw_all)
        _hide_gates()


def use_in(module: str) -> None:
    """After the import of that suite: the one of ``BaseEventLoop`` by itself is ours as well."""
    if module.endswith(".test_base_events"):
        asyncio.base_events.BaseEventLoop = asyncio.BaseEventLoop  # type: ignore[misc]
