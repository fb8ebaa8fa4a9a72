"""Async context managers of a Synchronizer, for ``with`` and ``async with``; each stay is one task."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sidecar._submit import _context_of_nobody
from sidecar._wrap_common import cut, set_cause_in_body, shown
from sidecar._wrap_sync import Stay
from sidecar.synchronizer.streams import Producer, asend, closed_before

if TYPE_CHECKING:
    from sidecar.synchronizer import Synchronizer

_ExcInfo = tuple[Any, ...]


async def _stay(manager: Any, suppressed: list[bool]) -> AsyncGenerator[Any, Any]:
    kind = type(manager)
    value = await kind.__aenter__(manager)
    try:
        exc_info = yield value
    except BaseException as error:
        # Nobody leaves it any more: the loop comes to its end.
        end = asyncio.CancelledError() if isinstance(error, GeneratorExit) else error
        if not await kind.__aexit__(manager, type(end), end, end.__traceback__):
            raise
        return
    suppressed.append(bool(await kind.__aexit__(manager, *exc_info)))


async def _end(generator: Any, exc_info: _ExcInfo) -> None:
    try:
        await generator.asend(exc_info)
    except StopAsyncIteration:
        return
    raise RuntimeError("a stay went on after its end")


def _who() -> object:
    """The task, or the thread, whose stay it is: several may be inside at once."""
    running = asyncio._get_running_loop()
    task = None if running is None else asyncio.current_task(running)
    return threading.get_ident() if task is None else task


class _Awaited:
    """A stay that was entered by ``async with``. Used on its loop."""

    def __init__(self, owner: Synchronizer, manager: Any) -> None:
        self.who = _who()
        self._manager = manager
        self._suppressed: list[bool] = []
        self._producer = Producer(owner, _stay(manager, self._suppressed))

    async def enter(self) -> Any:
        return await self._producer.step(asend)

    async def leave(self, exc_info: _ExcInfo) -> bool:
        if self._producer.over or self._producer.is_lost():
            raise closed_before(self._manager, "left")
        try:
            await self._producer.step(_end, exc_info)
        except BaseException as raised:
            set_cause_in_body(raised, exc_info[1])
            raise
        return bool(self._suppressed and self._suppressed[0])


class _Blocking:
    """A stay that was entered by ``with``: a stream, for which no task is woken. Used by callers."""

    def __init__(self, owner: Synchronizer, manager: Any) -> None:
        self.who = _who()
        self._life = owner._life
        self._manager = manager
        self._bridge = owner._life.bridge()
        self._stay = Stay(manager, self._bridge, _context_of_nobody())

    def enter(self) -> Any:
        return self._stay.enter()

    def leave(self, exc_info: _ExcInfo) -> bool:
        if not self._life.is_present(self._bridge):
            raise closed_before(self._manager, "left")
        return self._stay.leave(*exc_info)


class Stays:
    """The stays in one async context manager: entered and left in one task each, whichever side does either."""

    def __init__(self, owner: Synchronizer, manager: Any) -> None:
        self._owner = owner
        self._manager = manager
        self._open: list[_Awaited | _Blocking] = []

    def _take(self, who: object) -> _Awaited | _Blocking | None:
        """The innermost that is ``who``'s; of nobody's, for another one may leave it, just the innermost."""
        while True:
            present = list(self._open)
            if not present:
                return None
            found = next((stay for stay in reversed(present) if stay.who == who), present[-1])
            try:
                self._open.remove(found)
            except ValueError:
                continue  # another thread has just taken it
            return found

    async def _leave_unknown(self, exc_info: _ExcInfo) -> bool:
        """Entered by other means, before it was wrapped, say."""
        return bool(await type(self._manager).__aexit__(self._manager, *exc_info))

    # -- with -----------------------------------------------------------------------

    def enter_blocking(self) -> Any:
        stay = _Blocking(self._owner, self._manager)
        value = stay.enter()
        self._open.append(stay)
        return value

    def leave_blocking(self, exc_info: _ExcInfo) -> bool:
        stay = self._take(_who())
        if isinstance(stay, _Blocking):
            return stay.leave(exc_info)
        leaving = self._leave_unknown(exc_info) if stay is None else stay.leave(exc_info)
        left: bool = self._owner._block(leaving, self._name("__aexit__"))
        return left

    # -- async with -----------------------------------------------------------------

    def enter(self) -> tuple[Coroutine[Any, Any, Any], str]:
        return self._enter(_Awaited(self._owner, self._manager)), self._name("__aenter__")

    async def _enter(self, stay: _Awaited) -> Any:
        value = await stay.enter()
        self._open.append(stay)
        return value

    def leave(self, exc_info: _ExcInfo) -> tuple[Coroutine[Any, Any, bool], str]:
        return self._leave(_who(), exc_info), self._name("__aexit__")

    async def _leave(self, who: object, exc_info: _ExcInfo) -> bool:
        stay = self._take(who)
        if stay is None:
            return await self._leave_unknown(exc_info)
        if isinstance(stay, _Blocking):
            left: bool = await self._owner._life.bridge()._on_pool(None, stay.leave, exc_info)
            return left
        return await stay.leave(exc_info)

    def _name(self, method: str) -> str:
        return f"{type(self._manager).__qualname__}.{method}"


class Context:
    """An async context manager that a wrapped function has returned: for ``with`` and ``async with``."""

    def __init__(self, owner: Synchronizer, manager: Any) -> None:
        self.__wrapped__ = manager
        self._owner = owner
        self._stays = Stays(owner, manager)
        # Passed back in, it is the manager itself.
        self.__dict__[owner._translator.original_key] = manager

    def __repr__(self) -> str:
        return f"<context manager of {self._owner!r}: {shown(self.__wrapped__)}>"

    def __enter__(self) -> Any:
        try:
            return self._owner.translate_out(self._stays.enter_blocking())
        except BaseException as error:
            cut(error)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            suppressed: bool = self._stays.leave_blocking((kind, error, traceback))
        except BaseException as raised:
            cut(raised)
            raise
        return suppressed

    async def __aenter__(self) -> Any:
        try:
            return self._owner.translate_out(await self._owner._await(*self._stays.enter()))
        except BaseException as error:
            cut(error)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            suppressed: bool = await self._owner._await(*self._stays.leave((kind, error, traceback)))
        except BaseException as raised:
            cut(raised)
            raise
        return suppressed
