"""The cases with a connection: an echo, from the client's view.

"peer": the other end is a process with a bare epoll (``loop_echo_server.py``), so that one loop is measured. The
two share a core: each wakes the other without a second core's sleep in the figure, which would hide the loop.
"both ends": a socket pair, and the loop under test serves its own client.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from loop_case import Case, Loop, Program, clock, core, of_coroutine

SMALL = 64
LARGE = 64 * 1024
IDLE = 1000
CHUNK = 64 * 1024

Pair = tuple[socket.socket, socket.socket]


@contextlib.contextmanager
def echo_server() -> Iterator[int]:
    command = [sys.executable, str(Path(__file__).with_name("loop_echo_server.py")), str(core())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        yield int(server.stdout.readline())
        server.stdin.close()


def connect(port: int) -> socket.socket:
    ours = socket.create_connection(("127.0.0.1", port))
    ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ours.setblocking(False)
    return ours


def pair() -> Pair:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


# -- the two ends, three ways -------------------------------------------------


class Streams:
    @staticmethod
    async def client(ours: socket.socket, size: int, times: int, state: dict[str, Any]) -> float:
        if "writer" not in state:
            state["reader"], state["writer"] = await asyncio.open_connection(sock=ours)
        reader, writer = state["reader"], state["writer"]
        message = b"x" * size
        began = clock()
        for _ in range(times):
            writer.write(message)
            await reader.readexactly(size)
        return clock() - began

    @staticmethod
    async def server(theirs: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=theirs)
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                writer.write(data)
        await close_stream(writer)

    @staticmethod
    async def end(ours: socket.socket, state: dict[str, Any]) -> None:
        await close_stream(state["writer"])


async def close_stream(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


class Echoing(asyncio.Protocol):
    """The client: writes again once all of its message has come back."""

    def __init__(self) -> None:
        self.gone = asyncio.get_running_loop().create_future()
        self.left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.gone.set_result(None)

    def start(self, size: int, times: int) -> asyncio.Future[None]:
        self.over = asyncio.get_running_loop().create_future()
        self.message = b"x" * size
        self.missing = size
        self.left = times
        self.transport.write(self.message)
        return self.over

    def data_received(self, data: bytes) -> None:
        self.missing -= len(data)
        if self.missing:
            return
        self.left -= 1
        if self.left:
            self.missing = len(self.message)
            self.transport.write(self.message)
        else:
            self.over.set_result(None)


class Returning(asyncio.Protocol):
    """The server."""

    def __init__(self) -> None:
        self.gone = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = cast(asyncio.Transport, transport).write

    def data_received(self, data: bytes) -> None:
        self.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        del self.write
        self.gone.set_result(None)


class Protocols:
    @staticmethod
    async def client(ours: socket.socket, size: int, times: int, state: dict[str, Any]) -> float:
        if "protocol" not in state:
            loop = asyncio.get_running_loop()
            _, state["protocol"] = await loop.create_connection(Echoing, sock=ours)
        began = clock()
        await state["protocol"].start(size, times)
        return clock() - began

    @staticmethod
    async def server(theirs: socket.socket) -> None:
        _, protocol = await asyncio.get_running_loop().create_connection(Returning, sock=theirs)
        await protocol.gone

    @staticmethod
    async def end(ours: socket.socket, state: dict[str, Any]) -> None:
        state["protocol"].transport.close()
        await state["protocol"].gone


class Socks:
    @staticmethod
    async def client(ours: socket.socket, size: int, times: int, state: dict[str, Any]) -> float:
        loop = asyncio.get_running_loop()
        send, receive = loop.sock_sendall, loop.sock_recv
        message = b"x" * size
        began = clock()
        for _ in range(times):
            await send(ours, message)
            missing = size
            while missing:
                missing -= len(await receive(ours, missing))
        return clock() - began

    @staticmethod
    async def server(theirs: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(theirs, CHUNK):
            await loop.sock_sendall(theirs, data)
        theirs.close()

    @staticmethod
    async def end(ours: socket.socket, state: dict[str, Any]) -> None:
        ours.close()


Way = Any  # one of the three above


def with_peer(loop: Loop, way: Way, size: int, port: int) -> Program:
    ours = connect(port)
    state: dict[str, Any] = {}
    return of_coroutine(
        loop, lambda times: way.client(ours, size, times, state), lambda: way.end(ours, state)
    )


def both_ends(loop: Loop, way: Way, size: int) -> Program:
    ours, theirs = pair()
    state: dict[str, Any] = {}
    server = loop.create_task(way.server(theirs))

    async def end() -> None:
        await way.end(ours, state)
        await server

    return of_coroutine(loop, lambda times: way.client(ours, size, times, state), end)


# -- among idle connections ---------------------------------------------------


class Idle:
    """So many connections that do nothing, on one loop."""

    def __init__(self, loop: Loop, port: int, count: int) -> None:
        self.loop = loop
        self.protocols: list[Echoing] = []
        loop.run_until_complete(self.open(port, count))

    async def open(self, port: int, count: int) -> None:
        for _ in range(count):
            _, protocol = await self.loop.create_connection(Echoing, sock=connect(port))
            self.protocols.append(protocol)

    async def close(self) -> None:
        for each in self.protocols:
            each.transport.close()
        await asyncio.gather(*[each.gone for each in self.protocols])


def among_idle(loop: Loop, port: int) -> Program:
    idle = Idle(loop, port, IDLE)
    program = with_peer(loop, Protocols, SMALL, port)

    def close() -> None:
        program.close()
        loop.run_until_complete(idle.close())

    return Program(program.sample, close)


# -- TLS ----------------------------------------------------------------------


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A client's and a server's; the certificate lives for this program."""
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = f"{folder}/key.pem", f"{folder}/cert.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate, key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    return client, server


async def open_tls(
    loop: Loop, ours: socket.socket, theirs: socket.socket, client: ssl.SSLContext, server: ssl.SSLContext
) -> tuple[Echoing, Returning]:
    echoing, returning = Echoing(), Returning()  # uvloop gives its own TLS protocol back
    await asyncio.gather(
        loop.create_connection(lambda: echoing, sock=ours, ssl=client, server_hostname="localhost"),
        loop.connect_accepted_socket(lambda: returning, theirs, ssl=server),
    )
    return echoing, returning


def over_tls(loop: Loop, secrets: Callable[[], tuple[ssl.SSLContext, ssl.SSLContext]]) -> Program:
    client, server = secrets()
    ours, theirs = pair()

    echoing, returning = loop.run_until_complete(open_tls(loop, ours, theirs, client, server))

    async def work(times: int) -> float:
        began = clock()
        await echoing.start(SMALL, times)
        return clock() - began

    async def end() -> None:
        echoing.transport.close()
        await asyncio.gather(echoing.gone, returning.gone)

    return of_coroutine(loop, work, end)


def cases(port: int) -> tuple[Case, ...]:
    found: list[Case] = []
    for name, way in (("streams", Streams), ("protocol", Protocols), ("sock", Socks)):
        for label, size in (("64", SMALL), ("64k", LARGE)):
            shown = "64 bytes" if size == SMALL else "64 KiB"
            found += [
                Case(
                    f"{name}-{label}",
                    f"echo of {shown}, peer",
                    functools.partial(with_peer, way=way, size=size, port=port),
                    core=core(),
                ),
                Case(
                    f"{name}-{label}-both",
                    f"echo of {shown}, both ends",
                    functools.partial(both_ends, way=way, size=size),
                ),
            ]
    found += [
        Case(
            "idle-1000",
            "protocol-64 among 1,000 idle ones",
            functools.partial(among_idle, port=port),
            core=core(),
        ),
        Case(
            "tls-64",
            "protocol-64-both, over TLS",
            functools.partial(over_tls, secrets=functools.lru_cache(contexts)),
            informs=True,
        ),
    ]
    return tuple(found)
