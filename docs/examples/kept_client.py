"""What belongs to a loop lives on from call to call: here a TCP connection, elsewhere an HTTP client."""

import asyncio

from sidecar import run_sync


class Client:
    @classmethod
    async def connect(cls, port: int) -> "Client":
        self = cls()
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        return self

    async def ask(self, line: str) -> str:
        self.writer.write(f"{line}\n".encode())
        return (await self.reader.readline()).decode().strip()

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line.upper())
    writer.close()


server = run_sync(asyncio.start_server(echo, "127.0.0.1", 0))
client = run_sync(Client.connect(server.sockets[0].getsockname()[1]))
print(run_sync(client.ask("first")))  # -> FIRST
print(run_sync(client.ask("second")))  # -> SECOND
run_sync(client.close())
server.get_loop().call_soon_threadsafe(server.close)
