"""``Synchronizer``: sidecar's own, by the names and with the messages that synchronicity's users know."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Coroutine
from typing import Any

from sidecar.compat.synchronicity.combined_types import FunctionWithAio, MethodWithAio
from sidecar.compat.synchronicity.interface import DEFAULT_CLASS_PREFIX, DEFAULT_FUNCTION_PREFIXES, Interface
from sidecar.compat.synchronicity.interrupts import runs_in_main_thread, uninterrupted
from sidecar.errors import DeadlockError
from sidecar.synchronizer import Synchronizer as _Synchronizer
from sidecar.synchronizer import classproperty

__all__ = [
    "DEFAULT_CLASS_PREFIX",
    "DEFAULT_FUNCTION_PREFIXES",
    "FunctionWithAio",
    "Interface",
    "MethodWithAio",
    "Synchronizer",
    "classproperty",
]


class Synchronizer(_Synchronizer):
    """``sidecar.synchronizer.Synchronizer``, with the members that synchronicity's has beside.

    Those that begin with an underscore are in wide use there; they have public names here: ``start()``, ``close()``,
    ``get_loop()``, ``thread``, ``translate_in()``, ``translate_out()``, ``finalizer_timeout``.
    """

    def wrap(self, obj: Any, name: str | None = None, target_module: str | None = None) -> Any:
        if name is not None and type(obj).__name__ in ("TypeVar", "ParamSpec"):
            # One of the wrappers' own, which only stubs tell from the library's.
            from sidecar.type_stubs.crossing import wrapped_variable

            return wrapped_variable(self, obj, name, target_module)
        present = self._present(obj)
        if present is None:
            return self._with_faces(super().wrap(obj, name, target_module))
        if self._multiwrap_warning:
            warnings.warn(f"Object {obj} is already wrapped, but getting wrapped again", stacklevel=2)
        return present

    def create_blocking(self, obj: Any, name: str | None = None, target_module: str | None = None) -> Any:
        """The same as ``wrap()``."""
        return self.wrap(obj, name, target_module)

    def _with_faces(self, made: Any) -> Any:
        """A class has its static methods' faces where synchronicity's has them: in its own ``__dict__``."""
        if isinstance(made, type):
            for name, value in list(vars(made).items()):
                if type(value) is staticmethod and hasattr(value.__func__, "aio"):
                    setattr(made, name, FunctionWithAio(value.__func__, value.__func__.aio, self))
        return made

    def _block(self, coro: Coroutine[Any, Any, Any], name: str, function: Any = None) -> Any:
        try:
            if runs_in_main_thread():
                return uninterrupted(super()._block, coro, name, function)
            return super()._block(coro, name, function)
        except DeadlockError as error:
            # A coroutine of its own that blocks. Else it is one that the coroutine itself has met with.
            if self._life.is_here():
                said = "Deadlock detected: calling a sync function from the synchronizer loop"
                raise DeadlockError(f"{said} [{DeadlockError.code}]") from error
            raise

    # -- names in use -----------------------------------------------------------------

    def _start_loop(self) -> asyncio.AbstractEventLoop:
        return self.start()

    def _close_loop(self) -> None:
        self.close()

    def _get_loop(self, start: bool = False) -> asyncio.AbstractEventLoop | None:
        return self.start() if start else self.get_loop()

    @property
    def _loop(self) -> asyncio.AbstractEventLoop | None:
        return self.get_loop()

    @property
    def _thread(self) -> threading.Thread | None:
        return self.thread

    def _is_inside_loop(self) -> bool:
        return self._life.is_here()

    def _translate_in(self, obj: Any) -> Any:
        return self.translate_in(obj)

    def _translate_out(self, obj: Any, interface: Interface | None = None) -> Any:
        return self.translate_out(obj)

    @property
    def _asyncgen_finalizer_timeout_seconds(self) -> float:
        return self.finalizer_timeout

    @_asyncgen_finalizer_timeout_seconds.setter
    def _asyncgen_finalizer_timeout_seconds(self, seconds: float) -> None:
        self.finalizer_timeout = seconds
