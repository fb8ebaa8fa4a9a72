"""Resources: loop-bound things made once per worker, on its loop, and closed at its exit."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import types
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, Union, overload

from sidecar import _core
from sidecar._lifespan import Lifespan, maker
from sidecar._support import ERRORS_RACE, came_from_signal_handler, copy_error, logger
from sidecar._wrap_common import bridge_of, check_bridge, cut
from sidecar.errors import BridgeClosedError, DeadlockError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from sidecar._bridge import Sidecar

__all__ = ["Making", "Resource", "resource"]

_T = TypeVar("_T")

# Entering one of these takes it: as a value it is wanted free.
_LOCKS = (asyncio.Lock, asyncio.Semaphore, asyncio.Condition)

_NOT_MADE = object()


class Resource(Generic[_T]):
    """What ``resource()`` makes: one object for each worker, on the loop of its bridge."""

    def __init__(
        self,
        factory: Callable[[], Any],
        bridge: Sidecar | None = None,
        close: Callable[[Any], Any] | str | None = None,
    ) -> None:
        if not callable(factory):
            raise TypeError(f"resource() takes a function that makes the object, not {factory!r}")
        if inspect.isgeneratorfunction(factory):
            raise TypeError(f"{factory!r} is a sync generator function: make it `async def`")
        if close is not None and inspect.isasyncgenfunction(factory):
            raise TypeError("a generator function closes after its yield what it made: leave out close=")
        if close is not None and not (callable(close) or isinstance(close, str)):
            raise TypeError(f"close= takes a function of the object or a method's name, not {close!r}")
        check_bridge(bridge, "resource")
        functools.update_wrapper(self, factory)  # type: ignore[arg-type]
        self._factory = factory
        # The bridge's loop keeps what is made, so this must not keep the bridge: it could never be dropped.
        self._bridge = None if bridge is None else weakref.ref(bridge)
        self._close = close

    def __repr__(self) -> str:
        return f"<sidecar.Resource {self._made_by()}>"

    def __str__(self) -> str:
        return f"resource {self._made_by()}"

    def _made_by(self) -> str:
        fn = inspect.unwrap(self._factory)
        return getattr(fn, "__qualname__", None) or repr(fn)

    def get(self, *, timeout: float | None = None) -> _T:
        """The object, in sync code; made now where it is not yet.

        timeout: seconds that this call waits; the making goes on without it.
        Raises what the factory raised; ``DeadlockError`` inside a coroutine of the bridge where it is not
        made yet.
        """
        running = asyncio._get_running_loop()
        # First: while a bridge is shut down its coroutines still run, and it is not found any more.
        value = self._made_on(running)
        if value is _NOT_MADE:
            bridge = bridge_of(self._home())
            loop = bridge.get_loop()
            value = self._made_on(loop)
            if value is _NOT_MADE:
                value = self._have_made(bridge, loop is running, timeout)
        made: _T = value
        return made

    def _home(self) -> Sidecar | None:
        """The bridge it was given, ``None``: the process's own one. ``BridgeClosedError``: it is gone."""
        if self._bridge is None:
            return None
        bridge = self._bridge()
        if bridge is None:
            raise BridgeClosedError(
                f"{self} lives on a bridge that was dropped, so it cannot be had any more: keep the bridge "
                f"for as long as its resources are used [{BridgeClosedError.code}]"
            )
        return bridge

    def _made_on(self, loop: Any) -> Any:
        life: Lifespan | None = getattr(loop, "_lifespan", None)
        return _NOT_MADE if life is None else life.values.get(self, _NOT_MADE)

    def _have_made(self, bridge: Sidecar, inside: bool, timeout: float | None) -> _T:
        if inside:
            raise DeadlockError(
                f"{self} is not made yet, and get() inside a coroutine of the loop it is made on would wait "
                f"for itself: await the resource there [{DeadlockError.code}]"
            )
        asked = self._value()
        setattr(asked, "__qualname__", str(self))  # the name that messages have
        return bridge.run_sync(asked, timeout=timeout)

    def __await__(self) -> Generator[Any, Any, _T]:
        value = self._made_on(asyncio._get_running_loop())
        if value is _NOT_MADE:
            try:
                value = yield from self._value().__await__()
            except BaseException as error:
                cut(error)
                raise
        made: _T = value
        return made

    async def _value(self) -> _T:
        life = self._lifespan_here()
        while self not in life.values:
            making = life.makings.get(self)
            mine = making is None
            if making is None:
                making = Making(self, life)
            with making.waited_for():
                await asyncio.wait({making.ready})
            try:
                made: _T = making.result()
                return made
            except (KeyboardInterrupt, SystemExit):
                # Meant for one caller; the others have another made.
                if mine:
                    raise
            finally:
                del making  # an exception's traceback has this frame
        value: _T = life.values[self]
        return value

    def _lifespan_here(self) -> Lifespan:
        loop = asyncio.get_running_loop()
        life: Lifespan | None = getattr(loop, "_lifespan", None)
        bridge = self._home()
        if life is not None and life.serves(bridge):
            return life
        whose = "this process's own bridge" if bridge is None else repr(bridge)
        raise RuntimeError(
            f"{self} lives on the loop of {whose}, and was awaited on another loop, {loop!r}, where its "
            "object cannot be used: run the coroutine that uses it on that bridge, in a thread of its own "
            "(await asyncio.to_thread(sidecar.run_sync, use_it()))"
        )

    def _open(self) -> AbstractAsyncContextManager[Any]:
        """What is entered to make the object and left to close it; may run the factory."""
        if inspect.isasyncgenfunction(self._factory):
            return contextlib.asynccontextmanager(self._factory)()
        made = self._factory()
        if inspect.isasyncgen(made):
            return contextlib.asynccontextmanager(lambda: made)()
        if self._close is None and hasattr(type(made), "__aenter__") and not isinstance(made, _LOCKS):
            manager: AbstractAsyncContextManager[Any] = made
            return manager
        return _opened(made, self._close)


# Whoever reads a traceback wants to see their own code.
setattr(Resource, "get", _core.frameless(Resource.get))


@contextlib.asynccontextmanager
async def _opened(made: Any, close: Callable[[Any], Any] | str | None) -> AsyncIterator[Any]:
    value = await made if inspect.isawaitable(made) else made
    try:
        yield value
    finally:
        if close is not None:
            closed = close(value) if callable(close) else getattr(value, close)()
            if inspect.isawaitable(closed):
                await closed


# -- one object, from its making to its end -----------------------------------------


class Making:
    """One resource on one loop: one task with one context, empty at first, makes the object and closes it.

    Used on the loop only. ready: what the factory came to; release: set to have it closed; offered: whoever
    asks gets it.
    """

    def __init__(self, resource: Resource[Any], life: Lifespan) -> None:
        if life.closing:
            raise BridgeClosedError(
                f"{resource} cannot be made any more: its bridge is being shut down "
                f"[{BridgeClosedError.code}]"
            )
        loop: Any = asyncio.get_running_loop()
        self.resource = resource
        self.life = life
        self.ready: asyncio.Future[Any] = loop.create_future()
        self.release: asyncio.Future[None] = loop.create_future()
        self.waits_for: list[Making] = []
        self.askers = 0
        self.offered = False
        life.makings[resource] = self
        context = contextvars.Context()
        context.run(maker.set, self)
        # Past create_task, as the loop's root: it stays for good, and the main thread, which drives nobody
        # else's tasks, would never drive beside it. While it is being made, a task that counts stands for it.
        self.task: asyncio.Task[None] = context.run(
            functools.partial(asyncio.Task, self._live(), loop=loop, name=f"sidecar-{resource}")
        )
        self.task.add_done_callback(self._has_ended)
        loop._share_task(self.task)
        loop.create_task(_settled(self.ready))

    def _is_released(self) -> bool:
        # A task that is cancelled cancels what it waits for.
        return self.release.done() and not self.release.cancelled()

    def result(self) -> Any:
        """What the factory came to; where one error cannot be several askers', each has a copy of it."""
        if ERRORS_RACE and not self.ready.cancelled():
            error = self.ready.exception()
            if error is not None:
                raise copy_error(error)
        return self.ready.result()

    # -- its task --

    async def _live(self) -> None:
        try:
            async with self.resource._open() as value:
                self._is_there(value)
                await self._until_released()
        except BaseException as error:
            self._has_failed(error)
            if isinstance(error, (KeyboardInterrupt, SystemExit)) and came_from_signal_handler(error):
                raise  # the main thread's: the loop sees to it
        finally:
            self._is_gone()

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        # Cancelled before its first step, it has run nothing of the above.
        if not self.ready.done():
            self._pass_on(asyncio.CancelledError())
        self._is_gone()
        if not task.cancelled():
            task.exception()

    async def _until_released(self) -> None:
        try:
            await self.release
        except BaseException:
            self._withdraw()  # it ends by itself: nobody is to get it any more
            raise

    def _withdraw(self) -> None:
        if self.offered:
            self.offered = False
            del self.life.values[self.resource]

    def _is_there(self, value: Any) -> None:
        self.offered = True
        self.life.values[self.resource] = value
        del self.life.makings[self.resource]
        self.life.kept.append(self)
        self.ready.set_result(value)

    def _has_failed(self, error: BaseException) -> None:
        if not self.ready.done():
            self._pass_on(error)
        elif not self._is_released():
            text = "%s has ended by itself; if somebody asks for it again, another is made"
            logger.error(text, self.resource, exc_info=error)
        elif not isinstance(error, asyncio.CancelledError):
            logger.error("closing %s failed", self.resource, exc_info=error)

    def _pass_on(self, error: BaseException) -> None:
        error.__traceback__ = _without_ours(error.__traceback__)
        if isinstance(error, StopIteration):  # no future takes one
            error, cause = RuntimeError(f"the factory of {self.resource} raised StopIteration"), error
            error.__cause__ = cause
        self.ready.set_exception(error)
        if self.askers == 0 and not isinstance(self.ready.exception(), asyncio.CancelledError):
            text = "%s could not be made, and nobody waits for it any more"
            logger.error(text, self.resource, exc_info=error)

    def _is_gone(self) -> None:
        if self.life.makings.get(self.resource) is self:
            del self.life.makings[self.resource]
        if self in self.life.kept:
            self.life.kept.remove(self)
        self._withdraw()

    def break_off(self) -> None:
        """Have it ended; if it is made all the same, it is closed at once."""
        if not self.release.done():
            self.release.set_result(None)
        if not self.ready.done():
            self.task.cancel()

    async def end(self, seconds: float) -> bool:
        """Close it; False where it took longer and had to be cut short."""
        # It stays in ``values`` until it is gone: its own teardown may ask for it.
        if not self.release.done():
            self.release.set_result(None)
        await asyncio.wait({self.task}, timeout=seconds * 0.8)
        if self.task.done():
            return True
        self.task.cancel()
        await asyncio.wait({self.task}, timeout=seconds * 0.2)
        self._is_gone()
        return False

    # -- who waits for whom --

    @contextlib.contextmanager
    def waited_for(self) -> Iterator[None]:
        """While somebody waits for it. ``DeadlockError``: a factory, for which it waits itself."""
        asker = maker.get(None)
        if asker is not None and asker.ready.done():
            asker = None
        if asker is not None:
            self._check(asker)
            asker.waits_for.append(self)
        self.askers += 1
        try:
            yield
        finally:
            self.askers -= 1
            if asker is not None:
                asker.waits_for.remove(self)

    def _check(self, asker: Making) -> None:
        chain = self._chain_to(asker, set())
        if chain:
            names = " -> ".join(str(making.resource) for making in [asker, *chain])
            raise DeadlockError(
                f"{asker.resource} needs itself to be made: {names}. Have one of the factories not ask for "
                f"the other [{DeadlockError.code}]"
            )

    def _chain_to(self, goal: Making, seen: set[Making]) -> list[Making]:
        if self is goal:
            return [self]
        seen.add(self)
        for making in self.waits_for:
            rest = making._chain_to(goal, seen) if making not in seen else []
            if rest:
                return [self, *rest]
        return []


async def _settled(ready: asyncio.Future[Any]) -> None:
    await asyncio.wait({ready})


def _without_ours(entry: types.TracebackType | None) -> types.TracebackType | None:
    """A traceback that begins with the factory's own frames."""
    ours = (__file__, contextlib.__file__)
    while entry is not None and entry.tb_next is not None and entry.tb_frame.f_code.co_filename in ours:
        entry = entry.tb_next
    return entry


# -- the function ---------------------------------------------------------------

_LockT = TypeVar("_LockT", bound="asyncio.Lock | asyncio.Semaphore | asyncio.Condition")
_Close = Union[Callable[[_T], Any], str]


class _Decorator(Protocol):
    @overload
    def __call__(self, factory: Callable[[], AsyncIterator[_T]], /) -> Resource[_T]: ...
    @overload
    def __call__(self, factory: Callable[[], _LockT], /) -> Resource[_LockT]: ...
    @overload
    def __call__(self, factory: Callable[[], AbstractAsyncContextManager[_T]], /) -> Resource[_T]: ...
    @overload
    def __call__(self, factory: Callable[[], Awaitable[_T]], /) -> Resource[_T]: ...
    @overload
    def __call__(self, factory: Callable[[], _T], /) -> Resource[_T]: ...


class _ClosingDecorator(Protocol):
    @overload
    def __call__(self, factory: Callable[[], Awaitable[_T]], /) -> Resource[_T]: ...
    @overload
    def __call__(self, factory: Callable[[], _T], /) -> Resource[_T]: ...


@overload
def resource(
    factory: None = None, /, *, bridge: Sidecar | None = None, close: None = None
) -> _Decorator: ...
@overload
def resource(
    factory: None = None, /, *, bridge: Sidecar | None = None, close: Callable[[Any], Any] | str
) -> _ClosingDecorator: ...
@overload
def resource(
    factory: Callable[[], Awaitable[_T]], /, *, bridge: Sidecar | None = None, close: _Close[_T]
) -> Resource[_T]: ...
@overload
def resource(
    factory: Callable[[], _T], /, *, bridge: Sidecar | None = None, close: _Close[_T]
) -> Resource[_T]: ...
@overload
def resource(
    factory: Callable[[], AsyncIterator[_T]], /, *, bridge: Sidecar | None = None
) -> Resource[_T]: ...
@overload
def resource(factory: Callable[[], _LockT], /, *, bridge: Sidecar | None = None) -> Resource[_LockT]: ...
@overload
def resource(
    factory: Callable[[], AbstractAsyncContextManager[_T]], /, *, bridge: Sidecar | None = None
) -> Resource[_T]: ...
@overload
def resource(factory: Callable[[], Awaitable[_T]], /, *, bridge: Sidecar | None = None) -> Resource[_T]: ...
@overload
def resource(factory: Callable[[], _T], /, *, bridge: Sidecar | None = None) -> Resource[_T]: ...
def resource(factory: Any = None, /, *, bridge: Sidecar | None = None, close: Any = None) -> Any:
    """A loop-bound object (a client, a pool): made once per worker, on its loop, and closed at its exit.

    factory: an async generator function that yields the object once, and closes it after the yield; a
        function that returns an async context manager, which is entered and left; a coroutine function, or
        any other function, whose result is the object and is closed by ``close`` alone. It runs on the
        bridge's loop, all of it in one task with one context, empty at first.
    bridge: where it lives; ``None``: on this process's own bridge. It is not kept alive by the resource.
    close: a function of the object, or the name of one of its methods; awaited where it is async. With it, a
        context manager is not entered.
    Returns a ``Resource``: ``get()`` in sync code, ``await`` in the bridge's coroutines. Also a decorator.
    """
    if factory is None:
        return functools.partial(resource, bridge=bridge, close=close)
    return Resource(factory, bridge, close)
