"""A WebSocket server that echoes, counts its connections and the pings that it gets, and speaks when told to.

python websocket_app.py PORT_FILE. What comes on the path /control is about the others: "stats" is answered
with their counts, all else is said to each of them.
"""

from __future__ import annotations

import asyncio
import json
import sys

from announce import announce, listen
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

counts = {"accepted": 0, "open": 0, "pings": 0, "pongs": 0}
clients: set[Connection] = set()


class Connection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.protocol = ServerProtocol()
        self.is_control = False

    def connection_lost(self, error: Exception | None) -> None:
        if self in clients:
            clients.remove(self)
            counts["open"] -= 1

    def data_received(self, data: bytes) -> None:
        self.protocol.receive_data(data)
        for event in self.protocol.events_received():
            if isinstance(event, Request):
                self.welcome(event)
            elif isinstance(event, Frame):
                self.on_frame(event)
        self.flush()

    def eof_received(self) -> None:
        self.protocol.receive_eof()
        self.flush()

    def flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.transport.write(data)
            else:
                self.transport.close()

    def welcome(self, request: Request) -> None:
        self.protocol.send_response(self.protocol.accept(request))
        self.is_control = request.path == "/control"
        if not self.is_control:
            clients.add(self)
            counts["accepted"] += 1
            counts["open"] += 1

    def on_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PING:
            counts["pings"] += 1
        elif frame.opcode is Opcode.PONG:
            counts["pongs"] += 1
        elif frame.opcode is Opcode.TEXT and not self.is_control:
            self.protocol.send_text(frame.data)
        elif frame.opcode is Opcode.TEXT and frame.data == b"stats":
            self.protocol.send_text(json.dumps(counts).encode())
        elif frame.opcode is Opcode.TEXT:
            for client in clients:
                client.protocol.send_text(frame.data)
                client.protocol.send_ping(b"are you there?")
                client.flush()
            self.protocol.send_text(b"said")


async def main() -> None:
    listener = listen()
    server = await asyncio.get_running_loop().create_server(Connection, sock=listener)
    announce(listener.getsockname()[1], sys.argv[1])
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
