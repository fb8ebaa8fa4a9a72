"""The peer of the loop's echoes, in a process of its own: a bare epoll, no loop. Prints its port.

Its argument is the core it runs on.
"""

from __future__ import annotations

import os
import select
import socket
import sys

BUFFER = 256 * 1024


def main() -> None:
    os.sched_setaffinity(0, {int(sys.argv[1])})
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    poll = select.epoll()
    poll.register(listener.fileno(), select.EPOLLIN)
    poll.register(sys.stdin.fileno(), select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    room = memoryview(bytearray(BUFFER))
    while True:
        for fd, _ in poll.poll():
            connection = connections.get(fd)
            if connection is not None:
                count = receive(connection, room)
                if count:
                    connection.sendall(room[:count])
                else:
                    poll.unregister(fd)
                    connections.pop(fd).close()
            elif fd == listener.fileno():
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[connection.fileno()] = connection
                poll.register(connection.fileno(), select.EPOLLIN)
            else:
                return


def receive(connection: socket.socket, room: memoryview) -> int:
    try:
        return connection.recv_into(room)
    except ConnectionResetError:
        return 0


if __name__ == "__main__":
    main()
