"""Functions of the caller's that the library calls back."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sidecar._wrap_common import cut, shown

if TYPE_CHECKING:
    from sidecar.synchronizer import Synchronizer


class Callback:
    """The caller's function as a coroutine function: it runs on the pool, where it may block, and never on the loop.

    A coroutine function runs on an event loop of its own there.
    """

    def __init__(self, owner: Synchronizer, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise TypeError(f"create_callback() takes a function, not {shown(function)}")
        self.__wrapped__ = function
        self._owner = owner

    def __repr__(self) -> str:
        return f"<callback of {self._owner!r}: {shown(self.__wrapped__)}>"

    async def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        owner = self._owner
        try:
            outside = [owner.translate_out(arg) for arg in args]
            named = {name: owner.translate_out(value) for name, value in kwargs.items()}
            result = await owner._life.bridge()._on_pool(None, self._invoke, outside, named)
            return owner.translate_in(result)
        except BaseException as error:
            cut(error)
            raise

    def _invoke(self, args: list[Any], kwargs: dict[str, Any]) -> Any:
        result = self.__wrapped__(*args, **kwargs)
        if inspect.iscoroutine(result):
            return asyncio.run(result)
        if inspect.isasyncgen(result):
            raise RuntimeError("Async generators are not supported as callbacks")
        if inspect.isgenerator(result):
            result.close()
            raise RuntimeError("Generators are not supported as callbacks")
        return result
