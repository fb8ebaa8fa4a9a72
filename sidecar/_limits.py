"""``sidecar.limit()``: so many at a time, by name, so that one slow upstream does not take all there is."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import threading
import weakref
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from sidecar import _core
from sidecar._submit import _is_coroutine_function
from sidecar._support import is_patched_by_gevent, native_lock
from sidecar.errors import Overloaded

__all__ = ["Limit", "limit"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Limit(_core.Limit):
    """One use of a named limit; ``sidecar.limit()`` makes it. Uses of the same name share its places.

    ``with``, ``async with``, or a decorator of a function or a coroutine function. It may be entered by many at
    once, and again by who is inside, who then has two places.
    """

    __slots__ = ("__weakref__",)

    @property
    def name(self) -> str:
        return self._places.name

    @property
    def max(self) -> int:
        """How many may be inside at a time."""
        return self._places.max

    @property
    def in_use(self) -> int:
        """How many are inside now."""
        return self._places.in_use

    @property
    def waiting(self) -> int:
        """How many wait for a place now."""
        return self._places.waiting

    @property
    def refused(self) -> int:
        """How many got ``Overloaded`` so far."""
        return self._places.refused

    def __repr__(self) -> str:
        return f"<sidecar.Limit {self.name!r}: {self.in_use} of {self.max} in use, {self.waiting} wait>"

    # __enter__ and __exit__ are C: a signal's handler finds no code to raise in between place and block.

    async def __aenter__(self) -> Limit:
        if not self._places.take():
            await self._wait_in_loop()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._places.give_back()

    def __call__(self, function: _Function) -> _Function:
        """``function``, which takes a place for each call and has it until it returns.

        Raises ``TypeError`` for generator functions, whose work comes after they return: use ``with`` inside.
        """
        held: Any
        if not callable(function):
            raise TypeError(f"limit {self.name!r}: a decorator of functions, not of {function!r}")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"limit {self.name!r}: {function!r} is a generator function; use the limit inside of it")
        if _is_coroutine_function(function):

            @functools.wraps(function)
            async def held(*args: Any, **kwargs: Any) -> Any:
                async with self:
                    return await function(*args, **kwargs)

        else:

            @_core.frameless
            @functools.wraps(function)
            def held(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return function(*args, **kwargs)

        wrapped: _Function = held
        return wrapped

    def _patience(self) -> float:
        """Seconds that it may wait: a request's deadline cuts them short."""
        request = _core.current() if self._wait else None
        left = request.time_left() if request is not None else None
        return self._wait if left is None else min(self._wait, left)

    def _wait_in_thread(self) -> None:
        """Called by C where no place is free."""
        seconds = self._patience()
        if seconds <= 0 or asyncio._get_running_loop() is not None:
            # A thread that runs an event loop does not sleep: who has the place may need that very loop.
            self._refuse()
        waiter = _GreenletWaiter() if is_patched_by_gevent() else _ThreadWaiter()
        try:
            if not self._places.join(waiter):
                waiter.wait(seconds)
            if not self._places.leave(waiter):
                self._refuse(seconds)
        except BaseException:  # what a signal's handler has raised, too
            self._places.abandon(waiter)
            raise

    async def _wait_in_loop(self) -> None:
        seconds = self._patience()
        if seconds <= 0:
            self._refuse()
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        waiter = _LoopWaiter(loop, future)
        try:
            if not self._places.join(waiter):
                await _within(seconds, future)
            if not self._places.leave(waiter):
                self._refuse(seconds)
        except BaseException:  # cancelled or closed, too
            self._places.abandon(waiter)
            raise

    def _refuse(self, seconds: float = 0.0) -> NoReturn:
        self._places.refuse()
        late = f", and none came free within {seconds:.3g} s" if seconds else ""
        raise Overloaded(
            f"limit {self.name!r}: all of its {self.max} places are taken{late} [{Overloaded.code}]", limit=self.name
        )


# By name, for a decorator would hide from type checkers how it is called.
setattr(Limit, "__call__", _core.frameless(Limit.__call__))  # noqa: B010


# -- waiting ----------------------------------------------------------------------


# Each has wake(), from any thread: False where nobody could ever notice. It may have left just then.


class _ThreadWaiter(_core.Waiter):
    def __init__(self) -> None:
        self._lock = native_lock()
        self._lock.acquire()

    def wait(self, seconds: float) -> None:
        self._lock.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))

    def wake(self) -> bool:
        self._lock.release()
        return True


class _GreenletWaiter(_core.Waiter):
    def __init__(self) -> None:
        from sidecar import _gevent

        self._future = _gevent.Future()

    def wait(self, seconds: float) -> None:
        try:
            self._future.result(seconds)
        except concurrent.futures.TimeoutError:
            pass
        finally:
            self._future.cancel()  # it lets go of what its hub keeps for it

    def wake(self) -> bool:
        try:
            self._future.set_result(None)
        except concurrent.futures.InvalidStateError:
            pass  # it has left
        return True


class _LoopWaiter(_core.Waiter):
    """The line keeps no coroutine alive: one that is dropped leaves it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
        self._loop = weakref.ref(loop)
        self._future = weakref.ref(future)

    def wake(self) -> bool:
        loop, future = self._loop(), self._future()
        if loop is None or future is None:
            return False
        if asyncio._get_running_loop() is loop:
            _settle(future)
            return True
        try:
            loop.call_soon_threadsafe(_settle, future)
        except RuntimeError:
            return False  # the loop was closed
        return True


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _within(seconds: float, future: asyncio.Future[None]) -> None:
    timer = future.get_loop().call_later(seconds, _settle, future)
    try:
        await future
    finally:
        timer.cancel()


# -- by name ----------------------------------------------------------------------

_by_name: dict[str, _core.Places] = {}


def limit(name: str, max: int | None = None, *, wait: float = 0.0) -> Limit:
    """At most so many at a time in this process, whatever threads and event loops they are on.

    name: whose places these are: the same name means the same limit, wherever it is used.
    max: how many; ``None`` for a limit that was given its number elsewhere.
    wait: seconds that this use waits for a place, in turn; never beyond the request's deadline. 0: not at all,
        as on a thread that runs an event loop and uses ``with`` where ``async with`` belongs.

    Who gets no place gets ``Overloaded``. Use it by ``with``, by ``async with``, or as a decorator. After a fork
    the child has all its places free.
    Raises ``ValueError`` for another number than the limit has, or none where it has none yet.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"the name of a limit must be a string that is not empty, not {name!r}")
    if max is not None and (not isinstance(max, int) or isinstance(max, bool) or max < 1):
        raise ValueError(f"limit {name!r}: max must be a whole number from 1 on, not {max!r}")
    seconds = float(wait)
    if not 0.0 <= seconds < float("inf"):
        raise ValueError(f"limit {name!r}: wait must be a number of seconds from 0 on, not {wait!r}")
    places = _by_name.get(name)
    if places is None:
        if max is None:
            raise ValueError(f"there is no limit {name!r} yet; the first use gives its number: limit({name!r}, 20)")
        places = _by_name.setdefault(name, _core.Places(name, max))
    if max is not None and max != places.max:
        raise ValueError(f"limit {name!r} has {places.max} places, by an earlier use, and cannot have {max}")
    return Limit(places, seconds)


def refuse_route(environ: dict[str, Any], start_response: Any) -> NoReturn:
    """A WSGI application, in place of one whose route is full (the uWSGI plugin's ``sidecar:limit=N``)."""
    raise Overloaded(f"the route takes no more requests at once [{Overloaded.code}]", limit="route")
