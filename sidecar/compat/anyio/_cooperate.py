"""What is anyio's own: asked for only where anyio is there already, so that nothing here depends on it."""

from __future__ import annotations

import contextvars
import importlib
import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Any

NO_WORKER = "Not running inside an AnyIO worker thread, and no event loop token was provided"
NO_WORKER_TO_CHECK = "This function can only be called inside an AnyIO worker thread"

_NAME = "anyio.from_thread"
_original: ModuleType | None = None


def new_scope(*, shield: bool = False) -> Any:
    """A cancel scope of anyio's for the task that enters it; ``None`` in a process that does not use anyio."""
    anyio = sys.modules.get("anyio")
    return None if anyio is None else anyio.CancelScope(shield=shield)


def is_in_use(name: str) -> bool:
    """Whether somebody has imported it."""
    return sys.modules.get(name) is not None


def tell_sniffio(context: contextvars.Context) -> bool:
    """A context that comes from a task of Trio's: what runs in it here runs on asyncio. Whether it was one."""
    sniffio = sys.modules.get("sniffio")
    if sniffio is None or context.get(sniffio.current_async_library_cvar) in (None, "asyncio"):
        return False
    context.run(sniffio.current_async_library_cvar.set, "asyncio")
    return True


def original(missing: str) -> ModuleType:
    """anyio's own ``from_thread``, also where this package's stands in its place.

    Raises ``RuntimeError(missing)`` without anyio: no thread is one of its workers then.
    """
    global _original
    if _original is None:
        try:
            _original = _load()
        except ImportError:
            raise RuntimeError(missing) from None
    return _original


def _load() -> ModuleType:
    module = importlib.import_module(_NAME)
    if module.__name__ == _NAME:
        return module
    anyio = importlib.import_module("anyio")
    spec = importlib.machinery.PathFinder.find_spec(_NAME, anyio.__path__)
    if spec is None or spec.loader is None:
        raise ImportError(_NAME)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
