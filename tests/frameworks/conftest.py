"""What the tests of gevent share: scripts in an interpreter of their own, which gevent has patched."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sidecar

PATCHED = """\
from gevent import monkey
monkey.patch_all()

import asyncio, contextvars, gc, logging, os, signal, socket, sys, threading, time
import gevent
from gevent._hub_local import get_hub_if_exists
from harness import native_threads, open_descriptors, wait_for
import sidecar
from sidecar import Sidecar, run_sync

class NativeEvent:
    def __init__(self):
        self.lock = monkey.get_original("_thread", "allocate_lock")()
        self.lock.acquire()
    def set(self):
        self.lock.release()
    def is_set(self):
        return not self.lock.locked()
    def wait(self):
        assert self.lock.acquire(timeout=20)

done = []

async def tracked(seconds=60, cleanup=0.05, value=None):
    try:
        await asyncio.sleep(seconds)
    finally:
        await asyncio.sleep(cleanup)
        done.append("cleaned")
    return value

async def begun(started, *args):
    started.append(1)
    return await tracked(*args)

"""

# The package that is tested, wherever it is, and the tests' own helpers.
PYTHON_PATH = os.pathsep.join([str(Path(sidecar.__file__).parents[1]), str(Path(__file__).parents[1])])


@pytest.fixture
def script(run_script: Callable[..., Any]) -> Callable[..., str]:
    """Run a script in a patched interpreter; what it prints. It may log nothing but ``logs``.

    before: what comes before the patches. patched: False for an interpreter without them.
    """

    def run(source: str, logs: str = "", before: str = "", patched: bool = True) -> str:
        environment = {**os.environ, "PYTHONPATH": PYTHON_PATH}
        whole = before + (PATCHED if patched else "") + textwrap.dedent(source)
        ended = run_script(whole, env=environment)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        if logs:
            assert re.search(logs, ended.stderr, re.MULTILINE), ended.stderr
        else:
            assert ended.stderr == ""
        output: str = ended.stdout
        return output

    return run
