"""The worker pool as ``concurrent.futures`` knows one."""

from __future__ import annotations

import concurrent.futures

from sidecar import _core

__all__ = ["WorkerPool"]


class WorkerPool(_core.Pool, concurrent.futures.Executor):
    """The bridge's threads for blocking functions: a ``concurrent.futures.Executor`` in C."""
