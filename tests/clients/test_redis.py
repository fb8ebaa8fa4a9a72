"""redis-py on a kept bridge: one client for all threads, its connections kept; pipelines, pub/sub."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from clients.load import THREADS, storm
from clients.servers import Redis
from harness import wait_for

import sidecar

pytest.importorskip("redis", reason="redis is not installed")
redis = pytest.importorskip("redis.asyncio")

CONNECTIONS = 4
# As many connections as there are callers: a cancellation while redis-py waits for a connection of a full
# pool is lost now and then on CPython 3.11, with any loop.
ENOUGH = THREADS + 1
NAME = "sidecar"


class Client:
    def __init__(self, server: Redis, connections: int) -> None:
        self.connections = connections
        self.pool = redis.BlockingConnectionPool(
            connection_class=redis.UnixDomainSocketConnection,
            path=str(server.socket),
            max_connections=connections,
            timeout=30,
            client_name=NAME,
            decode_responses=True,
        )
        self.redis = redis.Redis(connection_pool=self.pool)

    @classmethod
    async def connect(cls, server: Redis, connections: int) -> Client:
        client = cls(server, connections)
        await client.redis.flushall()
        return client

    async def echo(self, number: int) -> int:
        return int(await self.redis.echo(str(number)))

    async def pipeline(self, number: int) -> int:
        key = f"key-{number}"
        async with self.redis.pipeline(transaction=True) as pipe:
            for _ in range(5):
                pipe.incr(key)
            pipe.set(f"{key}-copy", number)
            pipe.get(f"{key}-copy")
            answers = await pipe.execute()
        assert answers[:6] == [1, 2, 3, 4, 5, True]
        await self.redis.delete(key)
        return int(answers[6])

    async def hang(self, number: int) -> None:
        await self.redis.blpop([f"never-{number}"], timeout=60)

    async def meet(self) -> None:
        """Every connection of the pool blocks at the same time; a further one would find no room."""
        blocking = [self.redis.blpop(["meeting"], timeout=60) for _ in range(self.connections)]
        waiting = [asyncio.ensure_future(one) for one in blocking]
        try:
            await asyncio.wait_for(asyncio.gather(*waiting), 30)
        finally:
            for task in waiting:
                task.cancel()

    async def close(self) -> None:
        await self.redis.aclose()
        await self.pool.disconnect()


def ours(server: Redis) -> set[str]:
    return {id for id, name in server.clients().items() if name == NAME}


@contextmanager
def connected(bridge: sidecar.Sidecar, server: Redis, connections: int) -> Iterator[Client]:
    client = bridge.run_sync(Client.connect(server, connections))
    try:
        yield client
    finally:
        bridge.run_sync(client.close(), timeout=10)
    wait_for(lambda: not ours(server), "the server sees its connections closed")


def test_connections_are_kept(bridge: sidecar.Sidecar, redis_server: Redis) -> None:
    before = redis_server.received()
    with connected(bridge, redis_server, CONNECTIONS) as client:
        storm(bridge, client.echo, calls=400)
        known = ours(redis_server)
        storm(bridge, client.pipeline, calls=100)
        assert ours(redis_server) == known and 1 <= len(known) <= CONNECTIONS
        # received() and clients() connect, too.
        assert redis_server.received() - before <= CONNECTIONS + 3


def test_time_outs_leave_the_pool_whole(bridge: sidecar.Sidecar, redis_server: Redis) -> None:
    before = redis_server.received()
    with connected(bridge, redis_server, ENOUGH) as client:
        done = storm(bridge, client.echo, calls=200, impatient=client.hang)
        # A command given up takes its connection with it, and no other.
        assert redis_server.received() - before <= ENOUGH + done.timed_out + 1

        async def meet() -> asyncio.Task[None]:
            return asyncio.ensure_future(client.meet())

        meeting = bridge.run_sync(meet())
        blocked = b"blocked_clients:%d\r\n" % ENOUGH
        wait_for(lambda: blocked in redis_server.ask("INFO clients"), "all of them block at once")
        for _ in range(ENOUGH):
            redis_server.ask("RPUSH meeting come")
        wait_for(meeting.done, "the meeting is over, though nobody calls")
        assert meeting.exception() is None
        assert len(ours(redis_server)) <= ENOUGH


def test_subscription_is_kept_between_calls(bridge: sidecar.Sidecar, redis_server: Redis) -> None:
    """A task that reads the subscription lives on; what is published while nobody calls arrives."""
    with connected(bridge, redis_server, CONNECTIONS) as client:
        heard: list[str] = []

        async def read(subscription: Any) -> None:
            async for message in subscription.listen():
                if message["type"] == "message":
                    heard.append(message["data"])
                    if message["data"] == "end":
                        return

        async def subscribe() -> asyncio.Task[None]:
            subscription = client.redis.pubsub()
            await subscription.subscribe("news")
            task = asyncio.ensure_future(read(subscription))
            task.add_done_callback(lambda _: asyncio.ensure_future(subscription.aclose()))
            return task

        async def publish(number: int) -> int:
            await client.redis.publish("news", str(number))
            return number

        reader = bridge.run_sync(subscribe())
        for number in range(5):
            assert redis_server.ask(f"PUBLISH news {number}") == b":1\r\n"
        wait_for(lambda: heard == ["0", "1", "2", "3", "4"], "what was published between calls is heard")
        done = storm(bridge, publish, calls=100)
        assert redis_server.ask("PUBLISH news end") == b":1\r\n"
        wait_for(reader.done, "the subscription's end is heard")
        assert reader.exception() is None
        assert len(heard) == 5 + done.answered + 1
