"""``asgiref.local``: thread-local data that follows a request through threads and tasks."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Any

from sidecar.compat.asgiref._places import home, is_bridge, running_loop, waiter

__all__ = ["Local"]


class _Values(dict[str, Any]):
    """Never changed once it is set: contexts share it. home: whose it is; None: any."""

    __slots__ = ("home",)
    home: object


class Local:
    """An object whose attributes are those of the running task, or of this thread outside of tasks.

    They come along through ``sync_to_async`` and ``async_to_sync``, both ways; another thread does not see them,
    though it may have a copy of the context.

    thread_critical: each thread has its own for good, and a task another; nothing comes along.
    """

    __slots__ = ("__weakref__",)

    def __new__(cls, thread_critical: bool = False) -> Local:
        if cls is Local:
            return super().__new__(_ThreadCriticalLocal if thread_critical else _DefaultLocal)
        if cls not in (_DefaultLocal, _ThreadCriticalLocal):
            raise TypeError("asgiref.local.Local cannot be subclassed")
        return super().__new__(cls)

    def __init__(self, thread_critical: bool = False) -> None:
        """What ``__new__`` has made is whole."""

    def __getattr__(self, key: str) -> Any:
        raise NotImplementedError

    def __setattr__(self, key: str, value: Any) -> None:
        raise NotImplementedError

    def __delattr__(self, key: str) -> None:
        raise NotImplementedError

    def _missing(self, key: str) -> AttributeError:
        return AttributeError(f"{self!r} object has no attribute {key!r}")


def _guard(key: str) -> None:
    if key == "_data":
        raise AttributeError("Cannot set attribute '_data' on Local")


_set = object.__setattr__


class _DefaultLocal(Local):
    __slots__ = ("_data",)
    _data: ContextVar[_Values]

    def __init__(self, thread_critical: bool = False) -> None:
        _set(self, "_data", ContextVar("asgiref.local"))

    def __getattr__(self, key: str) -> Any:
        values = self._data.get(None)
        if values is not None and key in values and _is_seen(values, home()):
            return values[key]
        raise self._missing(key)

    def __setattr__(self, key: str, value: Any) -> None:
        _guard(key)
        here = home()
        changed = _copied(self._data.get(None), here)
        changed[key] = value
        self._data.set(changed)

    def __delattr__(self, key: str) -> None:
        here = home()
        values = self._data.get(None)
        if values is None or key not in values or not _is_seen(values, here):
            raise self._missing(key)
        changed = _copied(values, here)
        del changed[key]
        self._data.set(changed)


def _is_seen(values: _Values, here: object) -> bool:
    return here is None or values.home is None or values.home == here


def _copied(values: _Values | None, here: object) -> _Values:
    if values is None or not _is_seen(values, here):
        changed = _Values()
        changed.home = here
    else:
        changed = _Values(values)
        # A coroutine that moves between threads changes what is in it, not whose it is.
        changed.home = values.home if here is None else here
    return changed


class _ThreadCriticalLocal(Local):
    __slots__ = ("_data", "_in_tasks")
    _data: threading.local
    _in_tasks: ContextVar[_Values]

    def __init__(self, thread_critical: bool = False) -> None:
        _set(self, "_data", threading.local())
        _set(self, "_in_tasks", ContextVar("asgiref.local"))

    def _present(self) -> dict[str, Any] | None:
        if running_loop() is None:
            return self._data.__dict__
        values = self._in_tasks.get(None)
        return values if values is not None and values.home == _call_here() else None

    def __getattr__(self, key: str) -> Any:
        present = self._present()
        if present is not None and key in present:
            return present[key]
        raise self._missing(key)

    def __setattr__(self, key: str, value: Any) -> None:
        _guard(key)
        if running_loop() is None:
            self._data.__dict__[key] = value
            return
        changed = _Values(self._present() or {})
        changed.home = _call_here()
        changed[key] = value
        self._in_tasks.set(changed)

    def __delattr__(self, key: str) -> None:
        present = self._present()
        if present is None or key not in present:
            raise self._missing(key)
        if running_loop() is None:
            del present[key]
            return
        changed = _Values(present)
        changed.home = _call_here()
        del changed[key]
        self._in_tasks.set(changed)


def _call_here() -> object:
    """What a task's own data belongs to: the thread that runs its loop; on a bridge the outermost call."""
    if not is_bridge(running_loop()):
        return threading.get_ident()
    caller = waiter.get(None)
    return None if caller is None else caller.root
