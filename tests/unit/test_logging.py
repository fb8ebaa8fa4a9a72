"""Log records, structlog's events and gunicorn's access log say which request they belong to."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import logging.handlers
import queue
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import wait_for

import sidecar
import sidecar.logging

TRACE = "0af7651916cd43dd8448eb211c80319c"

log = logging.getLogger("tests.sidecar.logging")


class Kept(logging.Handler):
    """Keeps its records; where it runs is where the record was made."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler = Kept()
    handler.addFilter(sidecar.logging.RequestFilter())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    yield handler
    log.removeHandler(handler)
    log.propagate = True


def serve(view: Callable[[], Any], **options: Any) -> tuple[sidecar.Request, list[bytes]]:
    """One request, as a server makes it: called, iterated, closed."""
    found: list[sidecar.Request] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        found.append(sidecar.current())
        start_response("200 OK", [])
        body = view()
        return [] if body is None else body

    environ = {"HTTP_TRACEPARENT": f"00-{TRACE}-b7ad6b7169203331-01"}
    result = sidecar.WSGIMiddleware(app, **options)(environ, lambda status, headers: None)
    chunks = list(result)
    if hasattr(result, "close"):
        result.close()
    return found[0], chunks


def ids_of(record: logging.LogRecord) -> tuple[str, ...]:
    return tuple(getattr(record, field) for field in sidecar.logging.FIELDS)


def ids(request: sidecar.Request) -> tuple[str, ...]:
    return (request.id, request.trace_id, request.span_id)


async def write(text: str) -> None:
    log.info(text)


# -- where a record is made --------------------------------------------------------


def in_the_view() -> None:
    log.info("here")


def in_a_coroutine() -> None:
    sidecar.run_sync(write("here"))


def in_coroutines_of_a_coroutine() -> None:
    async def both() -> None:
        await sidecar.gather(write("one"), write("two"))

    sidecar.run_sync(both())


def on_the_pool() -> None:
    sidecar.run_sync(sidecar.to_async(log.info)("here"))


def in_a_coroutine_called_from_the_pool() -> None:
    sidecar.run_sync(sidecar.to_async(in_a_coroutine)())


def in_submitted_work() -> None:
    sidecar.submit(log.info, "here").result(20)


def in_a_submitted_coroutine() -> None:
    sidecar.submit(write, "here").result(20)


def in_a_body() -> Iterator[bytes]:
    log.info("first step")
    yield b"1"
    log.info("second step")


def in_a_streamed_body() -> Any:
    async def lines() -> Any:
        log.info("first step")
        yield b"1"
        log.info("second step")

    return sidecar.stream(lines)


@pytest.mark.parametrize("options", [{}, {"trust": "always"}], ids=["untrusted", "trusted"])
@pytest.mark.parametrize(
    "view",
    [
        in_the_view,
        in_a_coroutine,
        in_coroutines_of_a_coroutine,
        on_the_pool,
        in_a_coroutine_called_from_the_pool,
        in_submitted_work,
        in_a_submitted_coroutine,
        in_a_body,
        in_a_streamed_body,
    ],
)
def test_a_record_has_its_requests_ids(kept, view, options):
    for _ in range(2):
        kept.records.clear()
        request, _ = serve(view, **options)
        assert kept.records
        assert {ids_of(record) for record in kept.records} == {ids(request)}
        assert (request.trace_id == TRACE) is bool(options)


def test_detached_work_has_them_after_the_request(kept):
    ended = threading.Event()
    futures = []

    def later() -> None:
        assert ended.wait(20)
        log.info("later")

    request, _ = serve(lambda: futures.append(sidecar.submit(later, detach=True)))
    ended.set()
    futures[0].result(20)
    assert [ids_of(record) for record in kept.records] == [ids(request)]


def test_requests_at_once_do_not_mix(kept):
    count = 8
    together = threading.Barrier(count)
    requests: list[sidecar.Request] = []

    def view() -> None:
        together.wait(20)
        log.info(sidecar.current().id)
        sidecar.run_sync(write(sidecar.current().id))
        together.wait(20)

    threads = [threading.Thread(target=lambda: requests.append(serve(view)[0])) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({record.request_id for record in kept.records}) == count
    assert all(record.request_id == record.getMessage() for record in kept.records)
    assert {ids_of(record) for record in kept.records} == {ids(request) for request in requests}


def test_outside_of_a_request(kept):
    def view() -> None:
        # A thread that knows nothing of the request.
        thread = threading.Thread(target=log.info, args=("elsewhere",))
        thread.start()
        thread.join()

    log.info("before")
    request, _ = serve(view)
    log.info("after")
    # Free-threaded builds of 3.14 and later start a thread with its starter's context.
    inherits = getattr(sys.flags, "thread_inherit_context", 0)
    outside = ("-", "-", "-")
    assert [ids_of(record) for record in kept.records] == [outside, ids(request) if inherits else outside, outside]


# -- the filter ----------------------------------------------------------------------


def test_the_default_can_be_chosen():
    record = logging.makeLogRecord({"msg": "x"})
    assert sidecar.logging.RequestFilter(default="none").filter(record) is True
    assert ids_of(record) == ("none", "none", "none")


def test_what_a_record_has_it_keeps(kept):
    serve(lambda: log.info("x", extra={"request_id": "mine"}))
    (record,) = kept.records
    assert record.request_id == "mine"
    assert record.trace_id != "-"


def test_a_filter_of_a_logger():
    logger, handler = logging.getLogger("tests.sidecar.own"), Kept()
    logger.propagate, logger.level = False, logging.INFO
    logger.addFilter(sidecar.logging.RequestFilter())
    logger.addHandler(handler)
    try:
        request, _ = serve(lambda: logger.info("x"))
    finally:
        logger.removeHandler(handler)
    assert ids_of(handler.records[0]) == ids(request)


def test_a_queue_keeps_what_the_filter_added():
    records: queue.Queue[logging.LogRecord] = queue.Queue()
    sender = logging.handlers.QueueHandler(records)
    sender.addFilter(sidecar.logging.RequestFilter())
    target = Kept()
    target.addFilter(sidecar.logging.RequestFilter())
    listener = logging.handlers.QueueListener(records, target)
    logger = logging.getLogger("tests.sidecar.queue")
    logger.propagate, logger.level = False, logging.INFO
    logger.addHandler(sender)
    listener.start()
    try:
        request, _ = serve(lambda: logger.info("x"))
        wait_for(lambda: target.records, "the listener has it")
    finally:
        listener.stop()
        logger.removeHandler(sender)
    assert ids_of(target.records[0]) == ids(request)


def test_dict_config():
    stream = io.StringIO()
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"request": {"()": "sidecar.logging.RequestFilter", "default": "?"}},
            "formatters": {
                "line": {"format": "%(levelname)s %(request_id)s %(trace_id)s %(span_id)s %(message)s"},
                "ours": {"()": "sidecar.logging.RequestFormatter"},
            },
            "handlers": {
                "one": {
                    "class": "logging.StreamHandler",
                    "stream": stream,
                    "filters": ["request"],
                    "formatter": "line",
                },
                "two": {"class": "logging.StreamHandler", "stream": stream, "formatter": "ours"},
            },
            "loggers": {"tests.sidecar.dict": {"handlers": ["one", "two"], "level": "INFO", "propagate": False}},
        }
    )
    logger = logging.getLogger("tests.sidecar.dict")
    try:
        request, _ = serve(lambda: logger.info("hello"))
        logger.info("bye")
    finally:
        logger.handlers.clear()
    lines = stream.getvalue().splitlines()
    assert lines[0] == f"INFO {request.id} {request.trace_id} {request.span_id} hello"
    assert lines[1].endswith(f" INFO [{request.id}] tests.sidecar.dict: hello")
    assert lines[2] == "INFO ? ? ? bye"
    assert lines[3].endswith(" INFO [?] tests.sidecar.dict: bye")  # what the first handler's filter added


# -- the formatter -------------------------------------------------------------------


@pytest.mark.parametrize("style", ["%", "{", "$"])
def test_the_formatters_own_format_in_each_style(style):
    formatter = sidecar.logging.RequestFormatter(style=style, datefmt="%Y")
    record = logging.makeLogRecord({"msg": "hello %s", "args": ("you",), "name": "shop", "levelname": "INFO"})
    assert re.fullmatch(r"\d{4} INFO \[-\] shop: hello you", formatter.format(record))


def test_a_formatter_with_a_format():
    formatter = sidecar.logging.RequestFormatter("%(request_id)s|%(trace_id)s|%(span_id)s|%(message)s")
    texts = []
    request, _ = serve(lambda: texts.append(formatter.format(logging.makeLogRecord({"msg": "x"}))))
    assert texts == [f"{request.id}|{request.trace_id}|{request.span_id}|x"]


def test_a_formatter_with_another_default():
    formatter = sidecar.logging.RequestFormatter("%(request_id)s", default="none")
    assert formatter.format(logging.makeLogRecord({"msg": "x"})) == "none"


def test_an_error_is_formatted_as_ever():
    stream, logger = io.StringIO(), logging.getLogger("tests.sidecar.error")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(sidecar.logging.RequestFormatter())
    logger.propagate = False
    logger.addHandler(handler)

    def view() -> None:
        try:
            raise ValueError("no")
        except ValueError:
            logger.exception("failed")

    request, _ = serve(view)
    logger.removeHandler(handler)
    first, *rest = stream.getvalue().splitlines()
    assert f"ERROR [{request.id}] tests.sidecar.error: failed" in first
    assert rest[-1] == "ValueError: no"


# -- structlog ------------------------------------------------------------------------


def test_the_processor_alone():
    events = []
    request, _ = serve(lambda: events.append(sidecar.logging.add_request(None, "info", {"event": "x"})))
    assert events == [{"event": "x", **dict(zip(sidecar.logging.FIELDS, ids(request)))}]
    assert sidecar.logging.add_request(None, "info", {"event": "x"}) == {"event": "x"}


def test_what_an_event_has_it_keeps():
    events = []
    serve(lambda: events.append(sidecar.logging.add_request(None, "info", {"request_id": "mine"})))
    assert events[0]["request_id"] == "mine"
    assert set(events[0]) == set(sidecar.logging.FIELDS)


def test_structlog_itself():
    structlog = pytest.importorskip("structlog", reason="structlog cannot be had for this Python")
    stream = io.StringIO()
    logger = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[sidecar.logging.add_request, structlog.processors.JSONRenderer()],
    )

    async def asynchronous() -> None:
        logger.info("in a coroutine")

    def view() -> None:
        logger.info("in the view", request_id="mine")
        sidecar.run_sync(asynchronous())

    request, _ = serve(view)
    logger.info("outside")
    first, second, third = map(json.loads, stream.getvalue().splitlines())
    assert first["request_id"] == "mine"
    assert second == {"event": "in a coroutine", **dict(zip(sidecar.logging.FIELDS, ids(request)))}
    assert third == {"event": "outside"}


def test_importing_it_imports_no_library(run_script):
    done = run_script(
        """
        import sys, sidecar.logging, sidecar.outgoing
        names = ("structlog", "gunicorn", "httpx", "aiohttp", "requests", "opentelemetry")
        print([name for name in names if name in sys.modules])
        """
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
