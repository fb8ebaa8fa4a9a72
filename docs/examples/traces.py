"""Outgoing calls carry the request: its id, its trace, and what its caller sent along."""

import http.server
import threading

import httpx

import sidecar
from sidecar import outgoing

received = []


class Stock(http.server.BaseHTTPRequestHandler):
    """Another service; it notes what it is sent."""

    def do_GET(self) -> None:
        received.append({name.lower(): value for name, value in self.headers.items()})
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Stock)
thread = threading.Thread(target=server.serve_forever)
thread.start()
url = f"http://127.0.0.1:{server.server_port}/"


client = httpx.Client(event_hooks={"request": [outgoing.httpx_hook]}, trust_env=False)


def app(environ, start_response):
    print(sidecar.current().trace_id)
    client.get(url)
    client.get(url)
    start_response("200 OK", [])
    return []


application = sidecar.WSGIMiddleware(app, trust="10.0.0.0/8")
caller = {
    "REMOTE_ADDR": "10.1.2.3",
    "HTTP_X_REQUEST_ID": "order-7",
    "HTTP_TRACEPARENT": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "HTTP_BAGGAGE": "userId=alice",
}
application(caller, lambda status, headers: None)  # -> 4bf92f3577b34da6a3ce929d0e0e4736

first, second = received
print(first["x-request-id"], first["baggage"])  # -> order-7 userId=alice
print(first["traceparent"][:36])  # -> 00-4bf92f3577b34da6a3ce929d0e0e4736-
print(first["traceparent"][36:52] == second["traceparent"][36:52])  # -> False

client.close()
server.shutdown()
thread.join()
server.server_close()
