"""The two interfaces of what is wrapped, and what wrappers are called by default."""

from __future__ import annotations

import enum

from sidecar.synchronizer import Synchronizer

__all__ = ["DEFAULT_CLASS_PREFIX", "DEFAULT_FUNCTION_PREFIXES", "Interface"]


class Interface(enum.Enum):
    BLOCKING = 1
    # Of functions only: all classes are blocking ones, and have ``.aio`` on their methods.
    _ASYNC_WITH_BLOCKING_TYPES = 2


DEFAULT_CLASS_PREFIX = Synchronizer.class_prefix
DEFAULT_FUNCTION_PREFIXES = {
    Interface.BLOCKING: Synchronizer.function_prefix,
    Interface._ASYNC_WITH_BLOCKING_TYPES: Synchronizer.aio_prefix,
}
