"""A gRPC server without generated code, its messages plain bytes: python grpc_app.py PORT_FILE.

It knows its clients' connections by their peer address.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from announce import announce

lock = threading.Lock()
peers: set[str] = set()
counts = {"calls": 0, "cancelled": 0}


def note(context: grpc.ServicerContext) -> None:
    with lock:
        peers.add(context.peer())
        counts["calls"] += 1


def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
    note(context)
    ids = [value for name, value in context.invocation_metadata() if name == "x-request-id"]
    return json.dumps({**json.loads(request), "id": ids[0]}).encode()


def slow(request: bytes, context: grpc.ServicerContext) -> bytes:
    """Until its client has given it up."""
    note(context)
    gone = threading.Event()
    if context.add_callback(gone.set):
        gone.wait(60)
    with lock:
        counts["cancelled"] += 1
    return b""


def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
    note(context)
    context.abort(grpc.StatusCode.NOT_FOUND, request.decode())
    raise AssertionError("abort() raises")


def count(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    note(context)
    for number in range(int(request)):
        yield str(number).encode()


def add(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    note(context)
    return str(sum(map(int, requests))).encode()


def chat(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    note(context)
    for request in requests:
        yield request[::-1]


def stats(request: bytes, context: grpc.ServicerContext) -> bytes:
    with lock:
        return json.dumps({**counts, "peers": len(peers)}).encode()


def main() -> None:
    handlers: dict[str, Any] = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Add": grpc.stream_unary_rpc_method_handler(add),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Stats": grpc.unary_unary_rpc_method_handler(stats),
    }
    server = grpc.server(ThreadPoolExecutor(32))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("sidecar.Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    announce(port, sys.argv[1])
    server.wait_for_termination()


if __name__ == "__main__":
    main()
