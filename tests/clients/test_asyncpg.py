"""asyncpg on a kept bridge: one pool for all threads, its server processes kept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest
from clients.load import storm
from clients.servers import Postgres
from harness import wait_for

import sidecar

asyncpg = pytest.importorskip("asyncpg", reason="asyncpg is not installed")

CONNECTIONS = 4
BACKENDS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'sidecar-pool'"


class Client:
    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.pids: set[int] = set()

    @classmethod
    async def connect(cls, server: Postgres) -> Client:
        pool = await asyncpg.create_pool(
            host=str(server.folder),
            user="sidecar",
            database="postgres",
            min_size=CONNECTIONS,
            max_size=CONNECTIONS,
            max_inactive_connection_lifetime=0,
            server_settings={"application_name": "sidecar-pool"},
        )
        await pool.execute("CREATE TABLE IF NOT EXISTS notes (number bigint PRIMARY KEY, what text)")
        await pool.execute("TRUNCATE notes")
        return cls(pool)

    async def echo(self, number: int) -> int:
        row = await self.pool.fetchrow("SELECT $1::bigint AS number, pg_backend_pid() AS pid", number)
        self.pids.add(row["pid"])
        answer: int = row["number"]
        return answer

    async def insert(self, number: int) -> int:
        """A transaction of several round trips."""
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute("INSERT INTO notes VALUES ($1, 'kept')", number)
            answer: int = await connection.fetchval("SELECT number FROM notes WHERE number = $1", number)
            return answer

    async def insert_and_hang(self, number: int) -> None:
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute("INSERT INTO notes VALUES ($1, 'lost')", number)
            await connection.execute("SELECT pg_sleep(60)")

    async def meet(self) -> set[int]:
        """Every connection of the pool, all taken at the same time; their server processes."""
        async with AsyncExitStack() as stack:
            acquired = [self.pool.acquire(timeout=20) for _ in range(CONNECTIONS)]
            taken = [await stack.enter_async_context(one) for one in acquired]
            return set(await asyncio.gather(*(one.fetchval("SELECT pg_backend_pid()") for one in taken)))

    async def close(self) -> None:
        """Where a test has failed, connections may still be taken, and a pool waits for those."""
        try:
            await asyncio.wait_for(self.pool.close(), 5)
        finally:
            self.pool.terminate()


def backends(server: Postgres) -> set[int]:
    return set(map(int, server.query(BACKENDS)))


@contextmanager
def connected(bridge: sidecar.Sidecar, server: Postgres) -> Iterator[Client]:
    client = bridge.run_sync(Client.connect(server))
    try:
        yield client
    finally:
        bridge.run_sync(client.close(), timeout=10)
    wait_for(lambda: not backends(server), "the server processes of the pool are gone")


def test_connections_are_kept(bridge: sidecar.Sidecar, postgres: Postgres) -> None:
    with connected(bridge, postgres) as client:
        before = backends(postgres)
        assert len(before) == CONNECTIONS
        storm(bridge, client.echo, calls=500)
        done = storm(bridge, client.insert, calls=50)
        assert backends(postgres) == before
        assert client.pids <= before
        assert postgres.query("SELECT count(*) FROM notes") == [str(done.answered)]


def test_time_outs_leave_the_pool_whole(bridge: sidecar.Sidecar, postgres: Postgres) -> None:
    with connected(bridge, postgres) as client:
        before = backends(postgres)
        done = storm(bridge, client.echo, calls=60, impatient=client.insert_and_hang)
        assert done.timed_out == 27
        # All of it is rolled back, by the same server processes, and all of them can be had at once.
        assert postgres.query("SELECT count(*) FROM notes") == ["0"]
        assert bridge.run_sync(client.meet(), timeout=30) == before
        assert backends(postgres) == before


def test_notifications_come_between_calls(bridge: sidecar.Sidecar, postgres: Postgres) -> None:
    """Nobody drives the loop while they come: the bridge's own thread looks after the connection."""
    with connected(bridge, postgres) as client:
        heard: list[tuple[str, int]] = []

        def listener(connection: Any, pid: int, channel: str, text: str) -> None:
            heard.append((text, threading.get_ident()))

        async def listen() -> Any:
            connection = await client.pool.acquire()
            await connection.add_listener("news", listener)
            return connection

        connection = bridge.run_sync(listen())
        for number in range(5):
            postgres.query(f"NOTIFY news, '{number}'")
        wait_for(lambda: len(heard) == 5, "the notifications are heard")
        assert [text for text, _ in heard] == ["0", "1", "2", "3", "4"]
        assert threading.get_ident() not in {thread for _, thread in heard}

        async def leave() -> None:
            await connection.remove_listener("news", listener)
            await client.pool.release(connection)

        bridge.run_sync(leave(), timeout=10)
