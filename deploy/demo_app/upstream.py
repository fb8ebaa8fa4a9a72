"""The upstream of the demo: an HTTP server whose every answer takes a known time.

``GET /item/N`` answers, after ``delay_of(N)`` seconds, with the item and the request id that came with it.
Run it as ``python upstream.py PORTFILE``: it writes the port it got to that file, and ends on SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path


def delay_of(item: int) -> float:
    """Seconds that the answer for an item takes: 0.10 to 0.28, the same in every run."""
    return 0.10 + (item * 7 % 10) * 0.02


def answer(status: str, content: dict[str, object]) -> bytes:
    body = json.dumps(content).encode()
    fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
    return f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n".encode() + body


async def respond(head: str) -> bytes:
    request_line, *lines = head.split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    found = re.fullmatch(r"GET /item/(\d{1,6}) HTTP/1\.[01]", request_line)
    if found is None:
        return answer("404 Not Found", {"error": f"not GET /item/N: {request_line}"})
    item = int(found.group(1))
    await asyncio.sleep(delay_of(item))
    request_id = headers.get("x-request-id", "")
    return answer("200 OK", {"item": item, "delay": delay_of(item), "request_id": request_id})


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, request by request, until the other side closes it."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(await respond(head[:-4].decode("latin-1")))
            await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
        pass
    finally:
        writer.close()


async def main(portfile: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    beside = portfile.with_name(f"{portfile.name}.{os.getpid()}")
    beside.write_text(f"{server.sockets[0].getsockname()[1]}\n")
    beside.replace(portfile)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
