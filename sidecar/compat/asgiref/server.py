"""``asgiref.server``: a base for servers whose clients have no connections of their own."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from typing import Any

from sidecar.compat.asgiref.compatibility import guarantee_single_callable

__all__ = ["StatelessServer"]

logger = logging.getLogger(__name__)


class StatelessServer:
    """Keeps one call of the application for each scope that messages come for.

    ``handle()`` and ``application_send()`` are the server's own. max_applications: the call that was used least
    recently is cancelled where there would be more.
    """

    application_checker_interval: float = 0.1

    def __init__(self, application: Any, max_applications: int = 1000) -> None:
        self.application = application
        self.max_applications = max_applications
        self.application_instances: dict[Any, dict[str, Any]] = {}

    def run(self) -> None:
        """Serve, on an event loop of its own, until ``handle()`` returns or Ctrl-C comes."""
        try:
            asyncio.run(self.arun())
        except KeyboardInterrupt:
            logger.info("Exiting due to Ctrl-C/interrupt")

    async def arun(self) -> None:
        """Serve on the running event loop."""
        checker = asyncio.ensure_future(self.application_checker())
        try:
            await self.handle()
        finally:
            checker.cancel()
            await asyncio.gather(checker, return_exceptions=True)

    async def handle(self) -> None:
        """Read messages, and put each into the queue of its call."""
        raise NotImplementedError("You must implement handle()")

    async def application_send(self, scope: Any, message: Any) -> None:
        """Send what the application of that scope has sent."""
        raise NotImplementedError("You must implement application_send()")

    def get_or_create_application_instance(self, scope_id: Any, scope: Any) -> asyncio.Queue[Any]:
        """The queue that the call for this scope receives from; it is begun where there is none."""
        known = self.application_instances.get(scope_id)
        if known is None:
            while len(self.application_instances) >= self.max_applications:
                self.delete_oldest_application_instance()
            known = self.application_instances[scope_id] = self._begun(scope)
        known["last_used"] = time.time()
        queue: asyncio.Queue[Any] = known["input_queue"]
        return queue

    def _begun(self, scope: Any) -> dict[str, Any]:
        queue: asyncio.Queue[Any] = asyncio.Queue()

        async def send(message: Any) -> None:
            await self.application_send(scope, message)

        application = guarantee_single_callable(self.application)
        future = asyncio.ensure_future(application(scope=scope, receive=queue.get, send=send))
        return {"input_queue": queue, "future": future, "scope": scope}

    def delete_oldest_application_instance(self) -> None:
        if self.application_instances:
            oldest = min(self.application_instances, key=lambda each: self.application_instances[each]["last_used"])
            self.delete_application_instance(oldest)

    def delete_application_instance(self, scope_id: Any) -> None:
        """Forget it; it is cancelled if it still runs."""
        details = self.application_instances.pop(scope_id)
        if not details["future"].done():
            details["future"].cancel()

    async def application_checker(self) -> None:
        """Look for calls that have ended, again and again."""
        while True:
            await asyncio.sleep(self.application_checker_interval)
            for scope_id, details in list(self.application_instances.items()):
                if self.application_instances.get(scope_id) is not details or not details["future"].done():
                    continue
                error = None if details["future"].cancelled() else details["future"].exception()
                if error is not None:
                    await self.application_exception(error, details)
                self.application_instances.pop(scope_id, None)

    async def application_exception(self, exception: BaseException, application_details: dict[str, Any]) -> None:
        """Called with what a call has raised; by default it is logged."""
        text = "".join(traceback.format_exception(type(exception), exception, exception.__traceback__))
        logger.error("Exception inside application: %s\n%s", exception, text)
