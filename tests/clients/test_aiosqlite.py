"""aiosqlite on a kept bridge: one connection, whose own thread answers through ``call_soon_threadsafe``."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from clients.load import storm

import sidecar

aiosqlite = pytest.importorskip("aiosqlite", reason="aiosqlite is not installed")

# It takes some milliseconds.
COUNTING = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT max(i) FROM n
"""


class Client:
    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.threads: set[int] = set()

    @classmethod
    async def connect(cls, path: Path) -> Client:
        connection = await aiosqlite.connect(path, isolation_level=None)
        await connection.execute("PRAGMA synchronous = OFF")
        await connection.create_function("thread", 0, threading.get_ident)
        await connection.execute("CREATE TABLE notes (number INTEGER PRIMARY KEY)")
        return cls(connection)

    async def echo(self, number: int) -> int:
        async with self.connection.execute("SELECT ?, thread()", (number,)) as cursor:
            row = await cursor.fetchone()
        self.threads.add(row[1])
        answer: int = row[0]
        return answer

    async def insert(self, number: int) -> int:
        async with self.connection.execute("INSERT INTO notes VALUES (?)", (number,)) as cursor:
            answer: int = cursor.lastrowid
            return answer

    async def forever(self, number: int) -> None:
        """Keeps the connection's thread busy; an answer comes when nobody waits for it any more."""
        while True:
            async with self.connection.execute(COUNTING) as cursor:
                await cursor.fetchone()


@contextmanager
def connected(bridge: sidecar.Sidecar, path: Path) -> Iterator[Client]:
    client = bridge.run_sync(Client.connect(path))
    try:
        yield client
    finally:
        bridge.run_sync(client.connection.close(), timeout=20)


def test_one_thread_is_kept(bridge: sidecar.Sidecar, tmp_path: Path) -> None:
    with connected(bridge, tmp_path / "notes") as client:
        storm(bridge, client.echo, calls=300)
        done = storm(bridge, client.insert, calls=100)
        assert len(client.threads) == 1 and threading.get_ident() not in client.threads
    with sqlite3.connect(tmp_path / "notes") as connection:
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (done.answered,)
    connection.close()


def test_time_outs_leave_the_connection_whole(bridge: sidecar.Sidecar, tmp_path: Path) -> None:
    with connected(bridge, tmp_path / "notes") as client:
        storm(bridge, client.echo, calls=40, impatient=client.forever)
        storm(bridge, client.echo, calls=100)
        assert len(client.threads) == 1
