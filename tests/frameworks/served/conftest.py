"""The server tests' fixtures, the frameworks' hosts, and an upstream for clients that views keep."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator

import pytest
from frameworks.served.hosts import command_of, environment_of, package_folder
from server.conftest import gunicorn_command, serve, uwsgi, uwsgi_of  # noqa: F401
from server.process import Server


@pytest.fixture
def start(serve, gunicorn_command) -> Callable[..., Server]:  # noqa: F811
    """An application on a host without the plugin."""

    def start(host: str, app: str, **environment: str) -> Server:
        command = command_of(host, app, gunicorn_command)
        return serve(*command, environment=environment_of(package_folder(), **environment)).wait_ready()

    return start


@pytest.fixture
def start_uwsgi(serve, uwsgi) -> Callable[..., Server]:  # noqa: F811
    """An application under uWSGI with the plugin: one worker process, with threads."""

    def start(app: str, **environment: str) -> Server:
        command = uwsgi.command("--master", "--threads", "4", "--need-app", "--module", app)
        return serve(*command, environment=environment_of(uwsgi.package_folder, **environment)).wait_ready()

    return start


class Upstream(http.server.ThreadingHTTPServer):
    """Counts the connections that its clients make."""

    # A connection may last until its client goes, which is after this.
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.connections = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def process_request(self, request, client_address) -> None:
        self.connections += 1
        super().process_request(request, client_address)


class _Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"kept")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
