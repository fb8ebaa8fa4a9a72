"""Sidecar: the bridge between sync and async Python that knows the request."""

from __future__ import annotations

from sidecar import errors
from sidecar._bridge import Sidecar, is_running, shutdown
from sidecar._core import Request, WSGIMiddleware, current, get_bridge, run_sync
from sidecar._loop import Loop
from sidecar.errors import BridgeClosedError, CallTimeoutError, DeadlockError, SidecarError

__all__ = [
    "BridgeClosedError",
    "CallTimeoutError",
    "DeadlockError",
    "Loop",
    "Request",
    "Sidecar",
    "SidecarError",
    "WSGIMiddleware",
    "current",
    "errors",
    "get_bridge",
    "is_running",
    "run_sync",
    "shutdown",
]

__version__ = "0.1.0"
