"""Sidecar: the bridge between sync and async Python that knows the request."""

from __future__ import annotations

from sidecar import errors
from sidecar._bridge import Sidecar, is_running, shutdown
from sidecar._calls import gather, run_cpu, stream, submit
from sidecar._core import (
    ASGIMiddleware,
    Policy,
    Request,
    Stream,
    WSGIMiddleware,
    current,
    get_bridge,
    run_sync,
    to_caller,
)
from sidecar._lifespan import on_worker_start, on_worker_stop
from sidecar._limits import limit
from sidecar._loop import Loop
from sidecar._resource import Resource, resource
from sidecar._stopping import is_stopping, stopping
from sidecar._wrappers import enter_context, to_async, to_sync, wrap_context
from sidecar.errors import (
    BridgeClosedError,
    CallTimeoutError,
    ClientDisconnected,
    CpuEngineError,
    CpuPickleError,
    CpuRemoteError,
    CpuWorkerDied,
    DeadlineExceeded,
    DeadlockError,
    ForkRefusedError,
    NoCallerError,
    Overloaded,
    QueueFull,
    SidecarError,
)

__all__ = [
    "ASGIMiddleware",
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
    "Loop",
    "NoCallerError",
    "Overloaded",
    "Policy",
    "QueueFull",
    "Request",
    "Resource",
    "Sidecar",
    "SidecarError",
    "Stream",
    "WSGIMiddleware",
    "current",
    "enter_context",
    "errors",
    "gather",
    "get_bridge",
    "is_running",
    "is_stopping",
    "limit",
    "on_worker_start",
    "on_worker_stop",
    "resource",
    "run_cpu",
    "run_sync",
    "shutdown",
    "stopping",
    "stream",
    "submit",
    "to_async",
    "to_caller",
    "to_sync",
    "wrap_context",
]

__version__ = "0.1.0"
