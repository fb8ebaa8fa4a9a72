"""The deadline of a request: where it comes from, whom it reaches, and what answers for the application."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from harness import wait_for
from requested import HEADERS, Stubborn, Work, call, serve, view

import sidecar

LONG = 30.0
HEADER = {"deadline_header": "X-Timeout", "trust": "always"}


def late(function: Callable[[], Any]) -> sidecar.DeadlineExceeded:
    with pytest.raises(sidecar.DeadlineExceeded) as caught:
        function()
    return caught.value


class TestWhereItComesFrom:
    def test_there_is_none_by_default(self) -> None:
        seen = call(lambda: (sidecar.current().deadline, sidecar.current().time_left()))  # type: ignore[union-attr]
        assert seen == (None, None)

    def test_the_option(self) -> None:
        request = call(sidecar.current, deadline=7)
        assert request.deadline == pytest.approx(request.started + 7)
        assert 0 < request.time_left() <= 7
        assert sidecar.WSGIMiddleware(view(int), deadline=float("inf"))
        assert call(lambda: sidecar.current().deadline, deadline=float("inf")) is None  # type: ignore[union-attr]

    @pytest.mark.parametrize("value", [0, -1, float("nan"), "3", True, [], object()])
    def test_what_is_no_time(self, value: Any) -> None:
        with pytest.raises(ValueError, match="deadline must be a number of seconds above 0"):
            sidecar.WSGIMiddleware(view(int), deadline=value)

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("2", 2), ("2.5", 2.5), ("2s", 2), (" 250ms ", 0.25), ("1.5ms", 0.0015), ("0", 0), ("999999999", 999999999)],
    )
    def test_a_trusted_header(self, text: str, seconds: float) -> None:
        request = call(sidecar.current, {"HTTP_X_TIMEOUT": text}, **HEADER)
        assert request.deadline - request.started == pytest.approx(seconds)

    @pytest.mark.parametrize("text", ["", "-1", "1e3", "2 s", "ms", "1.", ".5", "2m", "1000000000", "١", "2,3", "inf"])
    def test_a_header_that_is_no_time_is_ignored(self, text: str) -> None:
        assert call(lambda: sidecar.current().deadline, {"HTTP_X_TIMEOUT": text}, **HEADER) is None  # type: ignore

    @pytest.mark.parametrize(
        ("options", "seconds"),
        [
            ({"deadline": 5, **HEADER}, 2),
            ({"deadline": 1, **HEADER}, 1),
            ({"deadline": 5, "deadline_header": "X-Timeout"}, 5),
            ({"deadline_header": "X-Timeout"}, None),
            ({"deadline": 5, "trust": "always"}, 5),
            ({"deadline_header": "X-Timeout", "trust": "10.0.0.0/8"}, 2),
            ({"deadline_header": "X-Timeout", "trust": "11.0.0.0/8"}, None),
        ],
    )
    def test_the_sooner_one_and_the_header_only_of_the_trusted(self, options: Any, seconds: float | None) -> None:
        environ = {"HTTP_X_TIMEOUT": "2", "REMOTE_ADDR": "10.1.2.3"}
        request = call(sidecar.current, environ, **options)
        if seconds is None:
            assert request.deadline is None
        else:
            assert request.deadline - request.started == pytest.approx(seconds)

    def test_of_a_middleware_within_another_the_outer_ones_counts(self) -> None:
        seen = call(lambda: None)

        def app(environ: Any, start_response: Any) -> list[bytes]:
            nonlocal seen
            request = sidecar.current()
            assert request is not None
            seen = request.time_left()
            start_response("200 OK", HEADERS)
            return []

        serve(sidecar.WSGIMiddleware(app, deadline=1), deadline=9)
        assert 1 < seen <= 9


class TestWhomItReaches:
    def test_run_sync(self, where: Callable[..., Any]) -> None:
        work = Work(cleanup=0.01)

        def wait() -> None:
            begun = time.monotonic()
            error = late(lambda: sidecar.run_sync(work.run()))
            assert 0.2 <= time.monotonic() - begun < LONG
            assert isinstance(error, (sidecar.CallTimeoutError, TimeoutError)) and error.code == "SC0007"
            assert "the deadline of the request has passed; Work.run() at" in str(error)
            assert isinstance(error.__cause__, asyncio.CancelledError)
            assert sidecar.current().cancelled  # type: ignore[union-attr]

        where(lambda: call(wait, deadline=0.3))
        assert work.ends == ["cancelled"]

    def test_which_is_a_time_out_of_every_kind(self) -> None:
        def wait() -> None:
            error = late(lambda: sidecar.run_sync(asyncio.sleep(LONG)))
            for kind in (TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError, sidecar.SidecarError):
                assert isinstance(error, kind)

        call(wait, deadline=0.01)

    def test_gather(self) -> None:
        works = [Work(), Work()]
        call(lambda: late(lambda: sidecar.gather(*(work.run() for work in works))), deadline=0.3)
        assert [work.ends for work in works] == [["cancelled"], ["cancelled"]]

    @pytest.mark.parametrize("prefetch", [0, 2])
    def test_a_stream(self, prefetch: int) -> None:
        got = []

        async def items() -> AsyncIterator[int]:
            yield 1
            await asyncio.sleep(LONG)
            yield 2

        def consume() -> None:
            def run() -> None:
                for item in sidecar.stream(items, prefetch=prefetch):
                    got.append(item)

            late(run)

        call(consume, deadline=0.3)
        assert got == [1]

    def test_a_job_that_waits_for_a_thread(self, bridge: sidecar.Sidecar) -> None:
        go, ran = threading.Event(), []
        blockers = [bridge.submit(go.wait, LONG) for _ in range(2)]

        def wait() -> None:
            future = bridge.submit(ran.append, 1)
            request = sidecar.current()
            assert request is not None
            wait_for(lambda: request.time_left() == 0, "the deadline passes")
            go.set()
            late(lambda: future.result(LONG))

        call(wait, deadline=0.02)
        assert all(blocker.result(LONG) for blocker in blockers) and ran == []

    def test_a_call_from_another_thread_of_the_request(self) -> None:
        def wait() -> Any:
            context = contextvars.copy_context()
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                return pool.submit(context.run, late, lambda: sidecar.run_sync(asyncio.sleep(LONG))).result(LONG)

        assert isinstance(call(wait, deadline=0.02), sidecar.DeadlineExceeded)

    def test_a_call_by_the_request_on_a_plain_thread(self) -> None:
        def wait() -> Any:
            request = sidecar.current()
            assert request is not None
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                return pool.submit(late, lambda: request.run_sync(asyncio.sleep(LONG))).result(LONG)

        assert isinstance(call(wait, deadline=0.02), sidecar.DeadlineExceeded)

    def test_another_bridge(self, bridge: sidecar.Sidecar) -> None:
        call(lambda: late(lambda: bridge.run_sync(asyncio.sleep(LONG))), deadline=0.02)

    def test_what_else_the_request_has_begun(self) -> None:
        """Its tasks and its submitted work are cancelled when the deadline ends a call."""
        works = [Work(), Work()]

        def wait() -> None:
            sidecar.run_sync(works[0].leave())
            future = sidecar.submit(works[1].run)
            late(lambda: sidecar.run_sync(asyncio.sleep(LONG)))
            with pytest.raises(concurrent.futures.CancelledError):
                future.result(LONG)
            wait_for(lambda: [work.ends for work in works] == [["cancelled"]] * 2, "both are cancelled")

        call(wait, deadline=0.5)

    def test_a_call_that_is_quick_enough_hears_nothing(self) -> None:
        assert call(lambda: sidecar.run_sync(asyncio.sleep(0.001, "in time")), deadline=LONG) == "in time"

    def test_the_calls_own_time_out_where_it_is_sooner(self) -> None:
        def wait() -> None:
            with pytest.raises(sidecar.CallTimeoutError) as caught:
                sidecar.run_sync(asyncio.sleep(LONG), timeout=0.01)
            assert type(caught.value) is sidecar.CallTimeoutError

        call(wait, deadline=LONG)

    def test_and_the_deadline_where_that_is(self) -> None:
        call(lambda: late(lambda: sidecar.run_sync(asyncio.sleep(LONG), timeout=LONG)), deadline=0.01)

    def test_a_time_out_of_the_coroutines_own_passes(self) -> None:
        error = TimeoutError("its own")

        async def fail() -> None:
            raise error

        def wait() -> None:
            with pytest.raises(TimeoutError) as caught:
                sidecar.run_sync(fail())
            assert caught.value is error

        call(wait, deadline=LONG)

    def test_an_answer_that_comes_in_the_cleanup_is_given(self) -> None:
        async def answer() -> str:
            try:
                await asyncio.sleep(LONG)
            except asyncio.CancelledError:
                return "all the same"
            return ""

        assert call(lambda: sidecar.run_sync(answer()), deadline=0.3) == "all the same"


class TestAfterIt:
    def test_it_is_told_without_a_call_that_waits(self) -> None:
        """Passed while the thread computed: told at its next call, whose coroutine is not begun."""
        work = Work()

        def wait() -> None:
            time.sleep(0.03)
            error = late(lambda: sidecar.run_sync(work.run()))
            assert str(error) == "the deadline of the request has passed [SC0007]"

        call(wait, deadline=0.01)
        assert not work.begun.is_set()

    def test_once_and_what_follows_is_cleanup(self) -> None:
        def wait() -> Any:
            late(lambda: sidecar.run_sync(asyncio.sleep(LONG)))
            return [sidecar.run_sync(asyncio.sleep(0.01, number)) for number in range(3)]

        assert call(wait, deadline=0.02) == [0, 1, 2]

    def test_which_has_cleanup_timeout_for_each_call(self) -> None:
        def wait() -> None:
            late(lambda: sidecar.run_sync(asyncio.sleep(LONG)))
            for _ in range(2):
                begun = time.monotonic()
                with pytest.raises(sidecar.CallTimeoutError) as caught:
                    sidecar.run_sync(asyncio.sleep(LONG))
                assert type(caught.value) is sidecar.CallTimeoutError
                assert 0.05 <= time.monotonic() - begun < 10

        call(wait, deadline=0.02, cleanup_timeout=0.05)

    def test_a_coroutine_that_does_not_end_is_left_behind(self) -> None:
        stubborn = Stubborn()

        def wait() -> None:
            with sidecar.Sidecar(cleanup_timeout=0.05) as bridge:
                try:
                    error = late(lambda: bridge.run_sync(stubborn.run()))
                finally:
                    stubborn.let_go.set()
                assert type(error.__cause__) is sidecar.CallTimeoutError
                assert "left behind as an orphan" in str(error.__cause__)
                bridge.run_sync(asyncio.sleep(0))

        call(wait, deadline=0.3)

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
    def test_an_eager_factory_changes_nothing(self, bridge: sidecar.Sidecar) -> None:
        work = Work()
        bridge.get_loop().set_task_factory(asyncio.eager_task_factory)
        call(lambda: late(lambda: bridge.run_sync(work.run())), deadline=0.3)
        assert work.ends == ["cancelled"]


def assert_is_504(answer: Any, log: str) -> None:
    assert answer.status == "504 Gateway Timeout"
    (own,) = answer.ids
    assert own in answer.text and answer.text.startswith("The deadline of the request has passed.")
    assert ("Content-Length", str(len(answer.text))) in answer.starts[-1][1]
    assert f"request {own}: " in log and "answered with 504" in log


class TestItsAnswer:
    def test_where_the_app_lets_it_pass(self, caplog: pytest.LogCaptureFixture) -> None:
        answer = serve(view(lambda: sidecar.run_sync(asyncio.sleep(LONG))), deadline=0.02)
        assert_is_504(answer, caplog.text)
        assert len(answer.starts) == 1

    def test_where_it_has_started_one_but_sent_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        def app(environ: Any, start_response: Any) -> list[bytes]:
            start_response("200 OK", HEADERS)
            return [sidecar.run_sync(asyncio.sleep(LONG, b"x"))]

        answer = serve(app, deadline=0.02)
        assert_is_504(answer, caplog.text)
        assert [status for status, _ in answer.starts] == ["200 OK", "504 Gateway Timeout"]

    def test_where_it_has_written(self) -> None:
        def app(environ: Any, start_response: Any) -> list[bytes]:
            start_response("200 OK", HEADERS)(b"half")
            return [sidecar.run_sync(asyncio.sleep(LONG, b"x"))]

        late(lambda: serve(app, deadline=0.02))

    def test_where_the_app_handles_it(self) -> None:
        def app(environ: Any, start_response: Any) -> list[bytes]:
            late(lambda: sidecar.run_sync(asyncio.sleep(LONG)))
            start_response("503 Service Unavailable", HEADERS)
            return [b"later"]

        answer = serve(app, deadline=0.02)
        assert (answer.status, answer.text) == ("503 Service Unavailable", "later")

    def test_in_the_first_step_of_a_generator(self, caplog: pytest.LogCaptureFixture) -> None:
        closed = []

        def app(environ: Any, start_response: Any) -> Iterator[bytes]:
            try:
                start_response("200 OK", HEADERS)
                yield sidecar.run_sync(asyncio.sleep(LONG, b"x"))
                yield b"never"
            finally:
                closed.append(sidecar.current())

        answer = serve(app, deadline=0.02)
        assert_is_504(answer, caplog.text)
        assert len(closed) == 1 and closed[0] is not None

    def test_after_empty_blocks(self, caplog: pytest.LogCaptureFixture) -> None:
        def app(environ: Any, start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", HEADERS)
            yield b""
            yield sidecar.run_sync(asyncio.sleep(LONG, b"x"))

        assert_is_504(serve(app, deadline=0.02), caplog.text)

    def test_in_a_later_step(self) -> None:
        seen = []

        def app(environ: Any, start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", HEADERS)
            yield b"one"
            seen.append("one")
            yield sidecar.run_sync(asyncio.sleep(LONG, b"x"))

        late(lambda: serve(app, deadline=0.02))
        assert seen == ["one"]

    def test_in_the_making_of_the_iterator(self, caplog: pytest.LogCaptureFixture) -> None:
        """The server asks for it first: an error there has no step to answer in, and is the server's."""

        class Body:
            def __iter__(self) -> Iterator[bytes]:
                return iter([sidecar.run_sync(asyncio.sleep(LONG, b"x"))])

        def app(environ: Any, start_response: Any) -> Body:
            start_response("200 OK", HEADERS)
            return Body()

        body: Any = sidecar.WSGIMiddleware(app, deadline=0.02)({}, lambda status, headers, exc_info=None: None)
        late(lambda: iter(body))
        body.close()

    def test_to_a_head_request_it_has_no_body(self) -> None:
        def app(environ: Any, start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", HEADERS)
            yield sidecar.run_sync(asyncio.sleep(LONG, b"x"))

        for late_app in (app, view(lambda: sidecar.run_sync(asyncio.sleep(LONG)))):
            answer = serve(late_app, {"REQUEST_METHOD": "HEAD"}, deadline=0.02)
            assert (answer.status, answer.text) == ("504 Gateway Timeout", "")

    def test_another_error_passes(self) -> None:
        def fail() -> None:
            late(lambda: sidecar.run_sync(asyncio.sleep(LONG)))
            raise LookupError("the app's")

        with pytest.raises(LookupError, match="the app's"):
            serve(view(fail), deadline=0.02)

    def test_and_a_plain_time_out_too(self) -> None:
        with pytest.raises(sidecar.CallTimeoutError):
            serve(view(lambda: sidecar.run_sync(asyncio.sleep(LONG), timeout=0.01)), deadline=LONG)

    def test_an_error_of_the_servers_start_response(self) -> None:
        def refuse(status: str, headers: Any, exc_info: Any = None) -> None:
            raise OSError("the server's")

        app = sidecar.WSGIMiddleware(view(lambda: sidecar.run_sync(asyncio.sleep(LONG))), deadline=0.02)
        with pytest.raises(OSError, match="the server's"):
            app({}, refuse)  # type: ignore[arg-type]
        assert sidecar.current() is None

    def test_the_deadlines_error_leaves_nothing_behind(self) -> None:
        work = Work()

        def wait() -> None:
            sidecar.run_sync(work.leave())
            sidecar.run_sync(asyncio.sleep(LONG))

        assert serve(view(wait), deadline=0.5).status == "504 Gateway Timeout"
        assert work.ends == ["cancelled"]


def test_many_at_once() -> None:
    """Each hears of its own deadline, once."""

    def request(number: int) -> Any:
        deadline = 0.01 + (number % 7) * 0.01
        in_time = number % 3 == 0
        answer = serve(
            view(lambda: sidecar.run_sync(asyncio.sleep(0 if in_time else LONG))),
            deadline=LONG if in_time else deadline,
        )
        return in_time, answer.status

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for in_time, status in pool.map(request, range(120)):
            assert status == ("200 OK" if in_time else "504 Gateway Timeout")
