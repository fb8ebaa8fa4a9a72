"""A request's deadline and its client: what waits hears of them, what it had begun ends."""

import asyncio
import logging
import socket
import threading

import sidecar
from sidecar import run_sync


async def query(seconds: float) -> str:
    try:
        await asyncio.sleep(seconds)
        return "rows"
    except asyncio.CancelledError:
        print("the query is cancelled")
        raise


def report(environ, start_response):
    rows = run_sync(query(60))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [rows.encode()]


def report_with_a_fallback(environ, start_response):
    try:
        rows = run_sync(query(60))
    except sidecar.DeadlineExceeded:
        # What it calls now is cleanup, and has cleanup_timeout each time.
        rows = run_sync(query(0)) + " of yesterday"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [rows.encode()]


def time_left(environ, start_response):
    request = sidecar.current()
    start_response("200 OK", [])
    return [f"{request.time_left():.0f} s".encode()]


def get(application, **environ) -> None:
    """Stands for a server."""
    sent = {}
    body = application(environ, lambda status, headers, exc_info=None: sent.update(headers, status=status))
    print(sent["status"], b"".join(body).decode().splitlines()[0])
    if sent["status"].startswith("504"):
        assert sent["X-Request-ID"] in body[0].decode()


logging.getLogger("sidecar").setLevel(logging.ERROR)  # each 504 is a warning there

# The application does not handle it: 504, with the request's id.
application = sidecar.WSGIMiddleware(report, deadline=0.3)
get(application)
# -> the query is cancelled
# -> 504 Gateway Timeout The deadline of the request has passed.

# It does: the answer is its own.
get(sidecar.WSGIMiddleware(report_with_a_fallback, deadline=0.3))
# -> the query is cancelled
# -> 200 OK rows of yesterday

# Where the caller is trusted, it may ask for less time.
application = sidecar.WSGIMiddleware(time_left, deadline=30, deadline_header="X-Request-Timeout", trust="10.0.0.0/8")
get(application, HTTP_X_REQUEST_TIMEOUT="5", REMOTE_ADDR="10.0.0.7")  # -> 200 OK 5 s
get(application, HTTP_X_REQUEST_TIMEOUT="5", REMOTE_ADDR="192.0.2.1")  # -> 200 OK 30 s

# The client goes away while the view waits.
ours, clients = socket.socketpair()
threading.Timer(0.05, clients.close).start()
try:
    get(sidecar.WSGIMiddleware(report), **{"gunicorn.socket": ours})
    # -> the query is cancelled
except sidecar.ClientDisconnected as error:
    print(type(error).__name__, isinstance(error, ConnectionResetError))  # -> ClientDisconnected True
ours.close()
