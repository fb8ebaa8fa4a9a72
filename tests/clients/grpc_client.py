"""The client's half of test_grpc.py: python -m clients.grpc_client PORT CASE, in a process of its own.

gRPC keeps threads and descriptors for the life of the process. Its asyncio channel belongs to the loop that
it is made on: its one polling thread writes to a socket that this loop watches.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from clients.load import request_id, storm
from harness import wait_for

import sidecar

SERVICE = "/sidecar.Test/"


class Client:
    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.echo_call = channel.unary_unary(f"{SERVICE}Echo")
        self.slow_call = channel.unary_unary(f"{SERVICE}Slow")
        self.fail_call = channel.unary_unary(f"{SERVICE}Fail")
        self.count_call = channel.unary_stream(f"{SERVICE}Count")
        self.add_call = channel.stream_unary(f"{SERVICE}Add")
        self.chat_call = channel.stream_stream(f"{SERVICE}Chat")
        self.stats_call = channel.unary_unary(f"{SERVICE}Stats")

    @classmethod
    async def connect(cls, port: int) -> Client:
        return cls(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))

    async def echo(self, number: int) -> int:
        metadata = (("x-request-id", request_id.get()),)
        said = json.loads(await self.echo_call(json.dumps({"number": number}).encode(), metadata=metadata))
        assert said["id"] == request_id.get()
        answer: int = said["number"]
        return answer

    async def slow(self, number: int) -> None:
        await self.slow_call(b"")

    async def fail(self, number: int) -> int:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.fail_call(str(number).encode())
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        return int(caught.value.details() or 0)

    async def count(self, number: int) -> int:
        pieces = [int(piece) async for piece in self.count_call(b"20")]
        assert pieces == list(range(20))
        return number

    async def add(self, number: int) -> int:
        call = self.add_call()
        for share in (number, 1, 2, -3):
            await call.write(str(share).encode())
        await call.done_writing()
        return int(await call)

    async def chat(self, number: int) -> int:
        call = self.chat_call()
        for turn in range(3):
            text = f"{number}-{turn}".encode()
            await call.write(text)
            assert await call.read() == text[::-1]
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        return number

    async def stats(self) -> dict[str, int]:
        counts: dict[str, int] = json.loads(await self.stats_call(b""))
        return counts


def unary(bridge: sidecar.Sidecar, client: Client) -> None:
    storm(bridge, client.echo, calls=200)
    storm(bridge, client.fail, calls=20)


def streams(bridge: sidecar.Sidecar, client: Client) -> None:
    for work in (client.count, client.add, client.chat):
        storm(bridge, work, calls=25)


def time_outs(bridge: sidecar.Sidecar, client: Client) -> None:
    done = storm(bridge, client.echo, calls=60, impatient=client.slow, timeout=0.1)
    # The server sees every call given up, but for those that had not come to it yet.
    wait_for(lambda: bridge.run_sync(client.stats())["cancelled"] > 0, "the server sees calls given up")
    assert bridge.run_sync(client.stats())["cancelled"] <= done.timed_out


def between_calls(bridge: sidecar.Sidecar, client: Client) -> None:
    """What is asked by one call is answered while nobody calls: the bridge's own thread looks after it."""

    async def ask() -> list[asyncio.Task[int]]:
        request_id.set("between")
        return [asyncio.ensure_future(client.echo(number)) for number in range(20)]

    tasks = bridge.run_sync(ask())
    wait_for(lambda: all(task.done() for task in tasks), "the answers come between calls")
    assert [task.result() for task in tasks] == list(range(20))


def second_bridge(bridge: sidecar.Sidecar, client: Client) -> None:
    """A channel of another bridge, at the same time: each answer comes on the loop that asked."""
    other = sidecar.Sidecar(name="other")
    elsewhere = other.run_sync(Client.connect(int(sys.argv[1])))
    for _ in range(3):
        storm(bridge, client.echo, calls=20)
        storm(other, elsewhere.echo, calls=20)
    other.run_sync(elsewhere.channel.close(), timeout=10)
    assert other.shutdown()
    storm(bridge, client.echo, calls=20)


CASES = {case.__name__: case for case in (unary, streams, time_outs, between_calls, second_bridge)}


def threads_of(bridge: sidecar.Sidecar) -> list[str]:
    found = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # one that has just ended
            found.append(path.read_text())
    return [name for name in found if name.startswith(f"{bridge.name}-")]


def main() -> None:
    bridge = sidecar.Sidecar(name="clients")
    client = bridge.run_sync(Client.connect(int(sys.argv[1])), timeout=10)
    request_id.set("main")
    before = bridge.run_sync(client.stats())["peers"]
    CASES[sys.argv[2]](bridge, client)
    after = bridge.run_sync(client.stats())["peers"]
    channels = 2 if sys.argv[2] == "second_bridge" else 1
    assert after - before <= channels, f"connections: {before}, then {after}"
    bridge.run_sync(client.channel.close(), timeout=10)
    assert threads_of(bridge)
    assert bridge.shutdown()
    assert not threads_of(bridge)
    print("done", flush=True)


if __name__ == "__main__":
    main()
