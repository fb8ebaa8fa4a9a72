"""What the workers of Dask run for ``dask_served``: a module that both sides have."""

from __future__ import annotations

import logging
import os
import signal
import time

import sidecar
from sidecar.logging import RequestFormatter


def note(folder, name):
    path = os.path.join(folder, name)
    with open(f"{path}-{os.getpid()}.new", "w") as out:
        out.write(str(os.getpid()))
    os.rename(out.name, path)


def count(folder):
    """One byte for each call of this worker."""
    file = os.open(os.path.join(folder, f"calls-{os.getpid()}"), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(file, b".")
    os.close(file)


def square(folder, number):
    count(folder)
    time.sleep(0.003)
    request = sidecar.current()
    record = logging.LogRecord("far", logging.INFO, __file__, 1, "told", (), None)
    return {
        "number": number,
        "square": number * number,
        "id": request and request.id,
        "trace": request and request.trace_id,
        "left": request and request.time_left(),
        "log": RequestFormatter("%(request_id)s").format(record),
        "pid": os.getpid(),
    }


def wait(folder, name):
    """Until it is let go."""
    note(folder, name)
    deadline = time.monotonic() + 60
    while not os.path.exists(os.path.join(folder, "go")) and time.monotonic() < deadline:
        time.sleep(0.01)
    return name


def fail(number):
    raise LookupError(f"no {number}")


def lock():
    """What cannot be pickled."""
    import threading

    return threading.Lock()


def die():
    os.kill(os.getpid(), signal.SIGKILL)
