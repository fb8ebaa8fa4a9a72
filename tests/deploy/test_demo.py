"""deploy/demo, as its user sees it. `.ci/run` runs `deploy/demo --once`; here it is looked at and stopped."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "deploy" / "demo"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def started(output: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    with output.open("wb") as file:
        demo = subprocess.Popen(
            [str(DEMO)],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PORT": str(port)},
            start_new_session=True,
        )
    try:
        yield demo
    finally:
        if demo.poll() is None:
            demo.send_signal(signal.SIGTERM)
            demo.wait(60)


def read_until(demo: subprocess.Popen[bytes], output: Path, pattern: str, seconds: float) -> re.Match[str]:
    deadline = time.monotonic() + seconds
    while True:
        ended = demo.poll() is not None
        text = output.read_text()
        found = re.search(pattern, text)
        if found:
            return found
        assert not ended, f"it ended with {demo.returncode}:\n{text}"
        assert time.monotonic() < deadline, f"no {pattern!r} after {seconds} s:\n{text}"
        time.sleep(0.05)


# The first run on a machine installs and builds everything.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_stopped(tmp_path: Path, how: signal.Signals) -> None:
    output, port = tmp_path / "output", free_port()
    with started(output, port) as demo:
        url = read_until(demo, output, r"Look at (\S+)", 800).group(1)
        assert url == f"http://127.0.0.1:{port}/"
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert answer.status == 200
            request_id = answer.headers["X-Request-ID"]
            page = answer.read().decode()
        assert f'<dd class="id">{request_id}</dd>' in page
        assert page.count('<td class="name">item ') == 20
        assert "20 of 20 times" in page
        # The log is followed on the terminal.
        read_until(demo, output, rf"GET / -> 200 .* id {request_id}", 20)
        listed = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text()
        children = [int(pid) for pid in listed.split()]
        assert len(children) == 3  # upstream, uWSGI, tail
        demo.send_signal(how)
        assert demo.wait(60) == 0
        assert "uWSGI and the upstream have ended." in output.read_text()
        assert not any(is_alive(pid) for pid in children)
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(url, timeout=5)


@pytest.mark.timeout(900)
def test_a_port_that_was_asked_for_and_is_taken_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with started(output, port) as demo:
            assert demo.wait(800) == 1
    assert f"no free port on 127.0.0.1 from {port} to {port}" in output.read_text()


@pytest.mark.parametrize(
    ("arguments", "environment", "status", "words"),
    [
        (["--help"], {}, 0, "deploy/demo [--once]"),
        (["--twice"], {}, 2, 'deploy/demo knows no "--twice"'),
        ([], {"PYTHON": "/nowhere/python"}, 1, 'There is no Python at "/nowhere/python"'),
    ],
)
def test_what_it_says_to_odd_wishes(
    arguments: list[str], environment: dict[str, str], status: int, words: str
) -> None:
    done = subprocess.run(
        [str(DEMO), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status
    assert words in done.stdout + done.stderr
