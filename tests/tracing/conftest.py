"""The service, over HTTP: by two servers, in each trust mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from harness import open_descriptors, wait_for
from tracing.service import Collector, Headers, application, by_werkzeug, by_wsgiref, post, serving

import sidecar

# Who calls from 127.0.0.1 is trusted, or is not.
TRUSTING = ["always", "10.0.0.0/8, 127.0.0.0/8", "127.0.0.1"]
DISTRUSTING = ["untrusted", "10.0.0.0/8, ::1/128"]
SERVERS = {"wsgiref": by_wsgiref, "werkzeug": by_werkzeug}


class Answer:
    """What came of one request: the calls that the service made, and what it told of itself."""

    def __init__(self, headers: Headers, told: dict[str, Any], calls: list[Headers]) -> None:
        self.headers = headers
        self.told = told
        self.calls = calls

    def sent(self, name: str) -> list[str]:
        """The values of a header in the first call."""
        return [value for key, value in self.calls[0] if key.lower() == name]


Send = Callable[..., Answer]


@pytest.fixture(scope="session")
def services() -> Iterator[Callable[[str, str], Send]]:
    """The service with a trust mode, by a server; each is started once."""
    started: dict[tuple[str, str], str] = {}
    with ExitStack() as stack:
        collector = Collector()
        collects_at = stack.enter_context(serving(collector))
        numbers = iter(range(1_000_000))

        def service(trust: str, server: str = "wsgiref") -> Send:
            if (trust, server) not in started:
                made = SERVERS[server](sidecar.WSGIMiddleware(application, trust=trust))
                started[trust, server] = stack.enter_context(serving(made))
            base = started[trust, server]

            def send(*lines: tuple[str, str], calls: int = 1, path: str = "/") -> Answer:
                name = f"/{next(numbers)}"
                actions = [{"url": collects_at + name, "arguments": []}] * calls
                headers, told = post(base + path, list(lines), actions)
                made_calls = collector.calls.pop(name)
                assert len(made_calls) == calls
                return Answer(headers, told, made_calls)

            return send

        yield service


@pytest.fixture(scope="session", autouse=True)
def all_started(services: Callable[[str, str], Send]) -> None:
    """Before the first test counts descriptors and threads."""
    for trust in TRUSTING + DISTRUSTING:
        services(trust, "wsgiref")
    services("always", "werkzeug")
    services("untrusted", "werkzeug")


def open_sockets() -> set[tuple[str, str]]:
    return {(fd, what) for fd, what in open_descriptors().items() if what.startswith("socket:")}


@pytest.fixture(autouse=True)
def connections_closed(nothing_left: None) -> Iterator[None]:
    """The servers' threads close theirs a moment after the client has its answer."""
    before = open_sockets()
    yield
    assert sidecar.shutdown()  # its own go with it
    wait_for(lambda: open_sockets() <= before, f"the servers close their connections: {open_sockets() - before}")


@pytest.fixture
def trusting(services: Callable[[str, str], Send]) -> dict[str, Send]:
    """By trust mode. A test asks all of them: each test by itself costs more than a hundred requests."""
    return {trust: services(trust, "wsgiref") for trust in TRUSTING}


@pytest.fixture
def distrusting(services: Callable[[str, str], Send]) -> dict[str, Send]:
    return {trust: services(trust, "wsgiref") for trust in DISTRUSTING}
