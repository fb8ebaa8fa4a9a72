"""What the tests of the sub-interpreter engine run there: importable by name, and without the package."""

from __future__ import annotations

import functools
import sys
import threading
import time
from typing import Any

kept: list[Any] = []


@functools.cache
def is_broken() -> bool:
    """3.12.1 corrupts its memory with no help from us; 3.13 does not."""
    import subprocess

    code = "import _xxsubinterpreters as i; one = i.create(isolated=True); i.run_string(one, 'import asyncio')"
    code += "; i.destroy(one)"
    if sys.version_info[:2] != (3, 12):
        return False
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode != 0


class Own(Exception):
    """Pickles as it is."""


class Odd(Exception):
    """Pickles, and does not load again."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


class Buffered:
    """Goes by protocol 5, its buffer beside the pickle."""

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer

    def __reduce_ex__(self, protocol: Any) -> Any:
        import pickle

        return Buffered, (pickle.PickleBuffer(self.buffer),)


def echo(*args: Any, **kwargs: Any) -> Any:
    return (args, kwargs)


def same(value: Any) -> Any:
    return value


def kind(value: Any) -> str:
    return type(value).__name__


def fill(view: memoryview, byte: int) -> None:
    view[:] = bytes([byte]) * len(view)


def fill_each(numbers: list[int], view: memoryview, last: memoryview) -> None:
    fill(view, numbers[0])
    fill(last, numbers[0] + 1)


def look(view: Any) -> tuple[Any, ...]:
    with memoryview(view) as seen:
        return (seen.format, seen.shape, seen.readonly, seen.nbytes, bytes(seen[:3]) if seen.ndim == 1 else None)


def look_inside(one: Buffered) -> tuple[str, bool, int]:
    with memoryview(one.buffer) as seen:
        return (type(one.buffer).__name__, seen.readonly, seen.nbytes)


def zeros(size: int, writable: bool) -> Buffered:
    return Buffered(bytearray(size) if writable else bytes(size))


def keep(value: Any) -> int:
    kept.append(value)
    return len(kept)


def drop() -> None:
    kept.clear()


def leak_in_cycle(value: Any) -> None:
    cycle: list[Any] = [value]
    cycle.append(cycle)


def where() -> tuple[int, bool]:
    return threading.get_native_id(), "sidecar" in sys.modules


def thread_name() -> str:
    with open(f"/proc/self/task/{threading.get_native_id()}/comm") as file:
        return file.read().strip()


def leave(kind: str) -> None:
    raise {"exit": SystemExit(3), "interrupt": KeyboardInterrupt("by itself")}[kind]


def fail(text: str) -> None:
    try:
        raise LookupError("the first")
    except LookupError as error:
        raise Own(text) from error


def fail_oddly(locked: bool) -> None:
    error: Exception = Odd(1, 2)
    if locked:
        error = Own("locked")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


def unpicklable() -> Any:
    return threading.Lock()


def deep(depth: int) -> int:
    return 0 if depth == 0 else 1 + deep(depth - 1)


def fib(number: int) -> int:
    return number if number < 2 else fib(number - 1) + fib(number - 2)


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def wait_for_file(path: str) -> str:
    """As long as it is not there."""
    import os

    while not os.path.exists(path):
        time.sleep(0.005)
    return path


def import_inside(name: str) -> str:
    return __import__(name).__name__


def set_variable(variable: Any = None) -> int:
    import contextvars

    made = contextvars.ContextVar("made")
    made.set(1)
    return len(contextvars.copy_context())


def request_id() -> str | None:
    import sidecar

    request = sidecar.current()
    return request.id if request is not None else None
