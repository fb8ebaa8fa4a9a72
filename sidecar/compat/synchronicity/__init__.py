"""synchronicity's names, on ``sidecar.synchronizer``."""

# Not `from __future__ import annotations` here: a submodule has that name.
from sidecar.compat.synchronicity import (
    annotations,
    async_wrap,
    callback,
    combined_types,
    exceptions,
    interface,
    synchronizer,
)
from sidecar.compat.synchronicity.synchronizer import Synchronizer, classproperty

__all__ = [
    "Synchronizer",
    "annotations",
    "async_wrap",
    "callback",
    "classproperty",
    "combined_types",
    "exceptions",
    "interface",
    "synchronizer",
]
