"""The caps of a bridge, and what becomes of ``Overloaded``: counted, and answered with 503."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from harness import wait_for
from streaming import in_thread

import sidecar
from sidecar import Overloaded, _core, _request
from sidecar._options import bridge_options

LONG = 30.0


@pytest.fixture
def one() -> Iterator[sidecar.Sidecar]:
    """A bridge for one call, and one job with none behind it."""
    with sidecar.Sidecar(name="one", workers=1, max_calls=1, max_queue=0) as bridge:
        yield bridge


async def answer() -> int:
    return 42


class Held:
    """Something that goes on until it is let go: a call on a thread, or a job."""

    def __init__(self) -> None:
        self.begun, self.released = threading.Event(), threading.Event()
        self.thread: threading.Thread | None = None

    async def wait(self) -> None:
        self.begun.set()
        while not self.released.is_set():
            await asyncio.sleep(0.001)

    def job(self) -> None:
        self.begun.set()
        assert self.released.wait(LONG)

    def call(self, bridge: sidecar.Sidecar) -> Held:
        def call() -> None:
            with contextlib.suppress(asyncio.CancelledError):  # by the bridge's shutdown
                bridge.run_sync(self.wait())

        self.thread = threading.Thread(target=call)
        self.thread.start()
        assert self.begun.wait(LONG)
        return self

    def end(self) -> None:
        self.released.set()
        if self.thread is not None:
            self.thread.join(LONG)


# -- calls ---------------------------------------------------------------------------


def test_one_call_too_many_is_refused_at_once(one: sidecar.Sidecar, where: Callable[..., Any]) -> None:
    held = Held().call(one)
    coro = answer()
    with pytest.raises(Overloaded, match=r"bridge 'one' has 1 calls in flight, as many as it may .max_calls. .SC0009"):
        where(one.run_sync, coro)
    assert coro.cr_frame is None  # closed, so not "never awaited"
    assert one.stats()["refused"] == 1
    held.end()
    assert where(one.run_sync, answer()) == 42
    assert one.stats()["refused"] == 1


def test_it_says_which_limit(one: sidecar.Sidecar) -> None:
    held = Held().call(one)
    with pytest.raises(Overloaded) as caught:
        one.run_sync(answer())
    held.end()
    assert (caught.value.limit, caught.value.retry_after) == ("max_calls", 1.0)


@pytest.mark.parametrize("end", ["error", "timeout", "argument"])
def test_however_it_ends_the_place_is_free(one: sidecar.Sidecar, end: str) -> None:
    async def fail() -> None:
        raise KeyError

    for _ in range(3):
        if end == "error":
            with pytest.raises(KeyError):
                one.run_sync(fail())
        elif end == "timeout":
            with pytest.raises(sidecar.CallTimeoutError):
                one.run_sync(asyncio.sleep(LONG), timeout=0.001)
        else:
            with pytest.raises(TypeError):
                one.run_sync(5)  # type: ignore[arg-type]
    assert one.run_sync(answer()) == 42


async def numbers() -> AsyncIterator[int]:
    for number in range(3):
        yield number


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_stream_is_one_call_from_its_first_step_to_its_end(one: sidecar.Sidecar, prefetch: int) -> None:
    """Once begun it is never refused: half of an answer is worse than none."""
    first = one.stream(numbers, prefetch=prefetch)
    second = one.stream(numbers, prefetch=prefetch)
    assert next(first) == 0
    with pytest.raises(Overloaded):
        next(second)
    with pytest.raises(Overloaded):
        one.run_sync(answer())
    assert list(first) == [1, 2]
    assert list(second) == [0, 1, 2]  # refused, it was not begun; now there is room
    assert one.stats()["refused"] == 2


@pytest.mark.parametrize("leave", ["close", "drop", "error"])
def test_a_stream_that_is_left_is_no_call_any_more(one: sidecar.Sidecar, leave: str) -> None:
    async def fails() -> AsyncIterator[int]:
        yield 0
        raise KeyError

    for _ in range(3):
        stream = one.stream(fails)
        assert next(stream) == 0
        if leave == "close":
            stream.close()
        elif leave == "drop":
            del stream
        else:
            with pytest.raises(KeyError):
                next(stream)
    wait_for(lambda: one.stats()["tasks"] == 0, "all are closed")
    assert one.run_sync(answer()) == 42


def test_contexts_and_hooks_come_to_their_end_at_the_cap() -> None:
    """What was entered can be left; what the bridge itself calls is never refused."""
    events: list[str] = []

    class Client:
        async def __aenter__(self) -> Client:
            return self

        async def __aexit__(self, *_: object) -> None:
            events.append("left")

    bridge = sidecar.Sidecar(name="hooks", max_calls=1)

    @bridge.on_worker_start
    async def begin() -> None:
        events.append("begun")

    @bridge.on_worker_stop
    async def end() -> None:
        events.append("ended")

    with bridge.wrap_context(Client):
        events.append("inside")
    held = Held().call(bridge)
    stopper = threading.Thread(target=bridge.shutdown)
    stopper.start()
    wait_for(lambda: "ended" in events, "the hook has run beside a call")
    held.end()
    stopper.join(LONG)
    assert events == ["begun", "inside", "left", "ended"]


def test_many_threads_are_never_more_than_may() -> None:
    most, inside, worst, lock = 3, 0, 0, threading.Lock()

    async def work(seconds: float) -> None:
        nonlocal inside, worst
        inside += 1
        worst = max(worst, inside)
        await asyncio.sleep(seconds)
        inside -= 1

    counts = {"in": 0, "refused": 0}

    def caller(number: int) -> None:
        dice = random.Random(number)
        for _ in range(100):
            try:
                bridge.run_sync(work(dice.choice([0, 0.0005])))
                what = "in"
            except Overloaded:
                what = "refused"
            with lock:
                counts[what] += 1

    with sidecar.Sidecar(name="many", max_calls=most) as bridge:
        threads = [threading.Thread(target=caller, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
        assert bridge.stats()["refused"] == counts["refused"]
        for _ in range(most):  # no place was lost: as many as before get in
            assert bridge.run_sync(answer()) == 42
        held = [Held().call(bridge) for _ in range(most)]
        with pytest.raises(Overloaded):
            bridge.run_sync(answer())
        for one in held:
            one.end()
    assert worst <= most
    assert sum(counts.values()) == 800
    assert all(counts.values()), counts


def test_a_fork_inside_a_call_leaves_the_count_right(run_script: Any) -> None:
    done = run_script(
        """
        import asyncio, os, sidecar, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        bridge = sidecar.Sidecar(max_calls=1)

        async def forks():
            return os.fork()

        async def inner():
            return 1

        async def nested():
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(None, lambda: bridge.run_sync(inner()))

        try:
            child = bridge.run_sync(forks())
        except sidecar.errors.ForkedError:
            assert bridge.run_sync(inner()) == 1
            try:
                bridge.run_sync(nested())  # two at a time are still too many
            except sidecar.Overloaded:
                os._exit(7 if bridge.stats()["refused"] == 1 else 8)
            os._exit(9)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status))
        bridge.shutdown()
        """
    )
    assert (done.stdout, done.stderr) == ("7\n", "")


# -- jobs ----------------------------------------------------------------------------


def submit(bridge: sidecar.Sidecar) -> None:
    bridge.submit(int)


def by_to_async(bridge: sidecar.Sidecar) -> None:
    bridge.run_sync(bridge.to_async(abs)(1))


def by_executor(bridge: sidecar.Sidecar) -> None:
    async def call() -> None:
        await asyncio.get_running_loop().run_in_executor(None, int)

    bridge.run_sync(call())


@pytest.mark.parametrize("way", [submit, by_to_async, by_executor])
def test_one_job_too_many_is_refused_at_once(one: sidecar.Sidecar, way: Callable[..., None]) -> None:
    held = Held()
    running = one.submit(held.job)
    assert held.begun.wait(LONG)
    with pytest.raises(Overloaded, match=r"'one-work' is full: 0 jobs wait for its 1 threads, as many") as caught:
        way(one)
    assert caught.value.limit == "max_queue"
    assert one.stats()["refused"] == 1
    held.end()
    running.result(LONG)
    wait_for(lambda: one.stats()["idle"] == 1, "the thread is idle")
    way(one)


@pytest.mark.parametrize("queue", [0, 1, 5])
def test_the_queue_counts_only_jobs_that_wait(queue: int) -> None:
    """However quick they come: those that a thread is on its way to, or will be made for, do not wait."""
    for _ in range(30):
        bridge = sidecar.Sidecar(name="queue", workers=3, max_queue=queue)
        held = [Held() for _ in range(3 + queue)]
        futures = [bridge.submit(one.job) for one in held]
        with pytest.raises(Overloaded):
            bridge.submit(int)
        for one in held:
            one.end()
        for future in futures:
            future.result(LONG)
        assert bridge.shutdown()


def test_a_job_that_waits_in_a_call_gives_its_place_to_another() -> None:
    with sidecar.Sidecar(name="nested", workers=1, max_queue=0) as bridge:
        held = Held()
        first = bridge.submit(lambda: bridge.run_sync(held.wait()))
        assert held.begun.wait(LONG)
        wait_for(lambda: _accepts(bridge), "its thread does not count")
        held.end()
        first.result(LONG)


def _accepts(bridge: sidecar.Sidecar) -> bool:
    try:
        return bridge.submit(int).result(LONG) == 0
    except Overloaded:
        return False


# -- options -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_calls": 0}, "max_calls must be a whole number from 1 on, or None, not 0"),
        ({"max_calls": True}, "max_calls must be .* not True"),
        ({"max_calls": 1.5}, "max_calls must be .* not 1.5"),
        ({"max_queue": -1}, "max_queue must be a whole number from 0 on, or None, not -1"),
        ({"max_queue": 1 << 70}, "max_queue must be"),
    ],
)
def test_wrong_caps(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sidecar.Sidecar(**options)


def test_the_environment() -> None:
    assert bridge_options({}) == {}
    assert bridge_options({"SIDECAR_MAX_CALLS": "20", "SIDECAR_MAX_QUEUE": "0"}) == {"max_calls": 20, "max_queue": 0}
    for name, text in (("SIDECAR_MAX_CALLS", "many"), ("SIDECAR_MAX_CALLS", "0"), ("SIDECAR_MAX_QUEUE", "-1")):
        with pytest.raises(ValueError, match=f"{name} must be .*not '{text}'"):
            bridge_options({name: text})


def test_the_environment_is_the_default_bridges(run_script: Any) -> None:
    script = """
        import sidecar
        bridge = sidecar.get_bridge()
        print(bridge._workers, bridge._max_calls, bridge._max_queue, sidecar.Sidecar()._max_calls)
    """
    environment = {**os.environ, "SIDECAR_WORKERS": "3", "SIDECAR_MAX_CALLS": "7", "SIDECAR_MAX_QUEUE": "9"}
    assert run_script(script, env=environment).stdout == "3 7 9 -1\n"
    environment["SIDECAR_MAX_CALLS"] = "lots"
    failed = run_script(script, env=environment)
    assert "ValueError: SIDECAR_MAX_CALLS must be a whole number, not 'lots'" in failed.stderr


def test_a_servers_own_configuration_counts_first(run_script: Any) -> None:
    script = """
        from sidecar import _support, get_bridge
        for options in ({"workers": 0}, {"max_queue": "some"}):
            try:
                _support.configure_bridge(options)
            except ValueError as error:
                print(error)
        _support.configure_bridge({"max_calls": 2})
        _support.configure_bridge({"workers": 5})
        print(get_bridge()._workers, get_bridge()._max_calls, get_bridge()._max_queue)
    """
    environment = {**os.environ, "SIDECAR_MAX_CALLS": "7", "SIDECAR_MAX_QUEUE": "9"}
    refused, too, told = run_script(script, env=environment).stdout.splitlines()
    assert refused.startswith("workers must be") and too.startswith("max_queue must be")
    assert told == "5 2 9"


def test_stats_of_a_bridge_that_does_not_run() -> None:
    assert sidecar.Sidecar().stats()["refused"] == 0


# -- the answer ----------------------------------------------------------------------


class Answer:
    """What the middleware makes of an application, iterated and closed."""

    def __init__(self, app: Any, environ: dict[str, Any] | None = None, guard: bool = False) -> None:
        self.starts: list[tuple[Any, ...]] = []
        self.environ = {} if environ is None else environ
        wrapped = sidecar.WSGIMiddleware(_core._guard(app) if guard else app)
        body = wrapped(self.environ, lambda *args: self.starts.append(args))  # type: ignore[arg-type,return-value]
        try:
            self.body = b"".join(body).decode()
        finally:
            getattr(body, "close", lambda: None)()

    @property
    def status(self) -> str:
        return self.starts[-1][0]

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.starts[-1][1])


@pytest.fixture(params=["middleware", "guard"])
def answered(request: pytest.FixtureRequest) -> Callable[[Any], Answer]:
    """As under any server, and as the uWSGI plugin wraps an application."""
    return lambda app: Answer(app, guard=request.param == "guard")


def raises(error: BaseException) -> Any:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        raise error

    return app


def test_in_the_first_step_of_a_body_too(answered: Callable[[Any], Answer]) -> None:
    closed = []

    class Body:
        def __init__(self, *blocks: bytes) -> None:
            self.blocks = iter(blocks)

        def __iter__(self) -> Body:
            return self

        def __next__(self) -> bytes:
            for block in self.blocks:
                return block
            raise sidecar.Overloaded("no room")

        def close(self) -> None:
            closed.append(True)

    def app(environ: Any, start_response: Any) -> Body:
        start_response("200 OK", [("X-Own", "1")])
        return Body(b"", b"")

    refused = answered(app)
    assert refused.status == "503 Service Unavailable" and "X-Own" not in refused.headers
    assert refused.environ["HTTP_X_REQUEST_ID"] in refused.body
    with pytest.raises(sidecar.Overloaded):
        answered(lambda environ, start: [start("200 OK", []), Body(b"one")][1])
    assert closed == [True, True]


def test_a_guarded_body_just_ends_once_the_client_has_gone() -> None:
    """uWSGI writes nothing any more, and would log the error as the application's."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"one"
        raise sidecar.ClientDisconnected("gone")

    assert Answer(app, guard=True).body == "one"


def test_the_answer_to_head_has_no_body() -> None:
    def step(environ: Any, start_response: Any) -> Iterator[bytes]:
        raise sidecar.Overloaded("no room")
        yield b""

    for guard in (False, True):
        for app in (raises(sidecar.Overloaded("no room")), step):
            refused = Answer(app, {"REQUEST_METHOD": "HEAD"}, guard)
            assert refused.status == "503 Service Unavailable"
            assert refused.body == "" and refused.headers["Content-Length"] != "0"


def test_503_with_the_id_and_when_to_come_again(answered: Callable[[Any], Answer], one: sidecar.Sidecar) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [str(in_thread(lambda: one.run_sync(answer()))).encode()]

    held = Held().call(one)
    refused = answered(lambda environ, start: [str(one.run_sync(answer())).encode()])
    held.end()
    assert refused.status == "503 Service Unavailable"
    assert refused.headers == {
        "Content-Type": "text/plain; charset=utf-8",
        "Retry-After": "1",
        "Content-Length": str(len(refused.body)),
        "X-Request-ID": refused.environ["HTTP_X_REQUEST_ID"],
    }
    assert refused.body == f"There is too much to do just now.\nRequest: {refused.environ['HTTP_X_REQUEST_ID']}\n"
    assert answered(app).body == "42"


@pytest.mark.parametrize(("seconds", "header"), [(0, "1"), (0.2, "1"), (2.1, "3"), (30, "30")])
def test_retry_after_is_whole_seconds(answered: Callable[[Any], Answer], seconds: float, header: str) -> None:
    assert answered(raises(Overloaded("busy", retry_after=seconds))).headers["Retry-After"] == header


def test_no_other_error_is_answered(answered: Callable[[Any], Answer]) -> None:
    with pytest.raises(RuntimeError, match="^mine$"):
        answered(raises(RuntimeError("mine")))


def test_in_the_first_step_of_a_body() -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("X-Mine", "1")])
        yield b""
        raise Overloaded("busy")

    late = Answer(app)
    assert late.status == "503 Service Unavailable"
    assert isinstance(late.starts[-1][2][1], Overloaded)  # the server may have sent the headers, and says so
    assert "X-Mine" not in late.headers


def test_once_something_was_sent_it_is_an_error() -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"half"
        raise Overloaded("busy")

    with pytest.raises(Overloaded):
        Answer(app)


def test_the_log_names_one_a_second(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_request, "_quiet_until", 0.0)
    monkeypatch.setattr(_request, "_unnamed", 0)
    now = time.monotonic()
    monkeypatch.setattr(_request.time, "monotonic", lambda: now)
    with caplog.at_level(logging.WARNING, "sidecar"):
        for _ in range(3):
            Answer(raises(Overloaded("busy")))
        now += 2
        last = Answer(raises(Overloaded("busy")))
    first, second = (record.getMessage() for record in caplog.records)
    assert first.endswith(": busy; answered with 503")
    assert second == f"request {last.environ['HTTP_X_REQUEST_ID']}: busy; answered with 503, as were 2 before it"
