"""synchronaut's names, on ``sidecar.anycall``: sync and async functions called from sync code, asyncio and Trio."""

from __future__ import annotations

from sidecar.compat.synchronaut.core import CallAnyTimeout, call_any, call_map, parallel_map
from sidecar.compat.synchronaut.synchronaut import synchronaut
from sidecar.compat.synchronaut.utils import get_preferred_loop, has_uvloop_policy, install_uvloop, is_uvloop

__all__ = [
    "CallAnyTimeout",
    "call_any",
    "call_map",
    "get_preferred_loop",
    "has_uvloop_policy",
    "is_uvloop",
    "parallel_map",
    "synchronaut",
]

install_uvloop()
