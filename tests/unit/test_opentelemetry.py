"""OpenTelemetry's context and the request's trace are one: with its SDK and its own instrumentations.

Each case is a process of its own: its API is global, and once it is loaded every request looks at it.
"""

from __future__ import annotations

import importlib.util
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

WANTED = ("opentelemetry.trace", "opentelemetry.sdk.trace", "opentelemetry.instrumentation.wsgi")


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


pytestmark = pytest.mark.skipif(
    not all(map(_is_there, WANTED)), reason="OpenTelemetry cannot be had for this Python, or is not installed"
)

PREAMBLE = '''
import io
import sys
import sidecar
assert "opentelemetry" not in sys.modules
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.sdk.trace import TracerProvider, sampling
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
exporter = InMemorySpanExporter()
tracer = trace.get_tracer("tests")


def provide(sampler=None):
    provider = TracerProvider(sampler=sampler)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def ids(span):
    found = span.get_span_context()
    return trace.format_trace_id(found.trace_id), trace.format_span_id(found.span_id)


def environ_with(inbound, **more):
    environ = {
        "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/", "QUERY_STRING": "", "SERVER_NAME": "localhost",
        "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr, "wsgi.version": (1, 0), "wsgi.multithread": True, "wsgi.multiprocess": False,
        "wsgi.run_once": False, "REMOTE_ADDR": "10.1.2.3",
    }
    for name, value in inbound.items():
        environ["HTTP_" + name.upper().replace("-", "_")] = value
    return {**environ, **more}


def run(application, inbound={}):
    """One request, as a server makes it; its body."""
    answers = []
    result = application(environ_with(inbound), lambda status, headers, exc_info=None: answers.append(status))
    body = b"".join(result)
    if hasattr(result, "close"):
        result.close()
    assert answers == ["200 OK"], answers
    assert not trace.get_current_span().get_span_context().is_valid
    return body


def serve(view, inbound={}, around=lambda app: app, inside=lambda app: app, **options):
    """A view under the middleware; the request."""
    found = []

    def app(environ, start_response):
        found.append(sidecar.current())
        start_response("200 OK", [("Content-Type", "text/plain")])
        return view() or []

    run(around(sidecar.WSGIMiddleware(inside(app), **options)), inbound)
    return found[0]


def spans():
    sidecar.shutdown()
    return exporter.get_finished_spans()


CALLER = {"traceparent": f"00-{TRACE}-{PARENT}-03", "tracestate": "congo=t61", "baggage": "userId=alice"}
'''


@pytest.fixture
def case(run_script: Callable[..., Any]) -> Callable[[str], None]:
    def run(source: str) -> None:
        done = run_script(PREAMBLE + textwrap.dedent(source) + "\nprint('done')\n")
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")

    return run


# -- nobody made a span: the application's join the request's trace -----------------------


def test_the_applications_spans_join_the_requests_trace(case):
    case(
        """
        provide()

        def view():
            request = sidecar.current()
            before = request.trace_id, request.span_id
            with tracer.start_as_current_span("work") as span:
                assert (request.trace_id, request.span_id) == ids(span)
                assert request.trace_id == before[0]
                assert request.traceparent == f"00-{ids(span)[0]}-{ids(span)[1]}-03"
                sent = request.headers()
                assert sent["traceparent"] == request.traceparent
                assert sent["X-Request-ID"] == request.id
                with tracer.start_as_current_span("call") as inner:
                    assert request.headers()["traceparent"].split("-")[1:3] == list(ids(inner))
            assert (request.trace_id, request.span_id) == before

        requests = [serve(view) for _ in range(3)]
        made = spans()
        assert [span.name for span in made] == ["call", "work"] * 3
        for request, call, work in zip(requests, made[::2], made[1::2]):
            assert ids(work)[0] == ids(call)[0] == request.trace_id
            assert trace.format_span_id(work.parent.span_id) == request.span_id
        assert len({request.trace_id for request in requests}) == 3
        """
    )


def test_a_trusted_callers_trace_goes_on(case):
    case(
        """
        provide()

        def view():
            assert sidecar.current().span_id != PARENT
            with tracer.start_as_current_span("work"):
                sent = sidecar.current().headers()
            assert sent["tracestate"] == "congo=t61" and sent["baggage"] == "userId=alice"
            assert sent["traceparent"].startswith(f"00-{TRACE}-") and sent["traceparent"].endswith("-03")
            assert baggage.get_all() == {"userId": "alice"}

        request = serve(view, CALLER, trust="always")
        (work,) = spans()
        assert request.trace_id == ids(work)[0] == TRACE
        # The caller's own child: nothing that is never exported comes between.
        assert trace.format_span_id(work.parent.span_id) == PARENT and work.parent.is_remote
        assert work.context.trace_state.to_header() == "congo=t61"
        assert request.links == ()
        """
    )


def test_an_untrusted_callers_trace_does_not(case):
    case(
        """
        provide()

        def view():
            assert baggage.get_all() == {}
            with tracer.start_as_current_span("work"):
                assert "baggage" not in sidecar.current().headers()

        for options in ({}, {"trust": "192.168.0.0/16"}):
            request = serve(view, CALLER, **options)
            work = exporter.get_finished_spans()[-1]
            assert request.trace_id == ids(work)[0] != TRACE
            assert request.links == (CALLER["traceparent"],)
            assert not work.context.trace_state
        assert serve(view, {}, trust="10.0.0.0/8").links == ()
        """
    )


@pytest.mark.parametrize("flags", ["00", "01", "02", "03"])
def test_the_callers_flags_are_respected(case, flags):
    case(
        f"""
        provide()

        def view():
            request = sidecar.current()
            assert request.headers()["traceparent"].endswith("-{flags}")
            with tracer.start_as_current_span("work") as span:
                assert span.is_recording() is {bool(int(flags, 16) & 1)}
                assert request.headers()["traceparent"].endswith("-{flags}")

        serve(view, {{"traceparent": f"00-{{TRACE}}-{{PARENT}}-{flags}"}}, trust="always")
        assert len(spans()) == {int(flags, 16) & 1}
        """
    )


@pytest.mark.parametrize(
    ("sampler", "shares"),
    [
        ("None", {1}),
        ("sampling.ALWAYS_OFF", {0}),
        ("sampling.ParentBased(sampling.ALWAYS_OFF)", {0}),
        ("sampling.ParentBased(sampling.TraceIdRatioBased(0.5))", {0, 1}),
    ],
)
def test_the_sampler_decides_on_a_new_trace(case, sampler, shares):
    case(
        f"""
        provide({sampler})
        seen = set()

        def view():
            request = sidecar.current()
            sampled = int(request.traceparent[-2:], 16) & 1
            with tracer.start_as_current_span("work") as span:
                assert span.get_span_context().trace_flags & 1 == sampled
            assert int(request.headers()["traceparent"][-2:], 16) == sampled | 2
            seen.add(sampled)

        for _ in range(64):
            serve(view)
        assert seen == {shares}
        """
    )


def test_calls_without_a_span_are_children_of_the_request(case):
    case(
        """
        provide()

        def view():
            request = sidecar.current()
            sent = [request.headers() for _ in range(3)]
            assert {one["traceparent"].split("-")[1] for one in sent} == {request.trace_id}
            parents = {one["traceparent"].split("-")[2] for one in sent}
            assert len(parents - {request.span_id, PARENT}) == 3
            assert {one["tracestate"] for one in sent} == {"congo=t61"}
            assert {one["baggage"] for one in sent} == {"userId=alice"}

        serve(view, CALLER, trust="always")
        assert spans() == ()
        """
    )


def test_the_api_without_the_sdk(case):
    case(
        """
        def view():
            request = sidecar.current()
            assert request.traceparent.endswith("-02")
            with tracer.start_as_current_span("nothing"):
                assert request.headers()["traceparent"].split("-")[1] == request.trace_id
            assert len({request.headers()["traceparent"] for _ in range(3)}) == 3

        serve(view)
        serve(view)
        """
    )


# -- instrumentations --------------------------------------------------------------------


def test_its_middleware_around_ours(case):
    case(
        """
        from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
        provide()
        seen = []

        def view():
            request, span = sidecar.current(), trace.get_current_span()
            seen.append(ids(span))
            assert (request.trace_id, request.span_id) == ids(span)
            assert request.headers()["traceparent"].split("-")[1:3] == list(ids(span))

            def body():
                assert (request.trace_id, request.span_id) == ids(span)
                yield b"1"
            return body()

        for inbound in ({}, CALLER):
            for trust in ("untrusted", "always"):
                request = serve(view, inbound, around=OpenTelemetryMiddleware, trust=trust)
                # Still known when the request is over: for an access log.
                assert (request.trace_id, request.span_id) == seen[-1]
                assert (request.trace_id == TRACE) is bool(inbound)
                assert request.links == ()
        made = spans()
        assert [span.kind for span in made] == [trace.SpanKind.SERVER] * 4
        """
    )


INSIDE = {
    "wsgi": """
        from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware

        def make(view):
            def app(environ, start_response):
                view()
                start_response("200 OK", [])
                return [b"ok"]
            return OpenTelemetryMiddleware(app)
    """,
    "flask": """
        from opentelemetry.instrumentation.flask import FlaskInstrumentor
        FlaskInstrumentor().instrument()
        import flask

        def make(view):
            app = flask.Flask("tests")
            app.add_url_rule("/", view_func=lambda: view() or "ok", endpoint="view")
            return app
    """,
    "django": """
        import django
        from django.conf import settings
        from django.http import HttpResponse
        from django.urls import path
        settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x", MIDDLEWARE=[])
        from opentelemetry.instrumentation.django import DjangoInstrumentor
        DjangoInstrumentor().instrument()
        django.setup()
        views = []
        urlpatterns = [path("", lambda request: HttpResponse(views[-1]() or "ok"))]

        def make(view):
            from django.core.wsgi import get_wsgi_application
            views.append(view)
            return get_wsgi_application()
    """,
}


@pytest.mark.parametrize("framework", INSIDE)
def test_its_instrumentation_inside_ours(case, framework):
    for name in {"flask": ["flask"], "django": ["django"]}.get(framework, []):
        pytest.importorskip(name, reason=f"{name} cannot be had for this Python")
        if not _is_there(f"opentelemetry.instrumentation.{name}"):
            pytest.skip(f"opentelemetry-instrumentation-{name} is not installed")
    case(
        textwrap.dedent(INSIDE[framework])
        + textwrap.dedent("""
        provide()
        seen = []

        def view():
            request, span = sidecar.current(), trace.get_current_span()
            seen.append((request, request.trace_id, dict(baggage.get_all())))
            assert (request.trace_id, request.span_id) == ids(span)
            sent = request.headers()["traceparent"]
            assert sent[3:52].split("-") == list(ids(span))
            assert int(sent[53:], 16) == 3

        for inbound in ({}, CALLER):
            for trust in ("untrusted", "always"):
                run(sidecar.WSGIMiddleware(make(view), trust=trust), inbound)
                request, trace_id, told = seen[-1]
                assert request.trace_id == trace_id
                trusted = bool(inbound) and trust == "always"
                assert (trace_id == TRACE) is trusted, (inbound, trust)
                assert told == ({"userId": "alice"} if trusted else {})
        made = spans()
        # One span a request, the instrumentation's own, as it makes it without us.
        assert [span.kind for span in made] == [trace.SpanKind.SERVER] * 4
        assert [ids(span)[0] for span in made] == [trace_id for _, trace_id, _ in seen]
        assert trace.format_span_id(made[3].parent.span_id) == PARENT
        assert [span.context.trace_state.to_header() for span in made] == ["", "", "", "congo=t61"]
        """)
    )


def test_in_the_steps_of_asgi(case):
    """Two requests whose server drives them in one context: each has its own parent, and the server has none."""
    case(
        """
        provide()
        given = [(b"traceparent", CALLER["traceparent"].encode()), (b"baggage", b"userId=alice")]
        before, seen = context.get_current(), []

        class Step:
            def __await__(self):
                yield

        async def app(scope, receive, send):
            request = sidecar.current()
            for _ in range(2):
                assert trace.get_current_span().get_span_context().trace_id == int(request.trace_id, 16)
                with tracer.start_as_current_span("work") as span:
                    await Step()
                    assert trace.get_current_span() is span and ids(span)[0] == request.trace_id
                    sent = request.headers()["traceparent"]
                    assert sent[3:52].split("-") == list(ids(span))
                await Step()
            seen.append((request.trace_id, dict(baggage.get_all()), span.parent.span_id))

        def begin(trust):
            scope = {"type": "http", "headers": given}
            coroutine = sidecar.ASGIMiddleware(app, trust=trust)(scope, None, None)
            assert scope["headers"] is given
            return coroutine

        for _ in range(3):
            running = [begin("untrusted"), begin("always")]
            while running:
                for coroutine in list(running):
                    try:
                        coroutine.send(None)
                    except StopIteration:
                        running.remove(coroutine)
                    assert context.get_current() is before
        assert [told for _, told, _ in seen if told] == [{"userId": "alice"}] * 3
        assert sum(trace_id == TRACE for trace_id, _, _ in seen) == 3
        assert len({trace_id for trace_id, _, _ in seen}) == 4
        assert len(spans()) == 12
        """
    )


def test_an_instrumentation_reads_the_scopes_headers(case):
    case(
        """
        import types
        provide()
        sys.modules["opentelemetry.instrumentation.asgi"] = types.ModuleType("asgi")
        given = [(b"Traceparent", CALLER["traceparent"].encode()), (b"tracestate", b"congo=t61"), (b"host", b"x")]
        before = context.get_current()

        async def app(scope, receive, send):
            request = sidecar.current()
            assert context.get_current() is before
            assert scope["headers"][0] == (b"host", b"x")
            told = dict(scope["headers"][1:])
            if request.trusted:
                assert told == {b"traceparent": CALLER["traceparent"].encode(), b"tracestate": b"congo=t61"}
            else:
                assert told == {b"traceparent": request.traceparent.encode()}
            assert len(given) == 3

        for trust in ("untrusted", "always"):
            try:
                sidecar.ASGIMiddleware(app, trust=trust)({"type": "http", "headers": given}, None, None).send(None)
            except StopIteration:
                pass
            else:
                raise AssertionError
        """
    )


def test_a_step_of_asgi_costs_nothing_where_a_span_is_there_already(case):
    """An instrumentation around the middleware: the request takes its trace, and nothing is set."""
    case(
        """
        provide()
        seen = []

        async def app(scope, receive, send):
            seen.append((sidecar.current().trace_id, context.get_current()))

        with tracer.start_as_current_span("server") as span:
            before = context.get_current()
            try:
                sidecar.ASGIMiddleware(app)({"type": "http", "headers": []}, None, None).send(None)
            except StopIteration:
                pass
        assert seen == [(ids(span)[0], before)]
        """
    )


# -- where the work is -----------------------------------------------------------------


def test_its_context_goes_along(case):
    case(
        """
        import asyncio, threading
        provide()
        seen = []

        async def note(name):
            await asyncio.sleep(0)
            with tracer.start_as_current_span(name) as span:
                await asyncio.sleep(0)
                seen.append((name, ids(span), sidecar.current().headers()["traceparent"]))

        def note_here(name):
            with tracer.start_as_current_span(name) as span:
                seen.append((name, ids(span), sidecar.current().headers()["traceparent"]))

        async def lines():
            await note("stream")
            yield b"1"

        ended = threading.Event()

        def later():
            assert ended.wait(20)
            note_here("detached")

        futures = []

        def view():
            with tracer.start_as_current_span("view"):
                sidecar.run_sync(note("coroutine"))
                sidecar.gather(note("one"), note("two"))
                sidecar.run_sync(sidecar.to_async(note_here)("pool"))
                sidecar.submit(note_here, "submitted").result(20)
                futures.append(sidecar.submit(later, detach=True))
            return sidecar.stream(lines)

        request = serve(view)
        ended.set()
        futures[0].result(20)
        made = {span.name: span for span in spans()}
        root = made.pop("view")
        assert set(made) == {name for name, _, _ in seen}
        assert set(made) == {"coroutine", "one", "two", "pool", "submitted", "detached", "stream"}
        for name, (trace_id, span_id), sent in seen:
            assert trace_id == request.trace_id, name
            assert sent == f"00-{trace_id}-{span_id}-03", name
            # The body is sent when the view, and its span, is over.
            parent = request.span_id if name == "stream" else ids(root)[1]
            assert trace.format_span_id(made[name].parent.span_id) == parent, name
        """
    )


def test_requests_at_once_do_not_mix(case):
    case(
        """
        import threading
        provide()
        together = threading.Barrier(6)
        wrong = []

        def view():
            request = sidecar.current()
            with tracer.start_as_current_span("work") as span:
                together.wait(20)
                if request.trace_id != ids(span)[0]:
                    wrong.append(request)
                together.wait(20)

        threads = [threading.Thread(target=serve, args=(view,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong and len({ids(span)[0] for span in spans()}) == 6
        """
    )


def test_another_requests_trace_is_its_own(case):
    case(
        """
        provide()
        first = serve(lambda: None)
        own = first.trace_id, first.span_id

        def view():
            with tracer.start_as_current_span("second"):
                assert (first.trace_id, first.span_id) == own
                assert first.headers()["traceparent"].split("-")[1] == own[0]
                assert sidecar.current().trace_id != own[0]

        serve(view)
        """
    )


def test_a_request_within_a_request(case):
    case(
        """
        provide()
        inner = []

        def view():
            inner.append(serve_inside())

        def serve_inside():
            found = []

            def app(environ, start_response):
                found.append(sidecar.current())
                start_response("200 OK", [])
                return []

            list(sidecar.WSGIMiddleware(app)(environ_with({}), lambda status, headers: None))
            return found[0]

        outer = serve(view)
        assert outer.trace_id != inner[0].trace_id
        """
    )


# -- what is sent, and what goes wrong -----------------------------------------------------


def test_the_configured_propagators_write_the_headers(case):
    case(
        """
        from opentelemetry.propagators.composite import CompositePropagator
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        class Own(TraceContextTextMapPropagator):
            def inject(self, carrier, context=None, setter=None):
                carrier["x-own"] = ids(trace.get_current_span(context))[0]

        provide()

        def view():
            request = sidecar.current()
            with tracer.start_as_current_span("work"):
                both = [request.headers()]
            both.append(request.headers())
            for sent in both:
                assert sent["x-own"] == request.trace_id
                assert ("traceparent" in sent, "tracestate" in sent, "baggage" in sent) == wanted

        wanted = (True, True, False)
        propagate.set_global_textmap(CompositePropagator([TraceContextTextMapPropagator(), Own()]))
        serve(view, CALLER, trust="always")
        wanted = (False, False, False)
        propagate.set_global_textmap(Own())
        serve(view, CALLER, trust="always")
        """
    )


def test_baggage_that_its_propagator_refuses_is_sent_all_the_same(case):
    """It takes 4,096 bytes a member; the specification says 8,192 for all of them."""
    case(
        """
        provide()
        import logging
        logging.disable(logging.WARNING)  # OpenTelemetry says so
        long = {**CALLER, "baggage": "a=" + "1" * 8190}

        def view():
            assert sidecar.current().headers()["baggage"] == long["baggage"]

        serve(view, long, trust="always")

        def without():
            assert "baggage" not in sidecar.current().headers()

        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        propagate.set_global_textmap(TraceContextTextMapPropagator())
        serve(without, long, trust="always")
        """
    )


def test_the_applications_own_baggage_is_sent(case):
    case(
        """
        provide()

        def view():
            with tracer.start_as_current_span("work"):
                context.attach(baggage.set_baggage("tenant", "acme"))
                assert sidecar.current().headers()["baggage"] == "userId=alice,tenant=acme"

        serve(view, CALLER, trust="always")
        """
    )


def test_log_records_name_the_span(case):
    case(
        """
        import logging, sidecar.logging
        provide()

        def view():
            with tracer.start_as_current_span("work") as span:
                record = logging.makeLogRecord({})
                sidecar.logging.RequestFilter().filter(record)
                assert (record.trace_id, record.span_id) == ids(span)
                assert record.request_id == sidecar.current().id

        serve(view)
        """
    )


def test_a_sampler_that_raises_does_not_fail_the_request(case):
    case(
        """
        class Broken(sampling.Sampler):
            def should_sample(self, *args, **kwargs):
                raise ZeroDivisionError("broken")

            def get_description(self):
                return "broken"

        provide(Broken())
        seen = []
        sys.unraisablehook = lambda told: seen.append(told.exc_type)
        request = serve(lambda: sidecar.current().headers() and None)
        assert len(request.trace_id) == 32
        assert seen == [ZeroDivisionError]
        """
    )


def test_one_that_is_loaded_in_the_middle_of_a_request(run_script):
    """It counts from the next request on."""
    done = run_script(
        """
        import sidecar

        def app(environ, start_response):
            before = sidecar.current().trace_id
            from opentelemetry import trace
            span = trace.NonRecordingSpan(trace.SpanContext(1, 2, False))
            with trace.use_span(span):
                print(sidecar.current().trace_id == before, sidecar.current().trace_id == "0" * 31 + "1")
            start_response("200 OK", [])
            return []

        for _ in range(2):
            sidecar.WSGIMiddleware(app)({}, lambda status, headers: None)
        """
    )
    assert (done.stdout, done.stderr) == ("True False\nFalse True\n", "")
