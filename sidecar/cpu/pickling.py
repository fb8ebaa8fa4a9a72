"""Calls and their outcomes as bytes: what is pickled, by whom, and what is said where that does not go.

A call is pickled where it is made and loaded by its worker; its outcome the other way round. Buffers (of protocol 5)
go beside the bytes where an engine can carry them. Nothing here raises anything but ``CpuPickleError``.
"""

from __future__ import annotations

import importlib
import pickle
import traceback
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from sidecar.errors import CpuPickleError, CpuRemoteError

__all__ = ["RemoteTraceback", "dumps_call", "dumps_error", "dumps_result", "loads_call", "loads_outcome"]

_PROTOCOL = 5
_CHAIN = 16  # links of an exception's causes; what comes before is in the text
Buffers = Callable[[pickle.PickleBuffer], Any]


class RemoteTraceback(Exception):  # noqa: N818 - it is no error, but the text of one's traceback
    """The last cause of an exception from a worker: its traceback there, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def dumps_call(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    name: str,
    buffer_callback: Buffers | None = None,
    main_by_value: bool = False,
) -> bytes:
    """The function by reference; a closure or lambda by value, where ``cloudpickle`` is installed.

    main_by_value: likewise what is defined in the main script, for workers that do not have it.
    """
    call = fn, args, kwargs
    try:
        packed = _dumps(call, buffer_callback)
    except Exception as error:
        return _dumps_by_value(call, name, buffer_callback, error)
    if main_by_value and b"__main__" in packed and _cloudpickle() is not None:
        return _dumps_by_value(call, name, buffer_callback, None)
    return packed


def _dumps(what: Any, buffer_callback: Buffers | None = None) -> bytes:
    return pickle.dumps(what, _PROTOCOL, buffer_callback=buffer_callback)


def _dumps_by_value(
    call: tuple[Any, tuple[Any, ...], dict[str, Any]],
    name: str,
    buffer_callback: Buffers | None,
    first: Exception | None,
) -> bytes:
    cloudpickle = _cloudpickle()
    reason = first
    if cloudpickle is not None:
        try:
            packed: bytes = cloudpickle.dumps(call, _PROTOCOL, buffer_callback=buffer_callback)
            return packed
        except Exception as error:
            reason = error
    assert reason is not None
    what = _guilty(*call, cloudpickle.dumps if cloudpickle is not None else _dumps)
    hint = ""
    if cloudpickle is None and what == "the function":
        hint = "; a lambda or a function inside another one needs cloudpickle (pip install cloudpickle), which is not"
        hint += " installed here"
    raise CpuPickleError(
        f"run_cpu: {what} of {name} cannot be pickled for the worker: {_line(reason)}{hint} [{CpuPickleError.code}]"
    ) from reason


def _cloudpickle() -> Any:
    try:
        return importlib.import_module("cloudpickle")  # by name: it may be absent where types are checked
    except ImportError:
        return None


def _guilty(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], dumps: Callable[[Any], Any]) -> str:
    named: Iterable[tuple[str, Any]] = (
        ("the function", fn),
        *((f"argument {number}", arg) for number, arg in enumerate(args, 1)),
        *((f"argument {key!r}", arg) for key, arg in kwargs.items()),
    )
    for what, value in named:
        try:
            dumps(value)
        except Exception:
            return what
    return "the call"


def loads_call(
    packed: Any, name: str, buffers: Iterable[Any] | None = None
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """In the worker. ``ImportError``s of modules come through as they are: an engine may know better."""
    try:
        call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] = pickle.loads(packed, buffers=buffers)
    except ImportError:
        raise
    except Exception as error:
        raise CpuPickleError(
            f"run_cpu: the call of {name} cannot be loaded in the worker: {_line(error)} [{CpuPickleError.code}]"
        ) from error
    return call


# -- outcomes -------------------------------------------------------------------


def dumps_result(result: Any, name: str, buffer_callback: Buffers | None = None) -> bytes:
    """In the worker. Where the result cannot be pickled, an outcome that says so."""
    try:
        return _dumps((True, result), buffer_callback)
    except Exception as first:
        cloudpickle = _cloudpickle()
        reason = first
        if cloudpickle is not None:
            try:
                packed: bytes = cloudpickle.dumps((True, result), _PROTOCOL, buffer_callback=buffer_callback)
                return packed
            except Exception as second:
                reason = second
        failure = CpuPickleError(
            f"run_cpu: the result of {name}, a {_type_name(type(result))}, cannot be pickled: {_line(reason)} "
            f"[{CpuPickleError.code}]"
        )
        return dumps_error(failure, name, None)


def dumps_error(error: BaseException, name: str, cut: TracebackType | None) -> bytes:
    """In the worker: the error, its causes, and its traceback's text from ``cut`` on (``None``: all of it)."""
    text = "".join(traceback.format_exception(type(error), error.with_traceback(cut or error.__traceback__), cut))
    links: list[tuple[bytes, bool, bool]] = []
    at: BaseException | None = error
    seen: set[int] = set()
    while at is not None and len(links) < _CHAIN and id(at) not in seen:
        seen.add(id(at))
        by_cause = at.__cause__ is not None
        links.append((_dumps_one(at, name), by_cause, at.__suppress_context__))
        at = at.__cause__ if by_cause or at.__suppress_context__ else at.__context__
    return _dumps((False, (text, links)))


def _dumps_one(error: BaseException, name: str) -> bytes:
    """An exception may be one that pickles but does not load: that is found out here, not over there."""
    try:
        packed = _dumps(error)
        if not isinstance(pickle.loads(packed), BaseException):
            raise TypeError("it is no exception any more when it is loaded")
    except Exception as reason:
        return _dumps(
            CpuRemoteError(
                f"run_cpu: {name} raised {_type_name(type(error))}: {_text(error)}; the exception itself cannot be "
                f"pickled: {_line(reason)} [{CpuRemoteError.code}]"
            )
        )
    return packed


def loads_outcome(packed: Any, name: str, buffers: Iterable[Any] | None = None) -> Any:
    """Where the call was made: its result, or raise its error."""
    try:
        good, value = pickle.loads(packed, buffers=buffers)
    except Exception as error:
        raise CpuPickleError(
            f"run_cpu: the result of {name} cannot be loaded: {_line(error)} [{CpuPickleError.code}]"
        ) from error
    if good:
        return value
    text, links = value
    failure = _load_error(text, links, name)
    try:
        raise failure
    finally:
        del failure  # its traceback has this frame


def _load_error(text: str, links: list[tuple[bytes, bool, bool]], name: str) -> BaseException:
    errors = [_load_one(packed, text, name) for packed, _, _ in links]
    for at, (_, by_cause, suppress) in enumerate(links[:-1]):
        if by_cause:
            errors[at].__cause__ = errors[at + 1]
        else:
            errors[at].__context__ = errors[at + 1]
        errors[at].__suppress_context__ = suppress
    errors[-1].__cause__ = RemoteTraceback(text)
    return errors[0]


def _load_one(packed: bytes, text: str, name: str) -> BaseException:
    try:
        error = pickle.loads(packed)
    except Exception as reason:  # a module that is over there only
        last = text.strip().rpartition("\n")[2]
        error = CpuRemoteError(
            f"run_cpu: {name} raised {last}; the exception itself cannot be loaded here: {_line(reason)} "
            f"[{CpuRemoteError.code}]"
        )
    assert isinstance(error, BaseException)
    return error


def _type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "<its text cannot be made>"


def _line(error: BaseException) -> str:
    return f"{_type_name(type(error))}: {_text(error)}"
