"""``Synchronizer``: one async library, for blocking and for async callers, on a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import typing
import warnings
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from sidecar._wrap_common import refuse_coroutine, shown
from sidecar.synchronizer.callbacks import Callback
from sidecar.synchronizer.classes import classproperty, wrap_class
from sidecar.synchronizer.cross import cross
from sidecar.synchronizer.functions import BoundMethod, faces, rename
from sidecar.synchronizer.kinds import FACE
from sidecar.synchronizer.life import Life, drop_with
from sidecar.synchronizer.stays import Context
from sidecar.synchronizer.translate import Translator

if TYPE_CHECKING:
    from sidecar._loop import BridgeLoop

__all__ = ["Synchronizer", "classproperty"]

_T = TypeVar("_T")
_Original = TypeVar("_Original")
_Wrapper = TypeVar("_Wrapper")


class Synchronizer:
    """An async library's two faces, and the loop that it runs on: an isolated bridge.

    multiwrap_warning: warn where something is wrapped that already is.
    async_leakage_warning: warn where a wrapped coroutine function returns a coroutine or an async generator.
    blocking_in_async_callback: called with the library's function where code in a running event loop, which it
        stops meanwhile, calls a blocking face.
    finalizer_timeout: seconds that who leaves a generator early waits for its cleanup, which goes on after that.
    name: of the bridge, in thread names and messages.

    Its loop starts with the first call or by ``start()``, again after ``close()``, and anew in the child of a fork.
    Pickled, it keeps its settings; what it has wrapped is not part of it.
    """

    class_prefix = "Blocking"
    function_prefix = "blocking_"
    aio_prefix = "aio_"

    def __init__(
        self,
        multiwrap_warning: bool = False,
        async_leakage_warning: bool = True,
        blocking_in_async_callback: Callable[[Any], object] | None = None,
        *,
        finalizer_timeout: float = 10.0,
        name: str = "Synchronizer",
    ) -> None:
        self._multiwrap_warning = multiwrap_warning
        self._async_leakage_warning = async_leakage_warning
        self._blocking_in_async_callback = blocking_in_async_callback
        self.finalizer_timeout = finalizer_timeout
        self._name = name
        self._prepare()

    def _prepare(self) -> None:
        self._life = Life(self._name)
        self._translator = Translator(self._enter)
        self._life.at_fork.append(weakref.WeakMethod(self._translator.after_fork))
        number = self._translator.number
        self._nowrap_key = f"_sidecar_nowrap_{number}"
        self._way_keys = {"in": f"_sidecar_inward_{number}", "out": f"_sidecar_outward_{number}"}
        drop_with(self, self._life)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name in _SETTINGS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._prepare()

    def __repr__(self) -> str:
        state = "not running" if self.get_loop() is None else "running"
        return f"<sidecar.Synchronizer {self._name!r} {state}>"

    # -- its loop -------------------------------------------------------------------

    def start(self) -> asyncio.AbstractEventLoop:
        """Start its loop, from any thread; where it runs already, nothing more. Returns the loop."""
        return self._life.bridge().get_loop()

    def close(self) -> None:
        """End its loop: what runs is cancelled, and its cleanup waited for. The next call starts another one.

        Raises ``DeadlockError`` inside a coroutine of it.
        """
        self._life.close()

    def get_loop(self) -> asyncio.AbstractEventLoop | None:
        """Its loop, or ``None`` where it does not run. Never starts it."""
        return self._life.loop()

    @property
    def thread(self) -> threading.Thread | None:
        """The thread that runs its loop whenever no blocking caller does; ``None`` where it does not run."""
        return self._life.thread()

    # -- wrapping -------------------------------------------------------------------

    def wrap(self, obj: Any, name: str | None = None, target_module: str | None = None) -> Any:
        """The outside of a function, an async generator, an async context manager or a class of the library.

        name: what it is called outside; by default its own name after ``blocking_`` or ``Blocking``.
        target_module: where it is to be found.

        A wrapped function blocks; ``.aio`` awaits, and ``.future``, or ``_future=True``, returns a
        ``concurrent.futures.Future``. A wrapped class makes proxies. The same object is wrapped once.
        Raises ``TypeError`` for anything else.
        """
        refuse_coroutine(obj, "wrap")
        present = self._present(obj)
        if present is not None:
            if self._multiwrap_warning:
                warnings.warn(f"{shown(obj)} is already wrapped, but getting wrapped again", stacklevel=2)
            return present
        if isinstance(obj, type):
            made: Any = wrap_class(self, obj, name, target_module)
        elif isinstance(obj, TypeVar) or type(obj).__name__ == "ParamSpec":
            return obj
        elif self._translator.wrapper_of(type(obj)) is not None:
            return self._translator.scalar_out(obj)
        elif callable(obj):
            made = faces(self, obj)
            own = getattr(made, "__name__", type(obj).__name__)
            rename(made, name or self.function_prefix + own, name or self.aio_prefix + own, target_module)
        else:
            raise TypeError(f"wrap() takes a function or a class, not {shown(obj)}")
        with contextlib.suppress(AttributeError, TypeError):  # a builtin function or a slotted object keeps nothing
            setattr(obj, self._translator.wrapper_key, made)
        return made

    def _present(self, obj: Any) -> Any:
        held = getattr(obj, "__dict__", {})
        if (held.get(FACE) is self and not self._translator.is_copied(held)) or (
            isinstance(obj, type) and self._translator.original_key in held
        ):
            return obj
        wrapper = held.get(self._translator.wrapper_key)
        # Decorators copy what a function holds: then it is another one's.
        return wrapper if wrapper is not None and vars(wrapper).get(self._translator.original_key) is obj else None

    def create_callback(self, function: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
        """A function of the caller's as a coroutine function for the library: it runs on a pool's thread.

        Its arguments are translated outwards and its result inwards.
        """
        return Callback(self, function)

    def is_synchronized(self, obj: Any) -> bool:
        """Whether it is a wrapper that this has made, or a proxy."""
        return self._translator.is_known(obj.func if isinstance(obj, BoundMethod) else obj)

    def register_external_wrapper_class(
        self,
        impl_cls: type[_Original],
        wrapper_cls: type[_Wrapper],
        *,
        translate_in: Callable[[_Wrapper], _Original],
        translate_out: Callable[[_Original], _Wrapper],
    ) -> None:
        """Have objects of exactly these two classes translated by functions of one's own.

        Raises ``RuntimeError`` where one of them is registered with another class.
        """
        self._translator.register(impl_cls, wrapper_cls, translate_in, translate_out)

    def nowrap(self, obj: _T) -> _T:
        """Mark a method that is to run on the proxy, as it is."""
        setattr(obj, self._nowrap_key, True)
        return obj

    def no_input_translation(self, obj: _T) -> _T:
        """Mark a function whose arguments are not translated."""
        setattr(obj, self._way_keys["in"], False)
        return obj

    def no_output_translation(self, obj: _T) -> _T:
        """Mark a function whose result is not translated."""
        setattr(obj, self._way_keys["out"], False)
        return obj

    def no_io_translation(self, obj: _T) -> _T:
        """Both: nothing that crosses is translated."""
        return self.no_input_translation(self.no_output_translation(obj))

    # -- translation ----------------------------------------------------------------

    def translate_in(self, obj: Any) -> Any:
        """What the library gets for it: proxies and wrappers as what is behind them; in lists, tuples, dicts, too."""
        return self._translator.inward(obj)

    def translate_out(self, obj: Any) -> Any:
        """What callers get for it: objects of wrapped classes as their proxies; in lists, tuples, dicts, too."""
        return self._translator.outward(obj)

    def _enter(self, obj: Any) -> Any:
        if isinstance(obj, contextlib._AsyncGeneratorContextManager):
            return Context(self, obj)
        return obj

    def _translates(self, function: Any, way: str) -> bool:
        return bool(getattr(function, self._way_keys[way], True))

    def _copy_marks(self, marked: Any, function: Any) -> None:
        """From a static or class method to its function."""
        for key in self._way_keys.values():
            if getattr(marked, key, True) is False:
                setattr(function, key, False)

    # -- running --------------------------------------------------------------------

    def _block(self, coro: Coroutine[Any, Any, Any], name: str, function: Any = None) -> Any:
        life = self._life
        if self._blocking_in_async_callback is not None and function is not None:
            if asyncio._get_running_loop() is not None and not life.is_here():
                try:
                    self._blocking_in_async_callback(function)
                except BaseException:
                    coro.close()
                    raise
        return life.bridge().run_sync(coro)

    async def _await(self, coro: Coroutine[Any, Any, Any], name: str) -> Any:
        try:
            loop = self._life.loop() or await self._start_elsewhere()
        except BaseException:
            coro.close()
            raise
        if asyncio.get_running_loop() is loop:
            return await coro
        return await cross(loop, coro, name)

    async def _start_elsewhere(self) -> BridgeLoop:
        """A start takes a thread's start, and hooks: not on the caller's loop."""
        loop: Any = await asyncio.get_running_loop().run_in_executor(None, self.start)
        return typing.cast("BridgeLoop", loop)

    def _submit(self, coro: Coroutine[Any, Any, Any]) -> Future[Any]:
        return self._life.bridge().submit(coro)


_SETTINGS = frozenset(
    (
        "_multiwrap_warning",
        "_async_leakage_warning",
        "_blocking_in_async_callback",
        "finalizer_timeout",
        "_name",
    )
)
