"""The caller's functions, as coroutine functions for the library."""

from __future__ import annotations

from sidecar.synchronizer.callbacks import Callback

__all__ = ["Callback"]
