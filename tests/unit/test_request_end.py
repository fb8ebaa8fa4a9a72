"""The end of a request: when it is, what is waited for, what is named, and that all of many are accounted for."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import os
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness import wait_for
from requested import HEADERS, Answer, Stubborn, Work, call, serve

import sidecar

LONG = 30.0


@pytest.fixture
def stubborn() -> Iterator[Stubborn]:
    made = Stubborn()
    yield made
    made.let_go.set()

    async def are_over() -> bool:
        return all(task.done() for task in made.tasks)

    wait_for(lambda: sidecar.run_sync(are_over()), "the stubborn end when let go")


class TestWhatDoesNotEnd:
    def test_a_task_is_named_with_the_id_and_its_line(
        self, stubborn: Stubborn, caplog: pytest.LogCaptureFixture
    ) -> None:
        def begin() -> Any:
            sidecar.run_sync(stubborn.leave())
            return sidecar.current()

        begun = time.monotonic()
        request = call(begin, cleanup_timeout=0.05)
        assert 0.05 <= time.monotonic() - begun < LONG
        (record,) = [record for record in caplog.records if "still run" in record.getMessage()]
        line = stubborn.run.__code__.co_firstlineno
        assert record.levelno == logging.WARNING and record.name == "sidecar"
        text = record.getMessage()
        assert text.startswith(f"request {request.id}: 1 of what it began still run 0.05 s after its end: ")
        assert text.endswith(f"Stubborn.run() at {stubborn.run.__code__.co_filename}:{line}")
        assert stubborn.cancelled == 1

    def test_each_time(self, stubborn: Stubborn, caplog: pytest.LogCaptureFixture) -> None:
        """The wait and what it waits for end at about the same moment: who runs on is named all the same."""
        for _ in range(30):
            call(lambda: sidecar.run_sync(stubborn.leave()), cleanup_timeout=0.005)
        assert caplog.text.count("1 of what it began still run") == 30

    def test_a_function_of_the_pool(self, caplog: pytest.LogCaptureFixture) -> None:
        go = threading.Event()

        def block() -> None:
            go.wait(LONG)

        begun = threading.Event()
        future = call(
            lambda: (sidecar.submit(lambda: (begun.set(), block())), begun.wait(LONG))[0], cleanup_timeout=0.02
        )
        go.set()
        future.result(LONG)
        assert "1 of what it began still run 0.02 s after its end" in caplog.text
        assert f"<lambda>() at {__file__}:" in caplog.text

    def test_no_time_at_all(self, stubborn: Stubborn, caplog: pytest.LogCaptureFixture) -> None:
        call(lambda: sidecar.run_sync(stubborn.leave()), cleanup_timeout=0)
        assert "1 of what it began still run 0 s after its end" in caplog.text

    def test_on_a_loop_that_is_stuck(self, bridge: sidecar.Sidecar, caplog: pytest.LogCaptureFixture) -> None:
        go, stuck = threading.Event(), threading.Event()

        async def block() -> None:
            stuck.set()
            go.wait(LONG)

        def begin() -> Any:
            future = bridge.submit(block)
            assert stuck.wait(LONG)
            return future

        try:
            call(begin, cleanup_timeout=0.05)
        finally:
            go.set()
        assert f"block() at {__file__}:" in caplog.text


class TestTheEnd:
    """When it is: with the return of a whole body, else with the body's close()."""

    def test_a_generators_work_lasts_until_its_close(self) -> None:
        work = Work()

        def app(environ: Any, start_response: Any) -> Iterator[bytes]:
            sidecar.run_sync(work.leave())
            start_response("200 OK", HEADERS)
            yield b"one"
            yield b"two"

        answer = Answer()
        body: Any = sidecar.WSGIMiddleware(app)({}, answer.start_response)
        with concurrent.futures.ThreadPoolExecutor(1) as other:
            assert other.submit(list, body).result(LONG) == [b"one", b"two"]
        assert work.ends == []
        body.close()
        assert work.ends == ["cancelled"]

    @pytest.mark.parametrize("steps", [0, 1])
    def test_of_a_body_that_is_not_iterated_to_its_end(self, steps: int) -> None:
        work = Work()

        def app(environ: Any, start_response: Any) -> Any:
            start_response("200 OK", HEADERS)
            sidecar.run_sync(work.leave())
            return (block for block in [b"a", b"b"])

        body: Any = sidecar.WSGIMiddleware(app)({}, Answer().start_response)
        for _ in range(steps):
            next(body)
        body.close()
        assert work.ends == ["cancelled"]

    @pytest.mark.parametrize("started", [False, True])
    def test_of_an_app_that_raises(self, started: bool) -> None:
        work = Work()

        def app(environ: Any, start_response: Any) -> Any:
            if started:
                start_response("200 OK", HEADERS)
            sidecar.run_sync(work.leave())
            raise LookupError("the app's")

        with pytest.raises(LookupError, match="the app's"):
            serve(app)
        assert work.ends == ["cancelled"]

    def test_of_a_body_whose_step_and_close_raise(self) -> None:
        work = Work()

        class Body:
            def __iter__(self) -> Body:
                return self

            def __next__(self) -> bytes:
                sidecar.run_sync(work.leave())
                raise LookupError("step")

            def close(self) -> None:
                raise OSError("close")

        body: Any = sidecar.WSGIMiddleware(lambda environ, start_response: Body())({}, Answer().start_response)
        with pytest.raises(LookupError, match="step"):
            next(body)
        assert work.ends == []
        with pytest.raises(OSError, match="close"):
            body.close()
        assert work.ends == ["cancelled"]

    def test_work_that_close_begins(self) -> None:
        work = Work()

        class Body:
            def __iter__(self) -> Iterator[bytes]:
                return iter([b"x"])

            def close(self) -> None:
                sidecar.run_sync(work.leave())

        def app(environ: Any, start_response: Any) -> Body:
            start_response("200 OK", HEADERS)
            return Body()

        serve(app)
        assert work.ends == ["cancelled"]

    def test_a_file_wrappers_request_ends_with_the_call(self) -> None:
        work = Work()

        class Wrapper:
            def __init__(self, file: Any, size: int = 0) -> None:
                self.file = file

        def app(environ: Any, start_response: Any) -> Any:
            sidecar.run_sync(work.leave())
            start_response("200 OK", HEADERS)
            return environ["wsgi.file_wrapper"](None)

        environ = {"wsgi.file_wrapper": Wrapper}
        assert isinstance(sidecar.WSGIMiddleware(app)(environ, Answer().start_response), Wrapper)
        assert work.ends == ["cancelled"]

    @pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("GET", "304 Not Modified")])
    def test_of_an_answer_without_a_body(self, method: str, status: str) -> None:
        work = Work()

        def app(environ: Any, start_response: Any) -> list[bytes]:
            sidecar.run_sync(work.leave())
            start_response(status, [])
            return []

        assert serve(app, {"REQUEST_METHOD": method}).status == status
        assert work.ends == ["cancelled"]

    def test_of_a_body_dropped_without_close(self) -> None:
        work = Work()

        def app(environ: Any, start_response: Any) -> Iterator[bytes]:
            sidecar.run_sync(work.leave())
            yield b"x"

        environ: dict[str, Any] = {}
        body: Any = sidecar.WSGIMiddleware(app)(environ, Answer().start_response)
        next(body)
        del body
        environ.clear()
        gc.collect()
        assert work.ends == ["cancelled"]

    def test_of_the_outer_of_two_middlewares(self) -> None:
        work = Work()
        seen = []

        def app(environ: Any, start_response: Any) -> list[bytes]:
            sidecar.run_sync(work.leave())
            start_response("200 OK", HEADERS)
            return []

        inner = sidecar.WSGIMiddleware(app)

        def outer(environ: Any, start_response: Any) -> Any:
            result = inner(environ, start_response)
            seen.append(list(work.ends))
            return result

        serve(outer)
        assert seen == [[]] and work.ends == ["cancelled"]

    def test_closed_on_a_thread_that_runs_an_event_loop_it_does_not_wait(self, stubborn: Stubborn) -> None:
        """That loop may be the one that runs what the request waits for."""

        def app(environ: Any, start_response: Any) -> Iterator[bytes]:
            stubborn_leave.result(LONG)
            yield b"x"

        async def main() -> float:
            body: Any = sidecar.WSGIMiddleware(app)({}, Answer().start_response)
            begun = time.monotonic()
            body.close()
            return time.monotonic() - begun

        stubborn_leave = sidecar.submit(stubborn.leave)
        assert asyncio.run(main()) < 4

    def test_request_cancelled_tells(self) -> None:
        request = call(sidecar.current)
        assert request.cancelled
        assert not call(lambda: sidecar.current().cancelled)  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_inside_a_request() -> None:
    """The child's half of the request ends at once: what it had begun stayed with the parent."""
    work = Work()
    answer = Answer()
    parent = os.getpid()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        sidecar.run_sync(work.leave())
        environ["child"] = os.fork()
        start_response("200 OK", HEADERS)
        return []

    environ: dict[str, Any] = {}
    begun = time.monotonic()
    try:
        sidecar.WSGIMiddleware(app, cleanup_timeout=20)(environ, answer.start_response)
    finally:
        if os.getpid() != parent:
            os._exit(0 if time.monotonic() - begun < 10 and work.ends == [] else 1)
    _, status = os.waitpid(environ["child"], 0)
    assert os.WEXITSTATUS(status) == 0
    assert work.ends == ["cancelled"]


@pytest.mark.parametrize("seed", range(3))
def test_many_requests_at_once(seed: int) -> None:
    """Each leaves things behind, of which some end by themselves, some are cancelled by their user: all are over."""
    works: list[Work] = []
    futures: list[Any] = []
    lock = threading.Lock()

    def request(number: int) -> None:
        random_ = random.Random(seed * 1000 + number)
        mine = [Work(cleanup=random_.choice([0, 0.001, 0.005])) for _ in range(4)]
        with lock:
            works.extend(mine)

        def begin() -> None:
            for work in mine:
                how = random_.randrange(4)
                if how == 0:
                    sidecar.run_sync(work.leave())
                elif how == 1:
                    sidecar.run_sync(work.run(random_.choice([0, 0.001])))
                else:
                    future = sidecar.submit(work.run, random_.choice([0, 0.002, LONG]))
                    with lock:
                        futures.append(future)
                    if how == 3:
                        assert work.begun.wait(LONG)
                        future.cancel()
                if random_.random() < 0.1:
                    raise LookupError("the app's")

        try:
            call(begin, cleanup_timeout=20)
        except LookupError:
            pass

    with concurrent.futures.ThreadPoolExecutor(8) as executor:
        for result in [executor.submit(request, number) for number in range(60)]:
            result.result(60)
    assert all(future.done() for future in futures)
    for work in works:
        assert len(work.ends) == work.begun.is_set() and "cut short" not in work.ends
