"""W3C Trace Context over HTTP, as a service that is called and calls."""

from __future__ import annotations

import re

import pytest
from tracing.cases import GOOD, PARENT, TRACE, TRACEPARENT, TRACESTATE, Lines, Trace
from tracing.conftest import Answer

SENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-(0[0-3])")


def traceparent_of(answer: Answer) -> Trace:
    """Of the first call: one header, of version 00, with no flag that is not known."""
    (value,) = answer.sent("traceparent")
    found = SENT.fullmatch(value)
    assert found, value
    return Trace(*found.groups())


def check_new(answer: Answer, lines: Lines) -> None:
    """A trace of the service's own: not sampled, since nobody decided, and random."""
    sent = traceparent_of(answer)
    assert sent.flags == "02"
    assert not any(sent.trace_id in value for _, value in lines)
    assert answer.sent("tracestate") == answer.sent("baggage") == []
    assert answer.told["tracestate"] == ""


def check_whole(answer: Answer) -> None:
    """The parts agree: what the service says of itself, and what it sends."""
    sent = traceparent_of(answer)
    version, trace_id, span_id, flags = answer.told["traceparent"].split("-")
    assert (version, trace_id, flags) == ("00", sent.trace_id, sent.flags)
    assert span_id != sent.parent_id
    assert answer.sent("x-request-id") == [answer.told["id"]]
    assert [value for name, value in answer.headers if name == "X-Request-ID"] == [answer.told["id"]]


# -- traceparent ------------------------------------------------------------------------


def check_continued(answer: Answer, lines: Lines, expected: Trace | None) -> None:
    check_whole(answer)
    assert answer.told["links"] == []
    if expected is None:
        check_new(answer, lines)
        return
    sent = traceparent_of(answer)
    assert (sent.trace_id, sent.flags) == (expected.trace_id, expected.flags)
    assert sent.parent_id != expected.parent_id


@pytest.mark.parametrize("name", TRACEPARENT)
def test_traceparent(trusting, distrusting, name):
    lines, meant = TRACEPARENT[name]
    for trust, send in trusting.items():
        print(trust)
        check_continued(send(*lines), lines, meant)
    for trust, send in distrusting.items():
        print(trust)
        answer = send(*lines, ("tracestate", "foo=1"), ("baggage", "a=1"))
        check_whole(answer)
        check_new(answer, lines)
        assert answer.told["links"] == ([f"00-{meant.trace_id}-{meant.parent_id}-{meant.flags}"] if meant else [])


# -- tracestate ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRACESTATE)
def test_tracestate(trusting, distrusting, name):
    lines, expected = TRACESTATE[name]
    for trust, send in trusting.items():
        print(trust)
        answer = send(("traceparent", GOOD), *lines)
        check_whole(answer)
        # Whatever it says, it takes nothing from traceparent.
        assert traceparent_of(answer).trace_id == TRACE
        assert answer.sent("tracestate") == ([expected] if expected else [])
        assert answer.told["tracestate"] == expected
    for trust, send in distrusting.items():
        print(trust)
        check_new(send(("traceparent", GOOD), *lines), [("traceparent", GOOD)])


@pytest.mark.parametrize("lines", [[], [("traceparent", "none")], [("traceparent", "ff" + GOOD[2:])]])
def test_tracestate_without_a_traceparent_is_not_looked_at(trusting, lines):
    for send in trusting.values():
        for state in ("foo=1", "foo=1,bar=2"):
            check_new(send(*lines, ("tracestate", state)), lines)


# -- several calls ----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/coroutine"])
@pytest.mark.parametrize(
    "lines",
    [[("traceparent", GOOD), ("tracestate", "foo=1")], [], [("traceparent", f"00-{'0' * 32}-{PARENT}-01")]],
    ids=["good", "none", "bad"],
)
def test_each_call_has_a_parent_id_of_its_own(trusting, lines, path):
    goes_on = len(lines) == 2
    for send in trusting.values():
        answer = send(*lines, calls=3, path=path)
        sent = [traceparent_of(Answer([], {}, [call])) for call in answer.calls]
        own = answer.told["traceparent"].split("-")
        assert {one.trace_id for one in sent} == {own[1]}
        assert (own[1] == TRACE) is goes_on
        assert len({one.parent_id for one in sent} - {PARENT, own[2]}) == 3
        for call in answer.calls:
            assert [value for name, value in call if name == "tracestate"] == ["foo=1"] * goes_on


def test_each_request_without_a_trace_begins_one(trusting):
    assert len({traceparent_of(send()).trace_id for send in trusting.values() for _ in range(5)}) == 15


def test_each_request_of_a_trace_has_a_span_of_its_own(trusting):
    told = [send(("traceparent", GOOD)).told["traceparent"].split("-") for send in trusting.values() for _ in range(5)]
    assert {one[1] for one in told} == {TRACE}
    assert len({one[2] for one in told} - {PARENT}) == 15


# -- another server -----------------------------------------------------------------------


@pytest.mark.parametrize("trust", ["always", "untrusted"])
def test_all_of_it_by_werkzeugs_server(services, trust):
    send = services(trust, "werkzeug")
    for name, (lines, expected) in TRACEPARENT.items():
        sent = traceparent_of(send(*lines))
        goes_on = expected is not None and trust == "always"
        assert (sent.trace_id == (expected.trace_id if expected else None)) is goes_on, name
    for name, (lines, listed) in TRACESTATE.items():
        answer = send(("traceparent", GOOD), *lines)
        assert answer.sent("tracestate") == ([listed] if listed and trust == "always" else []), name
