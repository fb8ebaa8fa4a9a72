"""Worker processes: how they start, die, are renewed, and end."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import wait_for
from unit import cpu_work as work
from unit.cpu_bridges import begun, bridge_on, children, go, is_alive, tracker  # noqa: F401

import sidecar

RunScript = Callable[..., subprocess.CompletedProcess[str]]
TESTS = str(Path(__file__).parents[1])


def test_warm_and_reused() -> None:
    with bridge_on("processes", 1) as bridge:
        pids = {bridge.run_cpu(work.pid) for _ in range(10)}
        assert len(pids) == 1 and os.getpid() not in pids
        assert bridge.stats()["cpu_workers"] == 1
    assert not any(is_alive(pid) for pid in pids)


def test_nothing_starts_before_the_first_call() -> None:
    before = children()
    bridge = sidecar.Sidecar(cpu="processes")
    with bridge:
        assert bridge.stats()["cpu_workers"] == 0 and children() == before


def test_as_many_as_are_needed(tmp_path: Path) -> None:
    with bridge_on("processes", 3) as bridge:
        assert bridge.run_cpu(work.add, 1) == 1
        assert bridge.stats()["cpu_workers"] == 1
        futures = [bridge.run_cpu.future(work.begin_and_wait, str(tmp_path), name) for name in ("one", "two", "three")]
        pids = {begun(tmp_path, name) for name in ("one", "two", "three")}
        assert len(pids) == 3 and bridge.stats()["cpu_running"] == 3
        fourth = bridge.run_cpu.future(work.pid)
        assert bridge.stats()["cpu_queued"] == 1
        for name in ("one", "two", "three"):
            go(tmp_path, name)
        assert fourth.result(30) in pids
        assert [future.result(30) for future in futures] == ["one", "two", "three"]


def test_idle_ones_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from sidecar.cpu import processes

    monkeypatch.setattr(processes, "IDLE_SECONDS", 0.2)
    with bridge_on("processes", 1) as bridge:
        first = bridge.run_cpu(work.pid)
        wait_for(lambda: not is_alive(first), "it has ended")
        wait_for(lambda: bridge.stats()["cpu_workers"] == 0, "it is counted no more")
        assert bridge.run_cpu(work.pid) != first


def test_what_a_worker_is_like() -> None:
    listening = __import__("socket").create_server(("127.0.0.1", 0))
    os.set_inheritable(listening.fileno(), True)
    ours = os.readlink(f"/proc/self/fd/{listening.fileno()}")
    with listening, bridge_on("processes", 1) as bridge:
        facts = bridge.run_cpu(work.facts)
    assert facts["parent"] == os.getpid() and facts["sigint"] and facts["mask"] == []
    assert ours not in facts["files"]


# -- dying ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM], ids=lambda number: number.name)
def test_a_killed_one_fails_its_own_call_only(number: int, tmp_path: Path) -> None:
    with bridge_on("processes", 2) as bridge:
        other = bridge.run_cpu.future(work.begin_and_wait, str(tmp_path))
        begun(tmp_path)
        dying = bridge.run_cpu.future(work.die, number)
        queued = [bridge.run_cpu.future(work.add, at, 1) for at in range(4)]
        text = r"was killed by SIG\w+ in the middle of unit\.cpu_work\.die"
        with pytest.raises(sidecar.CpuWorkerDied, match=text) as caught:
            dying.result(30)
        assert caught.value.exitcode == -number and caught.value.pid and "SC0011" in str(caught.value)
        assert [future.result(30) for future in queued] == [1, 2, 3, 4]
        go(tmp_path)
        assert other.result(30) == "one"
        assert bridge.run_cpu(work.add, 1) == 1


def test_one_that_leaves() -> None:
    with bridge_on("processes", 1) as bridge:
        with pytest.raises(sidecar.CpuWorkerDied, match="ended with exit status 7") as caught:
            bridge.run_cpu(work.leave, 7)
        assert caught.value.exitcode == 7


def test_one_that_is_killed_while_idle_is_not_noticed() -> None:
    with bridge_on("processes", 1) as bridge:
        first = bridge.run_cpu(work.pid)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: not is_alive(first), "it is dead")
        assert bridge.run_cpu(work.pid) != first


def test_many_deaths_lose_nothing() -> None:
    with bridge_on("processes", 2) as bridge:
        futures = [bridge.run_cpu.future(*((work.die,) if at % 5 == 0 else (work.add, at))) for at in range(20)]
        concurrent.futures.wait(futures, 60)
        for at, future in enumerate(futures):
            if at % 5 == 0:
                assert isinstance(future.exception(0), sidecar.CpuWorkerDied)
            else:
                assert future.result(0) == at
        assert bridge.stats()["cpu_queued"] == bridge.stats()["cpu_running"] == 0


SERVER = """
    import os, sys, threading
    sys.path.insert(0, {tests!r})
    from unit import cpu_work as work
    import sidecar

    if __name__ == "__main__":
        bridge = sidecar.Sidecar(cpu="processes", cpu_workers=2)
        bridge.run_cpu(work.add, 1)
        first = bridge.run_cpu.future(getattr(work, sys.argv[2]), sys.argv[1])
        second = bridge.run_cpu.future(work.pid)
        print(second.result(), flush=True)
        first.result()
"""


@pytest.mark.parametrize(("function", "mark"), [("begin_and_wait", "one.begun"), ("hold_the_gil", "held")])
def test_they_die_with_a_parent_that_is_killed(tmp_path: Path, function: str, mark: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SERVER.format(tests=TESTS)))
    command = [sys.executable, str(script), str(tmp_path), function]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline()
            wait_for((tmp_path / mark).exists, "it has begun")
            workers = children(parent.pid)
            assert len(workers) == 3, "two workers, and multiprocessing's helper"
        finally:
            parent.kill()
    wait_for(lambda: not any(is_alive(pid) for pid in workers), "all have gone")


# -- ending ---------------------------------------------------------------------------


def test_shutdown_waits_for_what_runs(tmp_path: Path) -> None:
    bridge = sidecar.Sidecar(cpu="processes", cpu_workers=1)
    future = bridge.run_cpu.future(work.begin_and_wait, str(tmp_path))
    pid = begun(tmp_path)
    queued = bridge.run_cpu.future(work.add, 1)
    go(tmp_path)
    assert bridge.shutdown(20.0)
    assert future.result(0) == "one" and (queued.cancelled() or queued.result(0) == 1)
    assert not is_alive(pid)
    with pytest.raises(sidecar.BridgeClosedError):
        bridge.run_cpu.future(work.add, 1)


def test_shutdown_names_what_does_not_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bridge = sidecar.Sidecar(cpu="processes", cpu_workers=1)
    future = bridge.run_cpu.future(work.begin_and_wait, str(tmp_path))
    pid = begun(tmp_path)
    began = time.monotonic()
    assert not bridge.shutdown(0.2)
    assert time.monotonic() - began < 10.0
    assert "unit.cpu_work.begin_and_wait did not end in time" in caplog.text
    assert not is_alive(pid) and future.done()


def test_the_exit_is_bounded(run_script: RunScript, tmp_path: Path) -> None:
    done = run_script(
        f"""
        import sys
        sys.path.insert(0, {TESTS!r})
        from unit import cpu_work as work
        import sidecar

        if __name__ == "__main__":
            bridge = sidecar.Sidecar(cpu="processes", cpu_workers=1, shutdown_timeout=0.5)
            future = bridge.run_cpu.future(work.begin_and_wait, sys.argv[1])
            work.until(sys.argv[1] + "/one.begun")
        """,
        str(tmp_path),
        seconds=30,
    )
    assert done.returncode == 0, done.stderr
    assert "unit.cpu_work.begin_and_wait did not end in time" in done.stderr
    assert not is_alive(int((tmp_path / "one.begun").read_text()))


def test_the_exit_waits_where_the_bridge_is_no_daemon(run_script: RunScript, tmp_path: Path) -> None:
    done = run_script(
        f"""
        import sys
        sys.path.insert(0, {TESTS!r})
        from unit import cpu_work as work
        import sidecar

        if __name__ == "__main__":
            bridge = sidecar.Sidecar(cpu="processes", cpu_workers=1, daemon=False, shutdown_timeout=30)
            for at in range(4):
                bridge.run_cpu.future(work.touch, sys.argv[1] + f"/{{at}}")
        """,
        str(tmp_path),
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["0", "1", "2", "3"]


def test_ctrl_c_is_the_parents(run_script: RunScript, tmp_path: Path) -> None:
    """As a terminal sends it: to all of the group."""
    done = run_script(
        f"""
        import os, signal, sys, threading
        sys.path.insert(0, {TESTS!r})
        from unit import cpu_work as work
        import sidecar

        def press():
            work.until(sys.argv[1] + "/one.begun")
            os.killpg(0, signal.SIGINT)

        if __name__ == "__main__":
            os.setpgrp()
            bridge = sidecar.Sidecar(cpu="processes", cpu_workers=1)
            before = bridge.run_cpu(work.pid)
            threading.Thread(target=press).start()
            try:
                bridge.run_cpu(work.begin_and_wait, sys.argv[1])
            except KeyboardInterrupt:
                open(sys.argv[1] + "/one.go", "x").close()
                print(bridge.run_cpu(work.pid) == before)
            bridge.shutdown()
        """,
        str(tmp_path),
    )
    assert done.stdout == "True\n" and "Traceback" not in done.stderr, done.stderr


# -- fork -----------------------------------------------------------------------------


FORK = f"""
    import os, sys, warnings
    sys.path.insert(0, {TESTS!r})
    warnings.simplefilter("ignore", DeprecationWarning)
    from unit import cpu_work as work
    import sidecar

    if __name__ == "__main__":
        bridge = sidecar.Sidecar(cpu="processes", cpu_workers=2)
        ours = {{bridge.run_cpu(work.pid)}}
        held = bridge.run_cpu.future(work.begin_and_wait, sys.argv[1])
        work.until(sys.argv[1] + "/one.begun")
        pid = os.fork()
        if not pid:
            assert bridge.stats()["cpu_workers"] == bridge.stats()["cpu_running"] == 0
            facts = bridge.run_cpu(work.facts)
            assert facts["pid"] not in ours and facts["parent"] == os.getpid(), facts
            bridge.shutdown()
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        open(sys.argv[1] + "/one.go", "x").close()
        assert held.result(30) == "one" and bridge.run_cpu(work.add, 1) == 1
        bridge.shutdown()
        print("fine")
"""


def test_a_child_of_a_fork_has_its_own(run_script: RunScript, tmp_path: Path) -> None:
    done = run_script(FORK, str(tmp_path))
    assert (done.stdout, done.stderr) == ("fine\n", ""), done.stderr


def test_a_child_that_does_not_use_it_leaves_as_ever(run_script: RunScript, tmp_path: Path) -> None:
    source = FORK[: FORK.index("            assert bridge.stats")] + FORK[FORK.index("            sys.exit(7)") :]
    done = run_script(source, str(tmp_path))
    assert (done.stdout, done.stderr) == ("fine\n", ""), done.stderr


# -- the main script, the interpreter -----------------------------------------------------


def test_functions_of_the_main_script(run_script: RunScript) -> None:
    done = run_script(
        """
        import sidecar

        class Mine(Exception):
            pass

        def double(number):
            if number < 0:
                raise Mine(number)
            return 2 * number

        if __name__ == "__main__":
            with sidecar.Sidecar(cpu="processes", cpu_workers=1) as bridge:
                print(bridge.run_cpu(double, 21))
                try:
                    bridge.run_cpu(double, -1)
                except Mine as error:
                    print(repr(error))
        """
    )
    assert (done.stdout, done.stderr) == ("42\nMine(-1)\n", "")


def test_a_script_that_is_no_module_is_told(run_script: RunScript) -> None:
    done = run_script(
        """
        import sidecar

        def double(number):
            return 2 * number

        with sidecar.Sidecar(cpu="processes", cpu_workers=1) as bridge:
            print(bridge.run_cpu(double, 21))
        """
    )
    assert done.returncode == 1
    assert "CpuEngineError: run_cpu: no worker process for __main__.double" in done.stderr
    assert 'if __name__ == "__main__":' in done.stderr


def test_the_real_interpreter_where_another_program_has_python(run_script: RunScript) -> None:
    """As under uWSGI: sys.executable is the server."""
    done = run_script(
        """
        import os, sys
        import multiprocessing.spawn
        import sidecar

        def executable():
            return sys.executable

        if __name__ == "__main__":
            real, sys.executable = sys.executable, "/bin/true"
            multiprocessing.spawn.set_executable(sys.executable)
            with sidecar.Sidecar(cpu="processes", cpu_workers=1) as bridge:
                found = bridge.run_cpu(executable)
                print(os.path.realpath(found) == os.path.realpath(real))
                print(multiprocessing.spawn.get_executable() in ("/bin/true", b"/bin/true"))
        """
    )
    assert (done.stdout, done.stderr) == ("True\nTrue\n", "")


class TestFinding:
    @pytest.fixture(autouse=True)
    def unknown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from sidecar.cpu import python

        monkeypatch.setattr(python, "_found", {})

    def test_what_somebody_has_chosen_is_taken(self) -> None:
        from sidecar.cpu.python import find_python

        assert find_python("/opt/chosen/python") == "/opt/chosen/python"
        assert find_python(sys.executable) == sys.executable

    def test_what_was_tried_is_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from sidecar.cpu import python

        other = tmp_path / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
        other.parent.mkdir()
        other.write_text("#!/bin/sh\necho 50463472 '' cpython\n")
        other.chmod(0o755)
        for name in ("prefix", "exec_prefix", "base_prefix", "base_exec_prefix"):
            monkeypatch.setattr(sys, name, str(tmp_path))
        for name in ("executable", "_base_executable"):
            monkeypatch.setattr(sys, name, "/bin/true")
        monkeypatch.setattr(python.sysconfig, "get_config_var", lambda name: None)
        with pytest.raises(sidecar.CpuEngineError) as caught:
            python.find_python("/bin/true")
        text = str(caught.value)
        assert "(it is another Python: 50463472 cpython, not" in text and str(other) in text
        assert "python3 (not there)" in text and "multiprocessing.set_executable()" in text


@pytest.mark.parametrize("max_queue", [0, 1, 2])
def test_full(max_queue: int, tmp_path: Path) -> None:
    check_full("processes", max_queue, tmp_path)


def check_full(engine: str, max_queue: int, folder: Path) -> None:
    """``future()`` refuses at once; the other forms wait for room, in turn."""
    with bridge_on(engine, 1, max_queue=max_queue) as bridge:
        held = bridge.run_cpu.future(work.begin_and_wait, str(folder))
        begun(folder)
        queued = [bridge.run_cpu.future(work.add, 1) for _ in range(max_queue)]
        with pytest.raises(sidecar.QueueFull, match=r"as many as may \(max_queue\)") as caught:
            bridge.run_cpu.future(work.add, 2)
        assert caught.value.limit == "max_queue" and isinstance(caught.value, sidecar.Overloaded)
        with pytest.raises(sidecar.CallTimeoutError):
            bridge.run_sync(bridge.run_cpu.aio(work.add, 3), timeout=0.1)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            waiting: list[Any] = [pool.submit(bridge.run_cpu, work.add, at, 1) for at in range(60)]
            assert not concurrent.futures.wait(waiting, 0.2).done
            go(folder)
            assert [future.result(30) for future in waiting] == list(range(1, 61))
        assert held.result(30) == "one" and all(future.result(30) == 1 for future in queued)
