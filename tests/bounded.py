"""A process with a limit of time, which takes all that it has started with it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_bounded(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str], output: Path, seconds: float
) -> tuple[int | str, str]:
    """Its status, or that it had none in time; and what it said, which ``output`` keeps."""
    with open(output, "w") as file:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status: int | str
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = f"none after {seconds:g} s"
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
    return status, output.read_text(errors="replace")
