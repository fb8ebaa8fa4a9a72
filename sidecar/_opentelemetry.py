"""The request's trace and OpenTelemetry's, joined: what the C side calls where OpenTelemetry's API is loaded.

Its context is the source of truth. Where a span of somebody's is current as a request begins (an instrumentation
around the middleware), the request takes that one's trace. Where there is none, the spans that the application
starts join the request's trace: an instrumentation inside the middleware reads the request's trace from the headers,
as it would a caller's; without one, OpenTelemetry's context gets a span that records nothing. No span is ever made
here.

That context is a context variable: under WSGI all of this is gone with the request's own context. A request of ASGI has
none: there it is set for each step, and taken back after it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from opentelemetry import baggage, context, propagate, trace  # type: ignore[import-not-found,unused-ignore]
from opentelemetry.trace import (  # type: ignore[import-not-found,unused-ignore]
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    TraceState,
)

from sidecar import _core

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context  # type: ignore[import-not-found,unused-ignore]

    from sidecar._core import Request

__all__ = ["begin", "enter", "inject", "leave", "shown"]

# What the instrumentations of frameworks share (Flask, Django, Pyramid; FastAPI, Starlette), and that of the interface
# itself. They take a span that is current for one of the application's, and their own for an internal one.
_READS_ENVIRON = "opentelemetry.instrumentation.wsgi"
_READS_SCOPE = "opentelemetry.instrumentation.asgi"
_SAMPLED, _RANDOM = 1, 2
_HEADERS = ("traceparent", "tracestate", "baggage")


class _RequestSpan(NonRecordingSpan):  # type: ignore[misc,unused-ignore]
    """Stands for the request, or for who called it, as the parent of the application's spans."""


def begin(request: Request, carrier: dict[str, Any] | None) -> Context | None:
    """Join the two, where the request begins, before the application is called.

    carrier: WSGI's environ, or a copy of ASGI's scope, to be changed; None: the server has neither.
    Returns the context that is to be OpenTelemetry's while the application runs; None: the one that is.
    """
    span = trace.get_current_span()
    outer = span.get_span_context()
    if outer.is_valid and not isinstance(span, _RequestSpan):
        request._adopt_trace(_traceparent_of(outer), outer.trace_state.to_header())
        return None
    traceparent, tracestate, parent = request._own_trace()
    if parent is None:
        # Nobody has decided yet whether this trace is recorded: whose job that is, is asked.
        parent = _decide(traceparent)
        request._adopt_trace(parent, tracestate)
    if carrier is not None and (_READS_SCOPE if "headers" in carrier else _READS_ENVIRON) in sys.modules:
        rewrite = _rewrite_scope if "headers" in carrier else _rewrite_environ
        rewrite(carrier, parent, tracestate, request.trusted)
        return None
    return _with_parent(request, parent, tracestate)


def enter(here: Context) -> Token[Context]:
    """A step of a request begins that has no context of its own (ASGI's): ``here`` is what the last one has left."""
    return context.attach(here)


def leave(token: Token[Context]) -> Context:
    """Its end: what the next step is to enter with."""
    here = context.get_current()
    context.detach(token)
    return here


def shown(what: int) -> str | None:
    """Of the application's current span: its trace id, span id, traceparent or tracestate (0 to 3), or None."""
    span = trace.get_current_span()
    current = span.get_span_context()
    if not current.is_valid or isinstance(span, _RequestSpan):
        return None
    if what == 0:
        return trace.format_trace_id(current.trace_id)
    if what == 1:
        return trace.format_span_id(current.span_id)
    if what == 2:
        request = _core.current()
        return _traceparent_of(current) if request is None else _random_as(request, _traceparent_of(current))
    return current.trace_state.to_header()


def inject(request: Request, headers: dict[str, str]) -> None:
    """Have the configured propagators write the headers of an outgoing call: of the current span, if it is one.

    They say what is sent, and whether at all. What they would write of the request's own trace and baggage stays as
    it is here: theirs knows fewer forms of it (no properties of baggage, no tracestate of level 2).
    """
    span = trace.get_current_span()
    here = context.get_current()
    ours = {name: headers.pop(name) for name in _HEADERS if name in headers}
    if isinstance(span, _RequestSpan) or not span.get_span_context().is_valid:
        # The application has made no span: the call is a child of the request's.
        own, tracestate, _ = request._own_trace()
        here = trace.set_span_in_context(_span(ours.get("traceparent", own), tracestate), here)
        if not baggage.get_all(here):
            here = _with_baggage(request, here)
        if dict(baggage.get_all(here)) != request.baggage:
            ours.pop("baggage", None)  # the application has put more into OpenTelemetry's
    else:
        ours = {}
    propagate.inject(headers, here)
    # Of what they would write, theirs may refuse the very tracestate or baggage that there is.
    kept = {name for name in ours if name in headers or (name == "tracestate" and "traceparent" in headers)}
    if "baggage" in ours and "baggage" not in kept and _write_baggage():
        kept.add("baggage")
    headers.update({name: ours[name] for name in kept})
    if "traceparent" in headers:
        headers["traceparent"] = _random_as(request, headers["traceparent"])


def _write_baggage() -> bool:
    """Whether the configured propagators do, as long as it is none that theirs refuses."""
    probe: dict[str, str] = {}
    propagate.inject(probe, baggage.set_baggage("a", "1", context.Context()))
    return "baggage" in probe


def _decide(traceparent: str) -> str:
    """The same with the sampled flag as the application's sampler, if it has one, decides for a new trace."""
    sampler = getattr(trace.get_tracer_provider(), "sampler", None)
    if sampler is None:
        return traceparent
    trace_id = int(traceparent[3:35], 16)
    answer = sampler.should_sample(context.get_current(), trace_id, "request", trace.SpanKind.SERVER, None, None)
    flags = int(traceparent[53:], 16) & ~_SAMPLED
    return f"{traceparent[:53]}{flags | (_SAMPLED if answer.decision.is_sampled() else 0):02x}"


def _rewrite_environ(environ: dict[str, Any], parent: str, tracestate: str, trusted: bool) -> None:
    """Have environ say what the policy made of the inbound headers."""
    environ["HTTP_TRACEPARENT"] = parent
    if tracestate:
        environ["HTTP_TRACESTATE"] = tracestate
    else:
        environ.pop("HTTP_TRACESTATE", None)
    if not trusted:
        environ.pop("HTTP_BAGGAGE", None)


def _rewrite_scope(scope: dict[str, Any], parent: str, tracestate: str, trusted: bool) -> None:
    """The same for ASGI; the list of headers is the server's, and stays as it is."""
    ours = {b"traceparent", b"tracestate"} if trusted else {b"traceparent", b"tracestate", b"baggage"}
    kept = [pair for pair in scope["headers"] if pair[0].lower() not in ours]
    added = [(b"traceparent", parent.encode())]
    if tracestate:
        added.append((b"tracestate", tracestate.encode()))
    scope["headers"] = [*kept, *added]


def _with_parent(request: Request, parent: str, tracestate: str) -> Context:
    return _with_baggage(request, trace.set_span_in_context(_span(parent, tracestate)))


def _with_baggage(request: Request, here: Context) -> Context:
    for name, value in request.baggage.items():
        here = baggage.set_baggage(name, value, here)
    return here


def _span(traceparent: str, tracestate: str) -> _RequestSpan:
    _, trace_id, span_id, flags = traceparent.split("-")
    return _RequestSpan(
        SpanContext(
            trace_id=int(trace_id, 16),
            span_id=int(span_id, 16),
            is_remote=True,
            trace_flags=TraceFlags(int(flags, 16)),
            trace_state=TraceState.from_header([tracestate]) if tracestate else None,
        )
    )


def _traceparent_of(span: SpanContext) -> str:
    trace_id, span_id = trace.format_trace_id(span.trace_id), trace.format_span_id(span.span_id)
    return f"00-{trace_id}-{span_id}-{span.trace_flags & (_SAMPLED | _RANDOM):02x}"


def _random_as(request: Request, traceparent: str) -> str:
    """Trace Context, level 2: whoever takes part passes this flag on as it is. Older versions of the SDK lose it."""
    own = request._own_trace()[0]
    if traceparent[:35] != own[:35] or not int(own[53:], 16) & _RANDOM:
        return traceparent
    return f"{traceparent[:53]}{int(traceparent[53:55], 16) | _RANDOM:02x}"
