"""The engine of sub-interpreters: threads of this process, each with an interpreter and a GIL of its own.

The pool is in C (``sidecar/core/interpreter_pool.h``); here is what is better said in Python: where a function is
found, what is pickled, and what becomes of errors.
"""

from __future__ import annotations

import importlib.util
import marshal
import os
import pickle
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from sidecar import _core
from sidecar._support import logger
from sidecar.cpu import pickling
from sidecar.cpu.engine import Call, CpuFuture, Engine, RefusedByInterpreter
from sidecar.errors import CpuEngineError, CpuPickleError, CpuRemoteError, ForkRefusedError

__all__ = ["InterpreterEngine", "refuse_fork"]

_PROTOCOL = 5
_FAR = "sidecar.cpu.far_interpreter"
_REFUSALS = ("does not support loading in subinterpreters", "more than once per process")  # as in far_interpreter.py
_ENDING_SECONDS = 2.0  # for interpreters to end, and interrupted calls, at the process's exit
# Before it, CPython aborts at exit where a sub-interpreter is left; from it on it ends those that can be ended.
_ENDS_WITH_INTERPRETERS = sys.version_info >= (3, 13)


class InterpreterEngine(Engine):
    """Runs calls in sub-interpreters of this process: started when there is work, kept warm, ended when idle."""

    kind = "interpreters"
    # Seconds; of engines that are made after they are set.
    idle_seconds = 60.0  # after which an idle interpreter ends
    fork_seconds = 5.0  # for which an os.fork waits for running calls before it is refused

    def __init__(self, workers: int, max_queue: int, name: str) -> None:
        if not hasattr(_core, "InterpreterPool"):
            version = ".".join(map(str, sys.version_info[:2]))
            raise CpuEngineError(
                f"cpu='interpreters' needs Python 3.12 or later, whose sub-interpreters have a GIL of their own; this "
                f"is {version} [{CpuEngineError.code}]"
            )
        if sys.version_info < (3, 13):
            logger.warning(
                "cpu='interpreters': Python 3.12's sub-interpreters may crash the process as it ends, where asyncio, "
                "ssl or much else was imported in one; 3.13 or later is better"
            )
        super().__init__(workers, max_queue, name)
        # Who can run it elsewhere says so here.
        self.refused: Callable[[Call, RefusedByInterpreter], object] = lambda call, error: call.future.fail(error)
        self._pool = _core.InterpreterPool(
            workers,
            f"{name[:8]}-cpu",
            _boot_code(),
            _Hooks(self),
            room=max_queue,
            idle=self.idle_seconds,
            fork_wait=self.fork_seconds,
        )
        _watch(self)

    def submit(self, call: Call) -> CpuFuture:
        future = call.future
        job = self._pool.submit(call, call.envelope())
        future._drop = lambda: self._given_up(job, call)
        if future.done():  # meanwhile
            future._drop = None
            if future.cancelled():
                self._given_up(job, call)
        return future

    def _given_up(self, job: Any, call: Call) -> None:
        if self._pool.cancel(job):
            self.orphans.add(call)
            if job.ended:  # meanwhile
                self.orphans.discard(call)
        else:
            self.room.made()

    def shutdown(self, timeout: float) -> list[str]:
        left = self._pool.stop(timeout)
        names: list[str] = self._pool.names().split("\n") if left else []
        return [name for name in names if name]

    def stats(self) -> dict[str, Any]:
        stats: dict[str, int] = self._pool.stats()
        return stats


class _Hooks:
    """What the pool asks of Python, on the near side."""

    refusal = RefusedByInterpreter

    def __init__(self, engine: InterpreterEngine) -> None:
        self.orphan_ended = engine.orphans.discard
        self.room_made = engine.room.made
        # No cycle: an engine that nobody has ends its interpreters.
        self._engine = weakref.ref(engine)

    def refused(self, call: Call, error: RefusedByInterpreter) -> None:
        engine = self._engine()
        if engine is None:
            call.future.fail(error)
        else:
            engine.refused(call, error)

    @staticmethod
    def prepare() -> bytes:
        """For ``far_interpreter.begin()``."""
        if _main_module() != (None, None):
            # What its classes are called over there, and in their pickles; multiprocessing has the same alias.
            sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
        path = [os.fsdecode(entry) for entry in sys.path if isinstance(entry, (str, bytes))]
        return marshal.dumps((path, [str(arg) for arg in getattr(sys, "argv", [])], _main_module()))

    @staticmethod
    def refer(fn: Any) -> str | None:
        """Where every interpreter finds it by name, as pickle does. ``None``: nowhere."""
        module, qualname = getattr(fn, "__module__", None), getattr(fn, "__qualname__", None)
        if not isinstance(module, str) or not isinstance(qualname, str) or module not in sys.modules:
            return None
        if module == "__main__" and _main_module() == (None, None):
            return None
        found: Any = sys.modules[module]
        for name in qualname.split("."):
            found = getattr(found, name, None)
        return f"{module}\n{qualname}" if found is fn else None

    @staticmethod
    def pack_args(args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> tuple[Any, ...]:
        args, kwargs = _with_views(args, kwargs)
        buffers: list[pickle.PickleBuffer] = []
        try:
            return (pickle.dumps((args, kwargs), _PROTOCOL, buffer_callback=buffers.append), *buffers)
        except Exception:
            buffers.clear()
        # By value, or an error that says which argument it is.
        return (pickling.dumps_call(_nothing, args, kwargs, name, buffers.append), *buffers)

    @staticmethod
    def pack_call(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> tuple[Any, ...]:
        args, kwargs = _with_views(args, kwargs)
        buffers: list[pickle.PickleBuffer] = []
        main_by_value = _main_module() == (None, None)
        if main_by_value and getattr(fn, "__module__", None) == "__main__" and pickling._cloudpickle() is None:
            raise CpuPickleError(
                f"run_cpu: {name} is of a __main__ that is in no file, so that no worker can import it; cloudpickle, "
                f"which could send it, is not installed [{CpuPickleError.code}]"
            )
        return (pickling.dumps_call(fn, args, kwargs, name, buffers.append, main_by_value), *buffers)

    @staticmethod
    def load_result(packed: Any, buffers: tuple[Any, ...], name: str) -> Any:
        try:
            return pickle.loads(packed, buffers=buffers)
        except Exception as error:
            raise CpuPickleError(
                f"run_cpu: the result of {name} cannot be loaded: {type(error).__name__}: {error} "
                f"[{CpuPickleError.code}]"
            ) from error

    @staticmethod
    def load_error(packed: Any, name: str) -> BaseException:
        return _load_error(packed, name)

    @staticmethod
    def start_failed(text: str) -> BaseException:
        return CpuEngineError(f"run_cpu: a sub-interpreter could not be started: {text} [{CpuEngineError.code}]")


def _with_views(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """No pickle takes a memoryview, but it takes what is in one."""
    return tuple(map(_with_view, args)), {key: _with_view(value) for key, value in kwargs.items()}


def _with_view(value: Any) -> Any:
    return pickle.PickleBuffer(value) if type(value) is memoryview and value.c_contiguous else value


def _nothing() -> None:
    """Stands for a function that is known by name."""


def _boot_code() -> bytes:
    spec = importlib.util.find_spec(_FAR)
    code = spec.loader.get_code(_FAR) if spec is not None else None  # type: ignore[union-attr]
    if code is None:
        raise CpuEngineError(f"{_FAR} is not to be found [{CpuEngineError.code}]")
    return marshal.dumps(code)


def _main_module() -> tuple[str | None, str | None]:
    """How another interpreter finds ``__main__``: by its module's name, or its file. Like multiprocessing's spawn."""
    main = sys.modules.get("__main__")
    name = getattr(getattr(main, "__spec__", None), "name", None)
    if isinstance(name, str):
        # A package's or a folder's __main__ runs whatever it is called.
        return (None, None) if name == "__main__" or name.endswith(".__main__") else (name, None)
    file = getattr(main, "__file__", None)
    if not isinstance(file, str) or os.path.basename(file) == "ipython":
        return (None, None)
    return (None, os.path.abspath(file))


# -- errors ---------------------------------------------------------------------


def _load_error(packed: Any, name: str) -> BaseException:
    """What ``far_interpreter.pack_error()`` has packed; empty where it could not."""
    if not packed:
        return CpuRemoteError(
            f"run_cpu: {name} failed, and its error could not be told: there is no memory, or the stack is used up "
            f"[{CpuRemoteError.code}]"
        )
    kind, text, links = pickle.loads(packed)
    if kind == "result":
        return CpuPickleError(f"{text} [{CpuPickleError.code}]")
    error = _load_raised(text, links, name)
    if kind.startswith("refused"):
        return _refused(error, name, kind == "refused inside")
    if kind == "unread" and not isinstance(error, ImportError):
        wrapped = CpuPickleError(
            f"run_cpu: the call of {name} cannot be loaded in the worker: {type(error).__name__}: {error} "
            f"[{CpuPickleError.code}]"
        )
        wrapped.__cause__ = error
        return wrapped
    return error


def _load_raised(text: str, links: list[tuple[bytes | str, bool, bool]], name: str) -> BaseException:
    whole = [
        (pickle.dumps(CpuRemoteError(f"{link} [{CpuRemoteError.code}]")) if isinstance(link, str) else link, *flags)
        for link, *flags in links
    ]
    try:
        pickling.loads_outcome(pickle.dumps((False, (text, whole))), name)
    except BaseException as error:
        return error.with_traceback(None)
    raise AssertionError("an error was no error")


def _refused(error: BaseException, name: str, began: bool) -> RefusedByInterpreter:
    at: BaseException | None = error
    lines: list[str] = []
    while at is not None and not lines:
        # numpy says much more than what it was.
        lines = [line.strip() for line in str(at).splitlines() if any(text in line for text in _REFUSALS)]
        at = at.__cause__ or at.__context__
    refused = RefusedByInterpreter(f"run_cpu: {name}: {lines[0] if lines else error}")
    refused.began = began
    refused.__cause__ = error
    return refused


def refuse_fork(names: str, seconds: float, inside: bool) -> None:
    """For the audit hook (``sidecar/core/interpreter_fork.c``)."""
    if inside:
        raise ForkRefusedError(
            "this process cannot fork on a thread that owns a sub-interpreter: here, in a callback of a run_cpu "
            f"future [{ForkRefusedError.code}]"
        )
    running = ", ".join(names.split("\n")) or "one that starts or ends"
    raise ForkRefusedError(
        f"this process cannot fork: after {seconds:g} seconds a sub-interpreter is still busy ({running}), and the "
        f"child would crash [{ForkRefusedError.code}]"
    )


# -- the process's exit, and its forks ------------------------------------------

_engines: weakref.WeakSet[InterpreterEngine] = weakref.WeakSet()
_hooked = False


def _watch(engine: InterpreterEngine) -> None:
    global _hooked
    _engines.add(engine)
    if not _hooked:
        _hooked = True
        core: Any = _core
        os.register_at_fork(
            before=core._interpreters_before_fork,
            after_in_parent=core._interpreters_after_fork,
            after_in_child=core._interpreters_after_fork,
        )
        # Before threading waits for its threads, and long before atexit: the interpreters need the whole of Python.
        threading._register_atexit(_end_all)  # type: ignore[attr-defined]


def _end_all() -> None:
    """No interpreter may be left when Python ends. A call that does not end is interrupted, if it runs Python."""
    engines = list(_engines)
    for engine in engines:
        engine.at_exit()
        # Where nothing runs any more this does nothing.
        engine._pool.interrupt()
    until = time.monotonic() + _ENDING_SECONDS
    left = [engine for engine in engines if engine._pool.stop(max(0.0, until - time.monotonic()))]
    if left and not _ENDS_WITH_INTERPRETERS:
        names = ", ".join(name for engine in left for name in engine.shutdown(0.0))
        version = ".".join(map(str, sys.version_info[:2]))
        logger.warning("run_cpu: the exit waits for what cannot be stopped, as it must on %s: %s", version, names)
        for engine in left:
            engine._pool.stop(float("inf"))
