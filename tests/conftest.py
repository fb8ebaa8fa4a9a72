"""What every test of the package gets: no descriptor, thread or bridge outlives a test."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import native_threads, open_descriptors, wait_for

import sidecar


@pytest.fixture(scope="module", autouse=True)
def little_to_collect() -> Iterator[None]:
    """Each test collects twice: not over all that is imported by now, which took more time than the tests."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def nothing_left(little_to_collect: None) -> Iterator[None]:
    """Descriptors and threads are back to what they were after the test and a ``shutdown()``."""
    # The main thread's signal descriptors are made once and kept.
    sidecar.run_sync(_nothing())
    assert sidecar.shutdown()
    gc.collect()
    descriptors, threads = open_descriptors(), native_threads()
    yield
    assert sidecar.shutdown()
    gc.collect()
    wait_for(lambda: native_threads() <= threads, f"threads back to {threads}: {threading.enumerate()}")
    new = _new(descriptors)
    if new:
        # A sub-interpreter that has just begun may be in the middle of an import.
        wait_for(lambda: not _new(descriptors), f"descriptors left open: {new}", 5)


def _new(descriptors: dict[str, str]) -> dict[str, str]:
    return {fd: what for fd, what in open_descriptors().items() if descriptors.get(fd) != what}


async def _nothing() -> None:
    pass


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script in a fresh interpreter, bounded in time; its output and its code."""
    path = tmp_path / "script.py"

    def run(source: str, *arguments: str, seconds: float = 60.0, **options: object) -> subprocess.CompletedProcess[str]:
        path.write_text(textwrap.dedent(source))
        return subprocess.run(
            [sys.executable, "-X", "faulthandler", str(path), *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=seconds,
            **options,  # type: ignore[call-overload]
        )

    return run
