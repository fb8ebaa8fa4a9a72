"""What one thread has sent to a bridge's loop, and what becomes of it where the loop ends first."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar._loop import BridgeLoop


class Sent:
    """A callback on its way to a loop: it arrives, once, or it is dropped, once.

    A loop that is closed drops what it has not come to: ``loop._sent`` knows it. A finalizer alone would not do:
    without a GIL an object's finalizer waits for the thread that has made it, and that may be waiting for this.
    """

    def send(self, loop: BridgeLoop) -> None:
        """From any thread. Raises ``RuntimeError`` where the loop is closed, and does not drop it then."""
        loop._sent.add(self)
        try:
            loop.call_soon_threadsafe(self._arrive, loop, context=contextvars.Context())
        except BaseException:
            loop._sent.discard(self)
            raise

    def _arrive(self, loop: BridgeLoop) -> None:
        loop._sent.discard(self)
        self.arrive(loop)

    def arrive(self, loop: BridgeLoop) -> None:
        """On the loop."""
        raise NotImplementedError

    def drop(self) -> None:
        """On whatever thread has closed the loop. Harmless where it has arrived or was dropped before."""
        raise NotImplementedError

    def __del__(self) -> None:
        self.drop()


def drop_sent(loop: BridgeLoop) -> None:
    """It is closed: nothing is sent to it any more, and what was has not come."""
    while loop._sent:
        try:
            sent = loop._sent.pop()
        except KeyError:
            return
        sent.drop()
