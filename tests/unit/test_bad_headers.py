"""Whatever a client sends in the headers that the middleware reads: an answer, an id, bounded work, a count."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

import sidecar
from sidecar import _core

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
st = hypothesis.strategies

# It asks the collector who refers to its random numbers, which does not look at what is frozen (conftest.py).
pytestmark = pytest.mark.filterwarnings("ignore:It looks like `register_random`")

ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[0-3]")
MEGABYTE = 1 << 20

seen: list[sidecar.Request] = []


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    request = sidecar.current()
    assert request is not None
    seen.append(request)
    start_response("200 OK", [])
    return [b"ok"]


TRUSTS = ["untrusted", "always", "10.0.0.0/8, fd00::/8"]
MIDDLEWARES = [sidecar.WSGIMiddleware(app, trust=trust, deadline_header="X-Timeout") for trust in TRUSTS]

# PEP 3333: text of latin-1.
anything = st.text(st.characters(max_codepoint=255), max_size=200)


def near(*examples: str) -> Any:
    """One of these with a few characters changed, taken out or put in."""

    def mutate(parts: tuple[str, list[tuple[int, str]]]) -> str:
        text, changes = parts
        for place, piece in changes:
            cut = place % (len(text) + 1)
            text = text[:cut] + piece + text[cut + (place % 3) :]
        return text

    change = st.tuples(st.integers(0, 10_000), st.text(st.characters(max_codepoint=255), max_size=3))
    return st.tuples(st.sampled_from(examples), st.lists(change, max_size=4)).map(mutate)


HEADERS = {
    "HTTP_X_REQUEST_ID": near("abc-1", "0190163d-8694-739b-aea5-966c26f8ad91", "a,b", "x" * 128, "x" * 129),
    "HTTP_TRACEPARENT": near(
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-will-be-like",
    ),
    "HTTP_TRACESTATE": near("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "a=1," * 33, "fw529a3039@dt=FfAXb"),
    "HTTP_BAGGAGE": near("userId=alice,serverNode=DF%2028,isProduction=false", "k=v;p=1;q", "a=%F0%9F,b=%"),
    "HTTP_X_TIMEOUT": near("2.5", "250ms", "10s", "-1", "1e9", "999999999", "0.000000000000001"),
    "REMOTE_ADDR": near("10.1.2.3", "fd00::1", "192.0.2.7", "::ffff:10.0.0.1", "unix:", ""),
}
environs = st.fixed_dictionaries({}, optional={name: st.one_of(good, anything) for name, good in HEADERS.items()})


def serve(middleware: Any, environ: dict[str, Any]) -> tuple[str, dict[str, str]]:
    started: list[Any] = []
    result = middleware(environ, lambda *args: started.append(args))
    assert list(result) == [b"ok"]
    ((status, headers),) = started
    return status, dict(headers)


@hypothesis.settings(max_examples=400, deadline=None, derandomize=True)
@hypothesis.given(environs, st.sampled_from(MIDDLEWARES))
def test_always_an_answer(environ: dict[str, str], middleware: Any) -> None:
    seen.clear()
    sent = dict(environ)
    status, headers = serve(middleware, environ)
    (request,) = seen
    assert status == "200 OK"
    assert ID.fullmatch(request.id) and headers == {"X-Request-ID": request.id}
    assert request.received_id is None or ID.fullmatch(request.received_id)
    if request.received_id is not None:
        assert request.received_id == sent["HTTP_X_REQUEST_ID"].strip(" \t")
    if not request.trusted:
        assert request.id != request.received_id and request.baggage == {} and request.deadline is None
    outgoing = request.headers()
    assert TRACEPARENT.fullmatch(outgoing["traceparent"]) and outgoing["traceparent"][:36] == request.traceparent[:36]
    for value in outgoing.values():
        assert value.isascii() and value.isprintable()
    assert all(TRACEPARENT.fullmatch(link) for link in request.links)
    left = request.time_left()
    assert left is None or 0.0 <= left <= 1e9
    # What goes out comes in again as it was.
    seen.clear()
    names = {"traceparent": "HTTP_TRACEPARENT", "tracestate": "HTTP_TRACESTATE", "baggage": "HTTP_BAGGAGE"}
    serve(MIDDLEWARES[1], {key: outgoing[name] for name, key in names.items() if name in outgoing})
    assert seen[0].trace_id == request.trace_id
    assert seen[0].tracestate == request.tracestate and seen[0].baggage == request.baggage


BAD = ["", " ", "a b", "a,b", "a\r\nX: y", "a\0b", "\xe9", "x" * 129, "x" * MEGABYTE, "," * MEGABYTE, "=" * MEGABYTE]


@pytest.mark.parametrize("key", [key for key in HEADERS if key != "REMOTE_ADDR"])
@pytest.mark.parametrize("value", BAD, ids=lambda value: repr(value[:8]))
def test_what_is_bad_is_ignored_in_bounded_time(key: str, value: str) -> None:
    seen.clear()
    begun = time.process_time()
    serve(MIDDLEWARES[1], {key: value})
    request = seen[0]
    assert request.received_id is None
    assert request.tracestate == "" and request.baggage == {} and request.links == () and request.deadline is None
    assert TRACEPARENT.fullmatch(request.headers()["traceparent"])
    # Linear: a megabyte takes milliseconds; what is quadratic would take minutes.
    assert time.process_time() - begun < 5.0


def test_each_reject_is_counted() -> None:
    before = _core._request_counts()
    for key, value in (
        ("HTTP_X_REQUEST_ID", "a b"),
        ("HTTP_TRACEPARENT", "00-zz"),
        ("HTTP_X_TIMEOUT", "soon"),
        ("HTTP_BAGGAGE", "=,=,good=1"),
    ):
        seen.clear()
        serve(MIDDLEWARES[1], {key: value})
        seen[0].headers()
    seen.clear()
    good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    serve(MIDDLEWARES[1], {"HTTP_TRACEPARENT": good, "HTTP_TRACESTATE": "="})
    seen[0].headers()
    after = _core._request_counts()
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {
        "requests": 5,
        "bad_ids": 1,
        "bad_traceparents": 1,
        "bad_tracestates": 1,
        "bad_baggage": 2,
        "bad_deadlines": 1,
    }
