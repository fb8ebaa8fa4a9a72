"""Stand-ins, to be replaced by C."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from typing import Any


async def on_pool(bridge: Any, context: contextvars.Context | None, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    context = contextvars.copy_context() if context is None else context
    bridge.get_loop()
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(bridge._pool, lambda: context.run(fn, *args, **kwargs))


class Stream(Iterator[Any]):
    def __init__(self, bridge: Any, source: Any, context: contextvars.Context | None) -> None:
        self._bridge, self._source = bridge, source
        self._context = contextvars.copy_context() if context is None else context
        self._agen: Any = None

    def _step(self, name: str, *args: Any) -> Any:
        async def step() -> Any:
            if self._agen is None:
                source = self._source
                if not hasattr(source, "__aiter__"):
                    source = await source
                self._agen = source.__aiter__()
            return await getattr(self._agen, name)(*args)

        try:
            return self._bridge.run_sync(step(), context=self._context)
        except StopAsyncIteration:
            raise StopIteration from None

    def __next__(self) -> Any:
        return self._step("__anext__")

    def send(self, value: Any) -> Any:
        return self._step("asend", value)

    def throw(self, *args: Any) -> Any:
        return self._step("athrow", *args)

    def close(self) -> None:
        if self._agen is not None:
            self._step("aclose")


def stream(bridge: Any, source: Any, args: Any, prefetch: int, context: Any, kwargs: Any) -> Stream:
    return Stream(bridge, source(*args, **kwargs) if callable(source) else source, context)
