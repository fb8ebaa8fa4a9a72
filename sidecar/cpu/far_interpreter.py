"""What a sub-interpreter of the engine runs at its start, and around each call.

It is executed there on its own, without the package, of which most interpreters never need anything: what it imports
at the top decides how long one takes to start. ``sidecar/core/interpreter_far.c`` calls what is here by name.
"""

from __future__ import annotations

import marshal
import sys
from _pickle import dumps, loads
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pickle import PickleBuffer

__all__ = ["begin", "loads", "need_main", "pack_error", "pack_result", "resolve", "run_inside"]

_PROTOCOL = 5
_CHAIN = 16  # links of an exception's causes; what comes before is in the text
_REFUSALS = ("does not support loading in subinterpreters", "cannot load module more than once per process")

# How to find the script's own module: (name, file), each of which may be None.
_main: tuple[str | None, str | None] = (None, None)


class _Unpicklable(Exception):
    """Of a result; its text is for the caller."""


def begin(prepared: bytes) -> None:
    """First: what the near side's ``prepare()`` says."""
    global _main
    path, argv, _main = marshal.loads(prepared)
    sys.path[:] = path
    sys.argv[:] = argv
    if (3, 13) <= sys.version_info < (3, 13, 3):
        import atexit

        atexit.register(_forget_thread)


def _forget_thread() -> None:
    """What ``threading`` knows this thread by complains if it goes with the module (CPython's gh-130522)."""
    threading: Any = sys.modules.get("threading")
    if threading is not None:
        vars(threading._thread_local_info).clear()


def need_main() -> None:
    """``__main__`` is the script's module from now on, run under another name, as multiprocessing's spawn does."""
    if "__mp_main__" in sys.modules or _main == (None, None):
        return
    import runpy

    name, file = _main
    module = ModuleType("__mp_main__")
    before = sys.modules["__main__"]
    sys.modules["__mp_main__"] = sys.modules["__main__"] = module
    try:
        if name is not None:
            names = runpy.run_module(name, run_name="__mp_main__", alter_sys=True)
        else:
            assert file is not None
            names = runpy.run_path(file, run_name="__mp_main__")
    except BaseException:
        del sys.modules["__mp_main__"]
        sys.modules["__main__"] = before
        raise
    module.__dict__.update(names)


def resolve(reference: str) -> Any:
    """``"module\\nname.in.it"``"""
    module, _, names = reference.partition("\n")
    if module == "__main__":
        need_main()
    __import__(module)
    found: Any = sys.modules[module]
    for name in names.split("."):
        found = getattr(found, name)
    return found


def run_inside(envelope: bytes, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
    """Inside the request that the envelope tells of."""
    from sidecar.cpu.far import run

    return run(envelope, fn, args, kwargs or {})


# -- what came of it ------------------------------------------------------------


def pack_result(result: Any, name: str) -> tuple[Any, ...]:
    """The pickle, and the buffers that go beside it."""
    buffers: list[PickleBuffer] = []
    try:
        return (dumps(result, _PROTOCOL, buffer_callback=buffers.append), *buffers)
    except Exception as error:
        reason = error
    cloudpickle = _cloudpickle()
    if cloudpickle is not None:
        buffers.clear()
        try:
            return (cloudpickle.dumps(result, _PROTOCOL, buffer_callback=buffers.append), *buffers)
        except Exception as error:
            reason = error
    raise _Unpicklable(
        f"run_cpu: the result of {name}, a {_type_name(type(result))}, cannot be pickled: {_line(reason)}"
    )


def _cloudpickle() -> Any:
    try:
        return __import__("cloudpickle")
    except ImportError:
        return None


def pack_error(error: BaseException, name: str, began: bool) -> bytes:
    """(what it is, a text, links), pickled; a link that does not pickle is a text."""
    if isinstance(error, _Unpicklable):
        return dumps(("result", str(error), []), _PROTOCOL)
    import traceback

    links: list[tuple[Any, bool, bool]] = []
    refused = False
    at: BaseException | None = error
    seen: set[int] = set()
    cut = _own_frames_cut(error.__traceback__)
    text = "".join(traceback.format_exception(type(error), error.with_traceback(cut), cut))
    while at is not None and len(links) < _CHAIN and id(at) not in seen:
        seen.add(id(at))
        refused = refused or (isinstance(at, ImportError) and any(refusal in str(at) for refusal in _REFUSALS))
        by_cause = at.__cause__ is not None
        links.append((_pack_one(at, name), by_cause, at.__suppress_context__))
        at = at.__cause__ if by_cause or at.__suppress_context__ else at.__context__
    kind = ("refused inside" if began else "refused") if refused else ("raised" if began else "unread")
    return dumps((kind, text, links), _PROTOCOL)


def _own_frames_cut(at: TracebackType | None) -> TracebackType | None:
    """From the function's own frame on, where the error came so far."""
    own = at
    while own is not None and own.tb_frame.f_code.co_filename.endswith(_OWN_FILES):
        own = own.tb_next
    return own or at


_OWN_FILES = ("sidecar/cpu/far_interpreter.py", "sidecar/cpu/far.py")


def _pack_one(error: BaseException, name: str) -> bytes | str:
    """An exception may be one that pickles but does not load: that is found out here, not over there."""
    try:
        packed = dumps(error, _PROTOCOL)
        if not isinstance(loads(packed), BaseException):
            raise TypeError("it is no exception any more when it is loaded")
    except Exception as reason:
        return (
            f"run_cpu: {name} raised {_type_name(type(error))}: {_text(error)}; the exception itself cannot be "
            f"pickled: {_line(reason)}"
        )
    return packed


def _type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "<its text cannot be made>"


def _line(error: BaseException) -> str:
    return f"{_type_name(type(error))}: {_text(error)}"
