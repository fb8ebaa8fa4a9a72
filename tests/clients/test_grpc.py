"""grpc.aio on a kept bridge: one channel for all threads, its one connection kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from clients.servers import App

pytest.importorskip("grpc.aio", reason="grpcio is not installed")

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("case", ["unary", "streams", "time_outs", "between_calls", "second_bridge"])
def test_a_channel_is_kept(grpc_server: App, case: str, tmp_path: Path) -> None:
    """In a process of its own: gRPC keeps threads and descriptors for as long as that lives."""
    path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    options = ["-X", "faulthandler", "-W", "error::ResourceWarning"]
    done = subprocess.run(
        [sys.executable, *options, "-m", "clients.grpc_client", str(grpc_server.port), case],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "done\n"
    assert done.stderr == ""
