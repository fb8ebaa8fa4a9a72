"""What the tests of ``run_cpu`` run: by reference, so in a module that a worker can import."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import Any

import sidecar
from sidecar.logging import RequestFormatter


class Failure(Exception):
    """Pickles as it is."""


class Odd(Exception):
    """One that does not load again: its ``__init__`` wants more than ``args`` has."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Sealed(Exception):
    """One that does not pickle at all."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Unloadable:
    """Pickles, and fails where it is loaded."""

    def __reduce__(self) -> Any:
        return explode, ()


def explode() -> None:
    raise LookupError("announced: it does not load")


def add(one: int, other: int = 0) -> int:
    return one + other


def echo(value: Any) -> Any:
    return value


def fib(number: int) -> int:
    return number if number < 2 else fib(number - 1) + fib(number - 2)


def pid(_: Any = None) -> int:
    return os.getpid()


def place(_: Any = None) -> tuple[int, int]:
    return os.getpid(), threading.get_native_id()


def die(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


def leave(status: int) -> None:
    os._exit(status)


def say_and_die(folder: str, number: int) -> int:
    """Dies the first time, by a file that tells."""
    mark = os.path.join(folder, "died")
    if not os.path.exists(mark):
        open(mark, "x").close()
        os.kill(os.getpid(), number)
    return os.getpid()


def touch(path: str) -> str:
    open(path, "x").close()
    return path


def begin_and_wait(folder: str, name: str = "one") -> str:
    """Tell that it has begun, and wait until it is told to end."""
    with open(os.path.join(folder, f"{name}.begun"), "w") as file:
        file.write(str(os.getpid()))
    until(os.path.join(folder, f"{name}.go"))
    return name


def until(path: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not os.path.exists(path):
        assert time.monotonic() < deadline, path
        time.sleep(0.005)


def hold_the_gil(folder: str) -> None:
    """In C, without letting go of the interpreter's lock."""
    import ctypes

    touch(os.path.join(folder, "held"))
    ctypes.PyDLL(None).sleep(60)


def fail(text: str) -> None:
    raise Failure(text)


def fail_with_cause(text: str) -> None:
    try:
        {}["missing"]  # type: ignore[index]  # noqa: B018
    except KeyError as error:
        raise Failure(text) from error


def fail_in_context(text: str) -> None:
    try:
        {}["missing"]  # type: ignore[index]  # noqa: B018
    except KeyError:
        raise Failure(text)  # noqa: B904


def fail_oddly() -> None:
    raise Odd(7, "seven")


def fail_sealed() -> None:
    raise Sealed("no way out")


def quit_worker() -> None:
    raise SystemExit(3)


def make_lock() -> Any:
    return threading.Lock()


def make_unloadable() -> Any:
    return Unloadable()


def look() -> dict[str, Any] | None:
    """The request, as it is seen here."""
    request = sidecar.current()
    if request is None:
        return None
    return {
        "id": request.id,
        "trace_id": request.trace_id,
        "span_id": request.span_id,
        "tracestate": request.tracestate,
        "baggage": request.baggage,
        "left": request.time_left(),
        "log": RequestFormatter("%(request_id)s %(trace_id)s %(message)s").format(
            logging.LogRecord("work", logging.INFO, __file__, 1, "told", (), None)
        ),
    }


def facts() -> dict[str, Any]:
    """Of the worker process itself."""
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "sigint": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "files": [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_open(name)],
    }


def _is_open(name: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{name}")


def current_id(_: Any = None) -> str | None:
    request = sidecar.current()
    return None if request is None else request.id


class Named:
    """``begin_and_wait`` with one argument."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, name: str) -> str:
        return begin_and_wait(self.folder, name)


class Adder:
    """A callable that is no function."""

    def __init__(self, more: int) -> None:
        self.more = more

    def __call__(self, one: int) -> int:
        return one + self.more
