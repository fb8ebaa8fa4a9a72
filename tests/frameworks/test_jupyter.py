"""A real Jupyter kernel runs a notebook: results, streams, interrupts, and its own loop left as it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import wait_for

import sidecar

for needed in ("nbclient", "ipykernel"):
    pytest.importorskip(needed, reason=f"{needed} is not installed")

# In a process of its own: the client's sockets and threads end with it. A cell that has "# interrupt" in it is
# interrupted once it has made the file "begun".
CLIENT = """
import asyncio, json, os, sys
from pathlib import Path
import nbformat
from nbclient import NotebookClient

async def interrupt(client):
    begun = Path("begun")
    while not begun.exists():
        await asyncio.sleep(0.01)
    begun.unlink()
    await client.km.interrupt_kernel()

async def main():
    cells = [nbformat.v4.new_code_cell(source) for source in json.loads(Path("cells.json").read_text())]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(notebook, timeout=40, allow_errors=True, resources={"metadata": {"path": os.getcwd()}})
    async with client.async_setup_kernel():
        for index, cell in enumerate(cells):
            interrupting = asyncio.create_task(interrupt(client)) if "# interrupt" in cell.source else None
            await client.async_execute_cell(cell, index)
            if interrupting:
                await interrupting
    Path("outputs.json").write_text(json.dumps([cell.outputs for cell in cells]))

asyncio.run(main())
"""

BEGIN = """\
import asyncio, os, threading
from pathlib import Path
from sidecar import get_bridge, run_sync
Path("pid").write_text(str(os.getpid()))
own = asyncio.get_running_loop()
done = []

async def tracked(seconds):
    Path("begun").write_text("")
    try:
        await asyncio.sleep(seconds)
    finally:
        await asyncio.sleep(0.05)
        done.append("cleaned")

async def numbers(count, wait=0.0):
    try:
        for number in range(count):
            await asyncio.sleep(wait)
            yield number
    finally:
        await asyncio.sleep(0.05)
        done.append("closed")
"""

Notebook = Callable[..., list[list[dict[str, Any]]]]


def end_kernel(pid_file: Path) -> None:
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text())
    try:
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), f"kernel {pid} ends", 10)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        raise


@pytest.fixture
def notebook(run_script: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> Iterator[Notebook]:
    """Run cells in one kernel; what each has put out, without the first's."""

    def run(*cells: str) -> list[list[dict[str, Any]]]:
        (tmp_path / "cells.json").write_text(json.dumps([BEGIN, *cells]))
        folders = ("HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
        environment = {name: str(tmp_path / name.lower()) for name in folders}
        environment["PYTHONPATH"] = str(Path(sidecar.__file__).parents[1])
        environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
        ended = run_script(CLIENT, env={**os.environ, **environment}, seconds=90.0)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        first, *outputs = json.loads((tmp_path / "outputs.json").read_text())
        assert first == []
        return outputs

    try:
        yield run
    finally:
        end_kernel(tmp_path / "pid")


def result(outputs: list[dict[str, Any]]) -> str:
    """The one thing that a cell has put out: the value of its last line."""
    assert [output["output_type"] for output in outputs] == ["execute_result"], outputs
    text: str = outputs[0]["data"]["text/plain"]
    return text


def error(outputs: list[dict[str, Any]]) -> str:
    assert [output["output_type"] for output in outputs] == ["error"], outputs
    name: str = outputs[0]["ename"]
    return name


def test_results_streams_and_errors(notebook: Notebook) -> None:
    values = notebook(
        "run_sync(asyncio.sleep(0.01, 'a result'))",
        "list(get_bridge().stream(numbers, 3))",
        "run_sync(asyncio.sleep(60), timeout=0.05)",
        "async def fail():\n    raise KeyError('mine')\nrun_sync(fail())",
        "done",
    )
    assert result(values[0]) == "'a result'"
    assert result(values[1]) == "[0, 1, 2]"
    assert error(values[2]) == "CallTimeoutError"
    assert error(values[3]) == "KeyError"
    assert result(values[4]) == "['closed']"


def test_the_kernels_own_loop_is_left_as_it_was(notebook: Notebook) -> None:
    values = notebook(
        "ticks = []\n"
        "async def tick():\n"
        "    while True:\n"
        "        ticks.append(asyncio.get_running_loop())\n"
        "        await asyncio.sleep(0.01)\n"
        "ticking = asyncio.ensure_future(tick())\n"
        "await asyncio.sleep(0.05)",
        "async def where():\n"
        "    await asyncio.sleep(0.01)\n"
        "    return asyncio.get_running_loop()\n"
        "bridges = run_sync(where())\n"
        "(bridges is not own, bridges is get_bridge().get_loop(), asyncio.get_running_loop() is own)",
        # A cell that awaits on the kernel's loop, before and after a call.
        "task = asyncio.current_task()\n"
        "await asyncio.sleep(0.01)\n"
        "before = len(ticks)\n"
        "value = run_sync(asyncio.sleep(0.01, 'inside'))\n"
        "await asyncio.sleep(0.05)\n"
        "(value, len(ticks) > before, set(ticks) == {own}, asyncio.current_task() is task)",
        "ticking.cancel()",
        # Threads of the notebook share the bridge.
        "found = []\n"
        "threads = [threading.Thread(target=lambda: found.append(run_sync(where()))) for _ in range(4)]\n"
        "for thread in threads:\n"
        "    thread.start()\n"
        "found.append(run_sync(where()))\n"
        "for thread in threads:\n"
        "    thread.join()\n"
        "(len(found), set(found) == {bridges})",
    )
    assert values[0] == []
    assert result(values[1]) == "(True, True, True)"
    assert result(values[2]) == "('inside', True, True, True)"
    assert result(values[3]) == "True"
    assert result(values[4]) == "(5, True)"


def test_an_interrupt_waits_for_the_cleanup_and_the_next_cell_works(notebook: Notebook) -> None:
    values = notebook(
        "run_sync(tracked(60))  # interrupt",
        "done",
        "run_sync(asyncio.sleep(0.01, 'next'))",
        "run_sync(tracked(60))  # interrupt",
        "(done, asyncio.get_running_loop() is own)",
    )
    assert error(values[0]) == "KeyboardInterrupt"
    assert result(values[1]) == "['cleaned']"
    assert result(values[2]) == "'next'"
    assert error(values[3]) == "KeyboardInterrupt"
    assert result(values[4]) == "(['cleaned', 'cleaned'], True)"


def test_an_interrupted_stream_can_be_closed_and_the_next_cell_works(notebook: Notebook) -> None:
    values = notebook(
        "stream = get_bridge().stream(numbers, 1000, 0.01)\n"
        "got = []\n"
        "for number in stream:  # interrupt\n"
        "    got.append(number)\n"
        "    if number == 3:\n"
        "        Path('begun').write_text('')",
        "stream.close()\n(got[:4], 4 <= len(got) < 1000, done)",
        "list(get_bridge().stream(numbers, 3))",
    )
    assert error(values[0]) == "KeyboardInterrupt"
    assert result(values[1]) == "([0, 1, 2, 3], True, ['closed'])"
    assert result(values[2]) == "[0, 1, 2]"


def test_the_kernel_ends_with_a_task_left_on_the_bridge(notebook: Notebook, tmp_path: Path) -> None:
    """Exit drains the bridge: the task gets its cleanup."""
    notebook(
        "async def until_exit():\n"
        "    try:\n"
        "        await asyncio.sleep(3600)\n"
        "    finally:\n"
        "        await asyncio.sleep(0.05)\n"
        "        Path('drained').write_text('')\n"
        "kept = []\n"
        "async def leave():\n"
        "    kept.append(asyncio.ensure_future(until_exit()))\n"
        "    await asyncio.sleep(0)\n"
        "run_sync(leave())",
    )
    end_kernel(tmp_path / "pid")
    assert (tmp_path / "drained").exists()
