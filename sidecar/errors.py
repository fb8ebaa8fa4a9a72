"""The errors Sidecar raises, each with a number that never changes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno

__all__ = [
    "BridgeClosedError",
    "CallTimeoutError",
    "ClientDisconnected",
    "DeadlineExceeded",
    "DeadlockError",
    "ForkedError",
    "LoopOwnedError",
    "NoCallerError",
    "Overloaded",
    "SidecarError",
]


class SidecarError(Exception):
    """Base of all errors of Sidecar's own.

    ``code`` is the error's number, ``"SC0001"`` and so on; it is also at the end of the message.
    """

    code = "SC0000"


class DeadlockError(SidecarError, RuntimeError):
    """A call that could only wait for itself: made on the thread that is just driving the loop it needs."""

    code = "SC0001"


class BridgeClosedError(SidecarError, RuntimeError):
    """The bridge was shut down, or its loop has come to its end."""

    code = "SC0002"


# One class since 3.11, three before.
_timeouts = dict.fromkeys((TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError))


class CallTimeoutError(SidecarError, *_timeouts):  # type: ignore[misc]
    """The call's ``timeout`` went by. Its coroutine was cancelled, and its cleanup waited for.

    A ``TimeoutError``; on 3.9 and 3.10, where they are other classes, also asyncio's and
    ``concurrent.futures``' one.
    """

    code = "SC0003"


class ForkedError(SidecarError, RuntimeError):
    """The call's event loop stayed behind in the parent process of an ``os.fork``."""

    code = "SC0004"


class LoopOwnedError(SidecarError, RuntimeError):
    """A bridge's loop was told to run, stop or close; only its bridge may do that."""

    code = "SC0005"


class NoCallerError(SidecarError, RuntimeError):
    """``to_caller`` in a coroutine for which no thread waits (any more)."""

    code = "SC0006"


class DeadlineExceeded(CallTimeoutError):
    """The request's deadline has passed. What the call waited for was cancelled, and its cleanup waited for."""

    code = "SC0007"


class ClientDisconnected(SidecarError, ConnectionResetError):
    """The client of the request has gone. What the call waited for was cancelled, and its cleanup waited for.

    A ``ConnectionResetError``: servers take one that leaves the application for what it is, and log no failure.
    """

    code = "SC0008"

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.errno = errno.ECONNRESET


class Overloaded(SidecarError, RuntimeError):
    """There is too much to do already, by a limit that was set; this was not begun.

    limit: which one: a name of ``sidecar.limit()``, or ``"max_calls"`` or ``"max_queue"`` of a bridge.
    retry_after: seconds after which it may be worth another try.

    An application may raise one of its own; the WSGI middleware answers with 503 either way.
    """

    code = "SC0009"

    def __init__(self, *args: object, limit: str | None = None, retry_after: float = 1.0) -> None:
        super().__init__(*args)
        self.limit = limit
        self.retry_after = retry_after
