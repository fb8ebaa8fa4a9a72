"""What a worker process does before its first call: it dies with its parent, and leaves Ctrl-C to it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading

__all__ = ["begin", "ping"]

_PR_SET_PDEATHSIG = 1


def begin(parent: int) -> None:
    """The initializer. parent: the process whose thread has started this one, and stays as long as this does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A server may block signals on the thread that starts this, and a mask goes through exec.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _die_with_thread()
    watcher = threading.Thread(target=_die_with_parent, name="Sidecar-parent", daemon=True)
    watcher.start()
    if os.getppid() != parent:  # it was too late already
        os.kill(os.getpid(), signal.SIGKILL)


def ping() -> int:
    """The answer says that the process is ready."""
    return os.getpid()


def _die_with_thread() -> None:
    """Even where a function holds the GIL: the kernel kills this when the thread that started it ends."""
    if sys.platform != "linux":
        return
    try:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass  # no ctypes, or no glibc behind it: the watcher has to do


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)
