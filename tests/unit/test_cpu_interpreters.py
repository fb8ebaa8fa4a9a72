"""The engine of sub-interpreters by itself: what goes there, what comes back, and what is shared on the way."""

from __future__ import annotations

import concurrent.futures
import contextvars
import gc
import math
import operator
import os
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import wait_for
from unit import cpu_interpreter_work as work

from sidecar.cpu import pickling
from sidecar.cpu.engine import Call, CpuFuture, RefusedByInterpreter
from sidecar.cpu.interpreters import InterpreterEngine
from sidecar.errors import CpuPickleError, CpuRemoteError, QueueFull

if sys.version_info < (3, 12):
    pytest.skip("interpreters with a GIL of their own are 3.12's", allow_module_level=True)
if work.is_broken():
    pytest.skip("this CPython crashes where an isolated interpreter has imported asyncio", allow_module_level=True)

SECONDS = 60


def call(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
    return Call(fn, args, kwargs, None, contextvars.Context())


def submit(engine: InterpreterEngine, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> CpuFuture:
    return engine.submit(call(fn, *args, **kwargs))


def run(engine: InterpreterEngine, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return submit(engine, fn, *args, **kwargs).result(SECONDS)


class Patient(InterpreterEngine):
    """Its threads do not end in the middle of a test."""

    idle_seconds = 600.0


@pytest.fixture(scope="module")
def engine() -> Iterator[InterpreterEngine]:
    made = Patient(2, 1000, "tests")
    # Both of them now: the threads are here before the first test.
    for future in [submit(made, work.sleep, 0.2) for _ in range(2)]:
        future.result(SECONDS)
    assert made.stats()["workers"] == 2
    yield made
    assert made.shutdown(SECONDS) == []


@pytest.fixture
def single() -> Iterator[InterpreterEngine]:
    made = InterpreterEngine(1, 2, "one")
    yield made
    assert made.shutdown(SECONDS) == []


# -- values -------------------------------------------------------------------------

PLAIN = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**63,
    10**400,
    0.0,
    -0.0,
    math.inf,
    1e-310,
    "",
    "a",
    "\xe9",
    "\xe9\xe8" * 3,
    "\u20ac",
    "\U0001f40d snake",
    "a" * 5000,
    "\xe9" * 5000,
    "\u20ac" * 5000,
    "\U0001f40d" * 5000,
    "\ud800",
    b"",
    b"x",
    b"\0" * 4095,
    b"y" * 4096,
    b"z" * 1_000_000,
    bytearray(),
    bytearray(b"abc"),
    bytearray(b"q" * 100_000),
    (),
    (1, ("two", (3.0, (None, b"5")))),
    ((((((((((1,),),),),),),),),),),
    [1, [2]],
    {"a": {1, 2}},
    {1: "one"},
    1j,
    range(3),
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: f"{type(value).__name__}-{str(value)[:12]!a}")
def test_a_value_comes_there_and_back(engine: InterpreterEngine, value: Any) -> None:
    (args, kwargs) = run(engine, work.echo, value, 1, key=value)
    assert args == (value, 1) and kwargs == {"key": value}
    assert type(args[0]) is type(value)
    assert str(run(engine, work.same, value)) == str(value)
    assert run(engine, work.kind, value) == type(value).__name__


def test_not_a_number(engine: InterpreterEngine) -> None:
    assert math.isnan(run(engine, work.same, math.nan))


def test_subclasses_stay_what_they_are(engine: InterpreterEngine) -> None:
    from http import HTTPStatus

    assert run(engine, work.kind, HTTPStatus.OK) == "HTTPStatus"
    assert run(engine, work.same, HTTPStatus.OK) is HTTPStatus.OK


def test_the_same_object_twice_is_one_object_there(engine: InterpreterEngine) -> None:
    shared: list[int] = []
    (first, second), _ = run(engine, work.echo, shared, shared)
    assert first is second


def test_functions_of_many_kinds(engine: InterpreterEngine) -> None:
    assert run(engine, math.sqrt, 9.0) == 3.0
    assert run(engine, divmod, 7, 2) == (3, 1)
    assert run(engine, "a-b".split, "-") == ["a", "b"]
    assert run(engine, operator.itemgetter(1), (5, 6)) == 6
    assert run(engine, dict, [("a", 1)], b=2) == {"a": 1, "b": 2}
    assert run(engine, Path.exists, Path("/")) is True


def test_a_thousand_calls(engine: InterpreterEngine) -> None:
    futures = [submit(engine, work.echo, at, [at], key=str(at)) for at in range(1000)]
    for at, future in enumerate(futures):
        assert future.result(SECONDS) == ((at, [at]), {"key": str(at)})


def test_from_many_threads_at_once(engine: InterpreterEngine) -> None:
    wrong: list[Any] = []

    def hammer(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(150):
            value = chance.choice([chance.random(), chance.randbytes(chance.choice((3, 5000))), [seed], "x" * 9000])
            future = submit(engine, work.same, value)
            if chance.random() < 0.2:
                future.cancel()
            elif future.result(SECONDS) != value:
                wrong.append(value)

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert not wrong
    wait_for(lambda: engine.stats()["running"] == engine.stats()["queued"] == len(engine.orphans) == 0, "the end")


def test_calls_run_in_a_context_of_their_own(engine: InterpreterEngine) -> None:
    assert [run(engine, work.set_variable) for _ in range(4)] == [1] * 4


def test_what_a_call_is_made_of_goes_with_it(engine: InterpreterEngine) -> None:
    class Argument(dict):  # type: ignore[type-arg]
        """Takes a weak reference; pickled as what it is."""

        def __reduce__(self) -> Any:
            return dict, ()

    argument = Argument()
    gone = weakref.ref(argument)
    future = submit(engine, work.same, argument)
    assert future.result(SECONDS) == {}
    del argument, future
    wait_for(lambda: gc.collect() is not None and gone() is None, "the argument's end")


# -- buffers ------------------------------------------------------------------------


def test_a_view_is_the_same_memory(engine: InterpreterEngine) -> None:
    owner = bytearray(100_000)
    run(engine, work.fill, memoryview(owner)[10:20], 7)
    assert owner[9:21] == b"\0" + b"\x07" * 10 + b"\0"
    assert run(engine, work.look, memoryview(b"abcdef")) == ("B", (6,), True, 6, b"abc")
    shaped = memoryview(bytes(24)).cast("i", (2, 3))
    assert run(engine, work.look, shaped) == ("i", (2, 3), True, 24, None)


def test_a_buffer_goes_beside_the_pickle(engine: InterpreterEngine) -> None:
    assert run(engine, work.look_inside, work.Buffered(bytearray(70_000))) == ("memoryview", False, 70_000)
    assert run(engine, work.look_inside, work.Buffered(bytes(70_000))) == ("memoryview", True, 70_000)


def test_a_lent_buffer_is_given_back(single: InterpreterEngine) -> None:
    """As long as there is a view over there, the owner cannot be resized."""
    owner = bytearray(b"0123456789")
    assert run(single, work.keep, memoryview(owner)) == 1
    gc.collect()
    with pytest.raises(BufferError):
        owner.append(0)
    run(single, work.drop)
    wait_for(lambda: single.stats() is not None and can_grow(owner), "the buffer's return")


def test_a_buffer_is_given_back_by_an_interpreter_that_ends() -> None:
    engine = InterpreterEngine(1, 1, "ends")
    owners = [bytearray(b"0123456789") for _ in range(3)]
    run(engine, work.keep, memoryview(owners[0]))
    run(engine, work.leak_in_cycle, memoryview(owners[1]))
    run(engine, work.keep, work.Buffered(owners[2]))
    assert engine.shutdown(SECONDS) == []
    assert all(map(can_grow, owners))


def test_a_buffer_of_a_call_that_never_began_is_given_back(single: InterpreterEngine, tmp_path: Path) -> None:
    first = submit(single, work.wait_for_file, str(tmp_path / "go"))
    owner = bytearray(10)
    future = submit(single, work.look, memoryview(owner))
    assert not can_grow(owner)
    assert future.cancel()
    assert can_grow(owner)
    (tmp_path / "go").touch()
    first.result(SECONDS)


def can_grow(owner: bytearray) -> bool:
    try:
        owner.append(0)
    except BufferError:
        return False
    return True


def test_a_bytearray_is_as_it_was_when_the_call_was_made(single: InterpreterEngine, tmp_path: Path) -> None:
    first = submit(single, work.wait_for_file, str(tmp_path / "go"))
    owner = bytearray(b"before" * 2000)
    future = submit(single, work.same, owner)
    owner.clear()
    (tmp_path / "go").touch()
    first.result(SECONDS)
    assert future.result(SECONDS) == b"before" * 2000


def test_buffers_come_back_as_copies(engine: InterpreterEngine) -> None:
    for writable in (False, True):
        back = run(engine, work.zeros, 100_000, writable).buffer
        assert memoryview(back).nbytes == 100_000 and memoryview(back).readonly is not writable
    view = run(engine, work.same, memoryview(bytes(range(24))).cast("H", (3, 4)))
    assert view.format == "H" and view.shape == (3, 4) and view.tobytes() == bytes(range(24))


def test_a_view_beside_what_is_pickled(engine: InterpreterEngine) -> None:
    owner = bytearray(10)
    run(engine, work.fill_each, [5], memoryview(owner), last=memoryview(owner)[8:])
    assert owner == bytes([5] * 8 + [6] * 2)


def test_a_buffer_with_gaps_is_refused(engine: InterpreterEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickling, "_cloudpickle", lambda: None)  # it would copy
    with pytest.raises(CpuPickleError, match="argument 1"):
        submit(engine, work.same, memoryview(bytes(10))[::2])


def test_a_large_result(engine: InterpreterEngine) -> None:
    assert run(engine, operator.mul, b"ab", 5_000_000) == b"ab" * 5_000_000
    assert len(run(engine, list, range(300_000))) == 300_000


# -- errors -------------------------------------------------------------------------


def test_an_exception_comes_with_its_cause_and_its_text(engine: InterpreterEngine) -> None:
    with pytest.raises(work.Own, match="the text") as caught:
        run(engine, work.fail, "the text")
    first = caught.value.__cause__
    assert isinstance(first, LookupError)
    text = str(first.__cause__)
    assert "LookupError: the first" in text and "in fail" in text and "far_interpreter" not in text


@pytest.mark.parametrize("locked", [False, True])
def test_an_exception_that_does_not_pickle(engine: InterpreterEngine, locked: bool) -> None:
    with pytest.raises(CpuRemoteError, match="locked" if locked else "1 and 2"):
        run(engine, work.fail_oddly, locked)
    assert run(engine, work.same, 1) == 1


def test_a_result_that_does_not_pickle(engine: InterpreterEngine) -> None:
    with pytest.raises(CpuPickleError, match=r"result of .*unpicklable, a _thread\.lock, cannot be pickled"):
        run(engine, work.unpicklable)
    assert run(engine, work.same, 1) == 1


def test_an_argument_that_does_not_pickle(engine: InterpreterEngine) -> None:
    with pytest.raises(CpuPickleError, match="argument 2"):
        submit(engine, work.echo, 1, threading.Lock())
    with pytest.raises(CpuPickleError, match="argument 'key'"):
        submit(engine, work.echo, 1, key=threading.Lock())


def test_a_function_without_a_name(engine: InterpreterEngine) -> None:
    try:
        import cloudpickle  # noqa: F401
    except ImportError:
        with pytest.raises(CpuPickleError, match="needs cloudpickle"):
            submit(engine, lambda: 1)
    else:
        assert run(engine, lambda: 5) == 5


def test_a_module_that_is_here_only(engine: InterpreterEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    module = types.ModuleType("only_here")
    exec("def nothing(): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(ModuleNotFoundError, match="only_here"):
        run(engine, module.nothing)
    assert run(engine, work.same, 1) == 1


def test_leaving_ends_the_call_only(engine: InterpreterEngine) -> None:
    with pytest.raises(SystemExit) as left:
        run(engine, work.leave, "exit")
    assert left.value.code == 3
    with pytest.raises(KeyboardInterrupt, match="by itself"):
        run(engine, work.leave, "interrupt")
    assert run(engine, work.same, 1) == 1


def test_recursion(engine: InterpreterEngine) -> None:
    assert run(engine, work.deep, 500) == 500
    with pytest.raises(RecursionError):
        run(engine, work.deep, 10**6)
    assert run(engine, work.same, 1) == 1


def test_a_module_that_refuses(single: InterpreterEngine) -> None:
    """_testsinglephase-like modules are not always there; readline and faulthandler are of one phase."""
    refused: list[tuple[Call, RefusedByInterpreter]] = []
    single.refused = lambda made, error: (refused.append((made, error)), made.future.fail(error))
    name = next((name for name in ("faulthandler", "readline", "_curses") if is_refused(single, name)), None)
    if name is None:
        pytest.skip("every module of this Python loads in a sub-interpreter")
    with pytest.raises(RefusedByInterpreter, match=name) as caught:
        run(single, work.import_inside, name)
    assert caught.value.began is True and isinstance(caught.value.__cause__, ImportError)
    assert [error for _, error in refused[-1:]] == [caught.value]
    assert run(single, work.same, 1) == 1


def is_refused(engine: InterpreterEngine, name: str) -> bool:
    try:
        run(engine, work.import_inside, name)
    except RefusedByInterpreter:
        return True
    except ImportError:
        pass
    return False


# -- threads and queue --------------------------------------------------------------


def test_interpreters_start_with_work_and_keep_warm(single: InterpreterEngine) -> None:
    assert single.stats() == {"workers": 0, "idle": 0, "queued": 0, "running": 0, "orphans": 0}
    first, _ = run(single, work.where)
    assert run(single, work.where) == (first, False)
    assert first != threading.get_native_id()
    assert run(single, work.thread_name) == "one-cpu-0"


def test_idle_ones_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InterpreterEngine, "idle_seconds", 0.05)
    engine = InterpreterEngine(1, 1, "idle")
    first, _ = run(engine, work.where)
    wait_for(lambda: engine.stats()["workers"] == 0, "the idle one's end")
    assert run(engine, work.same, 1) == 1
    assert engine.shutdown(SECONDS) == []


def test_an_engine_that_nobody_has_ends_its_interpreters() -> None:
    engine = InterpreterEngine(2, 1, "forgotten")
    run(engine, work.same, 1)
    gone = weakref.ref(engine)
    before = {thread for thread in named("forgotte-cpu")}
    assert before
    del engine
    wait_for(lambda: gc.collect() is not None and gone() is None and not named("forgotte-cpu"), "their end")


def named(name: str) -> list[str]:
    found = []
    for comm in Path("/proc/self/task").glob("*/comm"):
        try:
            text = comm.read_text().strip()
        except OSError:
            continue
        if text.startswith(name):
            found.append(comm.parent.name)
    return found


def test_the_queue_is_bounded(single: InterpreterEngine, tmp_path: Path) -> None:
    made = threading.Event()
    single.room.join(made.set, first=False)
    running = submit(single, work.wait_for_file, str(tmp_path / "go"))
    wait_for(lambda: single.stats()["running"] == 1, "the first")
    waiting = [submit(single, work.same, at) for at in range(2)]
    with pytest.raises(QueueFull, match="2 calls wait for 1 interpreters"):
        submit(single, work.same, 3)
    assert single.stats()["queued"] == 2 and not made.is_set()
    assert waiting.pop().cancel()
    assert made.is_set()
    waiting.append(submit(single, work.same, 4))
    (tmp_path / "go").touch()
    assert running.result(SECONDS)
    assert [future.result(SECONDS) for future in waiting] == [0, 4]


def test_what_runs_is_an_orphan(single: InterpreterEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    future = submit(single, work.wait_for_file, str(tmp_path / "go"))
    wait_for(lambda: single.stats()["running"] == 1, "the call")
    queued = submit(single, work.same, 1)
    assert future.cancel() and future.cancelled() and queued.cancel()
    assert concurrent.futures.wait([future, queued], 0).not_done == set()
    assert single.stats()["orphans"] == 1 and single.orphans.names() == ["unit.cpu_interpreter_work.wait_for_file"]
    assert sum("was given up and goes on" in record.message for record in caplog.records) == 1
    (tmp_path / "go").touch()
    assert run(single, work.same, 2) == 2
    assert single.stats()["orphans"] == len(single.orphans) == 0


def test_shutdown_names_what_is_stuck(tmp_path: Path) -> None:
    engine = InterpreterEngine(1, 5, "stuck")
    future = submit(engine, work.wait_for_file, str(tmp_path / "go"))
    wait_for(lambda: engine.stats()["running"] == 1, "the call")
    waiting = submit(engine, work.same, 1)
    began = time.monotonic()
    assert engine.shutdown(0.1) == ["unit.cpu_interpreter_work.wait_for_file"]
    assert time.monotonic() - began < 5 and waiting.cancelled()
    with pytest.raises(RuntimeError, match="after shutdown"):
        submit(engine, work.same, 1)
    (tmp_path / "go").touch()
    assert future.result(SECONDS)
    assert engine.shutdown(SECONDS) == []


def test_two_run_at_once(engine: InterpreterEngine, tmp_path: Path) -> None:
    """The second one ends what the first one waits for."""
    first = submit(engine, work.wait_for_file, str(tmp_path / "go"))
    second = submit(engine, Path.touch, tmp_path / "go")
    assert first.result(SECONDS) and second.result(SECONDS) is None


def test_interpreters_leave_no_memory() -> None:
    """From 3.14 on; before it CPython itself keeps about 2.5 MB of each."""
    if sys.version_info < (3, 14):
        pytest.skip("CPython before 3.14 keeps memory of every interpreter that ends")
    if "asan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("the address sanitizer keeps what is freed")

    def restart(times: int) -> int:
        for _ in range(times):
            engine = InterpreterEngine(1, 1, "memory")
            assert run(engine, abs, -1) == 1
            assert engine.shutdown(SECONDS) == []
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4

    before = restart(5)
    assert restart(30) - before < 10_000  # KiB: a third of what they all took


def test_calls_leave_no_memory(engine: InterpreterEngine) -> None:
    def calls(count: int) -> int:
        for at in range(count):
            run(engine, work.echo, bytes(100_000), [at], work.Buffered(bytes(5000)))
            run(engine, work.look, memoryview(bytes(5000)))
            with pytest.raises(work.Own):
                run(engine, work.fail, "text")
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4

    before = calls(60)
    assert calls(200) - before < 10_000  # KiB; what the calls were given is 20 MB
