"""The decorator."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from sidecar import _core
from sidecar.anycall import Bridged, _Options
from sidecar.compat.synchronaut.core import CallAnyTimeout, call_any, reword

__all__ = ["call_any", "synchronaut"]


if TYPE_CHECKING:
    _Base = Bridged[..., Any]
else:  # Python 3.9 knows no such parameters
    _Base = Bridged


class _Synchronaut(_Base):
    def __init__(self, func: Callable[..., Any], options: _Options) -> None:
        super().__init__(func, options)
        self._is_plain = options.timeout is None and options.executor is None and not options.force_offload

    @_core.frameless
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._is_plain:
            return call_any(functools.partial(self._func, **kwargs) if kwargs else self._func, *args)
        try:
            return super().__call__(*args, **kwargs)
        except CallAnyTimeout as error:
            reword(error, self, None)
            raise

    def __get__(self, instance: object, owner: type | None = None) -> Bridged[..., Any]:
        bound = super().__get__(instance, owner)
        return bound if bound is self else _Synchronaut(bound._func, bound._options)


def synchronaut(
    *, timeout: float | None = None, executor: Executor | None = None, force_offload: bool | None = False
) -> Callable[[Callable[..., Any]], Bridged[..., Any]]:
    """Calls of the function go through ``call_any`` with these options; ``.sync`` and ``.async_`` are its two faces."""
    options = _Options(timeout, executor, bool(force_offload))
    return lambda func: _Synchronaut(func, options)
