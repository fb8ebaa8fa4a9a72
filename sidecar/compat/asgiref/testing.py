"""``asgiref.testing``: talk to an ASGI application as a server does."""

from __future__ import annotations

import asyncio
import contextvars
import time
from typing import Any

from sidecar.compat.asgiref.compatibility import guarantee_single_callable

__all__ = ["ApplicationCommunicator"]


class ApplicationCommunicator:
    """One call of an application, begun with the first message in an empty context.

    application: of ASGI 3, or 2.
    """

    def __init__(self, application: Any, scope: Any) -> None:
        self.application = guarantee_single_callable(application)
        self.scope = scope
        self._input_queue: asyncio.Queue[Any] | None = None
        self._output_queue: asyncio.Queue[Any] | None = None
        self._future: asyncio.Task[Any] | None = None

    @property
    def input_queue(self) -> asyncio.Queue[Any]:
        if self._input_queue is None:
            self._input_queue = asyncio.Queue()
        return self._input_queue

    @property
    def output_queue(self) -> asyncio.Queue[Any]:
        if self._output_queue is None:
            self._output_queue = asyncio.Queue()
        return self._output_queue

    @property
    def future(self) -> asyncio.Task[Any]:
        if self._future is None:
            # Made here: on Python 3.9 a queue belongs to the loop that runs when it is made.
            receive, send = self.input_queue.get, self.output_queue.put
            # Not what the test has set in its own context.
            self._future = contextvars.Context().run(
                asyncio.get_running_loop().create_task, self.application(self.scope, receive, send)
            )
        return self._future

    async def wait(self, timeout: float = 1) -> None:
        """Until it returns, and raise what it raised; it is cancelled at the end of the time."""
        try:
            await asyncio.wait_for(asyncio.shield(self.future), timeout)
            self.future.result()
        except (asyncio.TimeoutError, asyncio.CancelledError) as error:
            if self.future.cancelled():
                return
            await self._cancel()
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            if not self.future.done():
                await self._cancel()

    async def _cancel(self) -> None:
        self.future.cancel()
        await asyncio.wait([self.future])

    def stop(self, exceptions: bool = True) -> None:
        """Cancel it; or, where it is over, raise what it raised."""
        if self._future is None:
            return
        if not self._future.done():
            self._future.cancel()
        elif exceptions:
            self._future.result()

    def __del__(self) -> None:
        try:
            self.stop(exceptions=False)
        except RuntimeError:
            pass  # its event loop was closed

    async def send_input(self, message: Any) -> None:
        """Have the application receive it."""
        self._raise_if_over()
        await self.input_queue.put(message)

    async def receive_output(self, timeout: float = 1) -> Any:
        """What it sends next. Where nothing comes in time it is cancelled, and ``asyncio.TimeoutError`` raised."""
        self._raise_if_over()
        try:
            return await asyncio.wait_for(self.output_queue.get(), timeout)
        except asyncio.TimeoutError:
            if self.future.done():
                self.future.result()
            else:
                await self._cancel()
            raise

    def _raise_if_over(self) -> None:
        """An error of its own comes first; what it has sent before it ended can still be received."""
        if self.future.done() and not self.future.cancelled():
            self.future.result()

    async def receive_nothing(self, timeout: float = 0.1, interval: float = 0.01) -> bool:
        """Whether it sends nothing within that time; looked at every ``interval``."""
        self._raise_if_over()
        until = time.monotonic() + timeout
        while time.monotonic() + interval < until:
            if not self.output_queue.empty():
                return False
            await asyncio.sleep(interval)
        return self.output_queue.empty()
