"""What is measured: the coroutines, and how one sample of each is taken."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from contestants import AsyncFunction, Call, Contestant

MESSAGE = b"x" * 64


async def never() -> int:
    return 1


async def once() -> int:
    await asyncio.sleep(0)
    return 1


async def sleep_1ms() -> int:
    await asyncio.sleep(0.001)
    return 1


@contextlib.contextmanager
def echo_server() -> Iterator[int]:
    """The port of an echo server that lives for the block."""
    command = [sys.executable, str(Path(__file__).with_name("echo_server.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        yield int(server.stdout.readline())
        server.stdin.close()


def echo_on_streams(contestant: Contestant, port: int) -> tuple[Call, Call]:
    """One echo over a kept connection, and what closes that."""
    streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def connect() -> None:
        streams.append(await asyncio.open_connection("127.0.0.1", port))

    async def echo() -> bytes:
        reader, writer = streams[0]
        writer.write(MESSAGE)
        return await reader.readexactly(len(MESSAGE))

    async def disconnect() -> None:
        writer = streams[0][1]
        writer.close()
        await writer.wait_closed()

    contestant.caller(connect)()
    return contestant.caller(echo), contestant.caller(disconnect)


def echo_on_blocking_socket(port: int) -> tuple[Call, Call]:
    """The floor of an echo: no loop at all."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def echo() -> bytes:
        connection.sendall(MESSAGE)
        return connection.recv(len(MESSAGE))

    return echo, connection.close


# -- samples ------------------------------------------------------------------


def calls_in(call: Call, seconds: float) -> int:
    """How many calls fill about that time, at least 5."""
    done, began = 0, time.perf_counter()
    while done < 5 or time.perf_counter() - began < seconds:
        call()
        done += 1
    return done


def time_of(call: Call, times: int) -> float:
    """Seconds a call takes, the mean of so many in a row."""
    again = range(times)
    began = time.perf_counter()
    for _ in again:
        call()
    return (time.perf_counter() - began) / times


def crowd(
    contestant: Contestant, function: AsyncFunction, threads: int, seconds: float
) -> tuple[float, float]:
    """Threads that call as fast as they can: calls per second, and the p99 of a call, in seconds."""
    stop = threading.Event()
    ready = threading.Barrier(threads + 1)
    times: list[float] = []
    failed: list[BaseException] = []

    def work() -> None:
        mine: list[float] = []
        clock, is_over = time.perf_counter, stop.is_set
        try:
            call = contestant.caller(function)
            call()
            ready.wait(30)
            before = clock()
            while not is_over():
                call()
                after = clock()
                mine.append(after - before)
                before = after
            contestant.leave()
        except BaseException as error:  # noqa: BLE001  (it is raised in the main thread)
            failed.append(error)
            ready.abort()
        times.extend(mine)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    with contextlib.suppress(threading.BrokenBarrierError):
        ready.wait(30)
    began = time.perf_counter()
    time.sleep(seconds)
    stop.set()
    for worker in workers:
        worker.join()
    if failed:
        raise failed[0]
    times.sort()
    return len(times) / (time.perf_counter() - began), times[int(len(times) * 0.99)]
