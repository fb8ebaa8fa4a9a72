"""The errors Sidecar raises, each with a number that never changes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno

__all__ = [
    "BridgeClosedError",
    "CallTimeoutError",
    "ClientDisconnected",
    "CpuEngineError",
    "CpuPickleError",
    "CpuRemoteError",
    "CpuWorkerDied",
    "DeadlineExceeded",
    "DeadlockError",
    "ForkRefusedError",
    "ForkedError",
    "LoopOwnedError",
    "NoCallerError",
    "Overloaded",
    "QueueFull",
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


class QueueFull(Overloaded):
    """As many calls wait for a CPU worker, or jobs for a thread of the pool, as may; this was not begun."""

    code = "SC0010"


class CpuWorkerDied(SidecarError, RuntimeError):
    """The worker process died in the middle of this call: it was killed, ran out of memory, or crashed.

    pid: the process that died. exitcode: its exit status; below 0: the number of the signal that killed it.

    Other calls go on, and another worker takes its place. What this one has done so far is not undone.
    """

    code = "SC0011"

    def __init__(self, *args: object, pid: int | None = None, exitcode: int | None = None) -> None:
        super().__init__(*args)
        self.pid = pid
        self.exitcode = exitcode


class CpuPickleError(SidecarError, TypeError):
    """A function, an argument or a result that cannot be pickled on its way to or from a CPU worker."""

    code = "SC0012"


class CpuRemoteError(SidecarError, RuntimeError):
    """In a CPU worker an exception was raised that cannot be pickled; the message has its type and its text."""

    code = "SC0013"


class CpuEngineError(SidecarError, RuntimeError):
    """The CPU engine that was asked for does not work here; the message says what is missing."""

    code = "SC0014"


class ForkRefusedError(SidecarError, RuntimeError):
    """``os.fork`` while a call runs in a sub-interpreter: its child would crash. It was not made."""

    code = "SC0015"
