"""OpenTelemetry's spans and the request are one trace. Needs opentelemetry-sdk."""

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import sidecar

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("shop")


async def charge() -> None:
    with tracer.start_as_current_span("charge"):
        sent = sidecar.current().headers()["traceparent"]
        print(sent == sidecar.current().traceparent)  # -> True


def app(environ, start_response):
    with tracer.start_as_current_span("order"):
        sidecar.run_sync(charge())
    start_response("200 OK", [])
    return []


application = sidecar.WSGIMiddleware(app, trust="10.0.0.0/8")
caller = {
    "REMOTE_ADDR": "10.1.2.3",
    "HTTP_TRACEPARENT": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
}
application(caller, lambda status, headers: None)

for span in exporter.get_finished_spans():
    print(span.name, trace.format_trace_id(span.context.trace_id))
# -> charge 4bf92f3577b34da6a3ce929d0e0e4736
# -> order 4bf92f3577b34da6a3ce929d0e0e4736
