"""What a request packs, another process unpacks; what is none is ignored."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from requested import call

import sidecar
from sidecar._envelope import LIMIT, VERSION, pack, unpack

TRACE = "0af7651916cd43dd8448eb211c80319c"


def packed(**headers: str) -> tuple[sidecar.Request, bytes]:
    def view() -> Any:
        request = sidecar.current()
        assert request is not None
        return request, pack(request)

    environ = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    found: tuple[sidecar.Request, bytes] = call(view, environ, trust="always")
    return found


def test_it_arrives_as_it_was() -> None:
    request, told = packed(
        x_request_id="one", traceparent=f"00-{TRACE}-b7ad6b7169203331-01", tracestate="a=1,b=2", baggage="user=7;x=1"
    )
    found = unpack(told)
    assert found is not None
    assert found.id == "one" == request.id
    assert found.trace_id == TRACE
    assert found.span_id not in (request.span_id, "b7ad6b7169203331")
    assert found.tracestate == "a=1,b=2" and found.baggage == {"user": "7"}
    assert found.time_left() is None


def test_its_parent_is_the_requests_own_span() -> None:
    request, told = packed()
    assert json.loads(told)["traceparent"] == request.traceparent
    found = unpack(told)
    assert found is not None and found.trace_id == request.trace_id


def test_what_is_too_long_is_left_out() -> None:
    request, told = packed(baggage=",".join(f"key{at}={'%20' * 40}" for at in range(60)))
    assert request.baggage and len(told) <= LIMIT
    found = unpack(told)
    assert found is not None and found.id == request.id


@pytest.mark.parametrize(
    "told",
    [b"", b"{", b"[]", b"7", b'{"v":2,"id":"x"}', b'{"v":1,"id":7}', b"\xff", b"[" * 10_000, b" " * (LIMIT + 1)],
    ids=lambda told: repr(told[:12]),
)
def test_what_is_none_is_ignored(told: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "sidecar"):
        assert unpack(told) is None
    assert "an envelope is ignored" in caplog.text


@pytest.mark.parametrize("told", [{}, {"id": "no id"}, {"traceparent": "0-z"}, {"tracestate": "="}, {"baggage": ";"}])
def test_bad_parts_are_dropped(told: dict[str, str]) -> None:
    found = unpack(json.dumps({"v": VERSION, **told}).encode())
    assert found is not None and len(found.id) == 36 and len(found.trace_id) == 32
    assert found.tracestate == "" and found.baggage == {}


def test_a_context_of_it() -> None:
    found = unpack(packed()[1])
    assert found is not None
    assert found._context().run(sidecar.current) is found
    assert sidecar.current() is None
    future = found._context().run(sidecar.submit, asyncio_sleep)
    found._end()
    assert future.cancelled() or isinstance(future.exception(10), BaseException)


async def asyncio_sleep() -> None:
    import asyncio

    await asyncio.sleep(60)
