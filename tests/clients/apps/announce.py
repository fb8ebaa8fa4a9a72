"""How a server of this folder says on which port it is: a file that appears complete."""

from __future__ import annotations

import socket
from pathlib import Path


def listen() -> socket.socket:
    """A port of loopback that the kernel chose."""
    # With its protocol named: asyncio sets TCP_NODELAY only then.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(256)
    return listener


def announce(port: int, path: str) -> None:
    part = Path(path + ".part")
    part.write_text(str(port))
    part.rename(path)
