"""Requests that keep flowing while something happens to their server, and what became of each of them."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from harness import wait_for
from server.conftest import Uwsgi
from server.process import Connection

# Between two requests of a client: enough to leave the server a processor.
PAUSE = 0.002
SECONDS = 20.0


@dataclass(frozen=True)
class Answer:
    """One that is right: its own id throughout, its own token."""

    id: str
    pid: int
    began: float


@dataclass(frozen=True)
class Failure:
    """What a client got instead of an answer.

    ``refused``: nobody listened. ``lost``: the connection was closed before a byte of an answer. ``stale``: so,
    too, but on a connection that had served a request before, which a server may close at any time; the client
    asks again. ``wrong``: anything else, which nothing excuses.
    """

    kind: str
    what: str
    token: str
    ended: float


class Wrong(Exception):
    pass


def read_answer(response: http.client.HTTPResponse, token: str, began: float) -> Answer:
    body = response.read()
    if response.status != 200:
        raise Wrong(f"status {response.status}: {body[:200]!r}")
    told = json.loads(body)
    ids = [value for name, value in response.getheaders() if name.lower() == "x-request-id"]
    if len(ids) != 1 or set(told["ids"]) != set(ids) or told["token"] != token or told["troubles"]:
        raise Wrong(f"{token} was answered with {ids} and {told}")
    return Answer(ids[0], told["pid"], began)


def threads_end(uwsgi: Uwsgi) -> bool:
    """Before 2.0.25 a worker with threads may hang, or lose requests, as it goes: with or without a plugin."""
    command = [uwsgi.binary, "--version"]
    version = subprocess.run(
        command, capture_output=True, text=True, check=True, env=uwsgi.environment
    ).stdout
    return tuple(map(int, re.findall(r"\d+", version)[:3])) >= (2, 0, 25)


class Client:
    """One thread's requests, one after the other."""

    def __init__(self, flow: Flow, number: int) -> None:
        self.flow = flow
        self.number = number
        self.connection: Connection | None = None
        self.served = 0

    def run(self) -> None:
        for count in itertools.count():
            if self.flow.stopping.is_set():
                break
            path = self.flow.paths[(self.number + count) % len(self.flow.paths)]
            result = self.ask(path, f"{self.flow.name}-{self.number}-{count}")
            self.flow.results.append(result)
            if isinstance(result, Failure):
                self.close()
            self.flow.stopping.wait(self.flow.pause)
        self.close()

    def ask(self, path: str, token: str) -> Answer | Failure:
        began = time.monotonic()
        fault = "refused"
        try:
            if self.connection is None:
                self.connection = Connection(self.flow.socket, SECONDS)
                self.connection.connect()
                self.flow.connections.append(self.number)
            fault = "stale" if self.served else "lost"
            self.connection.request("GET", f"{path}?{token}", headers={"X-Request-Id": "theirs"})
            response = self.connection.getresponse()
            fault = "wrong"
            answer = read_answer(response, token, began)
        except (ConnectionError, FileNotFoundError) as error:
            return Failure(fault, repr(error), token, time.monotonic())
        except (OSError, ValueError, http.client.HTTPException, Wrong) as error:
            what = f"{error!r} after {time.monotonic() - began:.3f} s"
            return Failure("wrong", what, token, time.monotonic())
        self.served += 1
        if not self.flow.keep_alive or response.will_close:
            self.close()
        return answer

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None
        self.served = 0


class Flow:
    """Some clients of a server's socket, from the start of a ``with`` to its end; then :meth:`check` judges."""

    names = itertools.count()

    def __init__(
        self,
        socket: Path,
        *paths: str,
        clients: int = 4,
        keep_alive: bool = False,
        pause: float = PAUSE,
        notes: Path | None = None,
    ) -> None:
        self.socket = socket
        self.notes = notes or socket.parent
        self.paths: Sequence[str] = paths or ("/served",)
        self.keep_alive = keep_alive
        self.pause = pause
        self.name = f"flow{next(self.names)}"
        self.stopping = threading.Event()
        self.results: list[Answer | Failure] = []
        self.connections: list[int] = []
        self.event: float | None = None
        self.threads = [
            threading.Thread(target=Client(self, number).run, daemon=True) for number in range(clients)
        ]

    def __enter__(self) -> Flow:
        for thread in self.threads:
            thread.start()
        self.wait_for_answers()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(SECONDS + 10)
        assert kind is not None or not any(thread.is_alive() for thread in self.threads)

    @property
    def answers(self) -> list[Answer]:
        return [result for result in self.results[:] if isinstance(result, Answer)]

    @property
    def failures(self) -> list[Failure]:
        return [result for result in self.results[:] if isinstance(result, Failure)]

    def pids(self, since: float = 0.0) -> set[int]:
        return {answer.pid for answer in self.answers if answer.began >= since}

    def happens(self) -> None:
        """Only from here on may requests fail, as far as :meth:`check` allows it."""
        self.event = time.monotonic()

    def wait_for_answers(self, count: int = 20) -> None:
        """So many requests that begin from now on are answered."""
        now = time.monotonic()

        def answered() -> bool:
            return sum(answer.began >= now for answer in self.answers) >= count

        self._wait(answered, f"{count} more answers")

    def wait_for_workers(self, count: int, without: set[int] = frozenset()) -> set[int]:  # type: ignore[assignment]
        """So many workers that are none of ``without`` have answered; their pids."""
        self._wait(lambda: len(self.pids() - without) >= count, f"{count} workers besides {without} answer")
        return self.pids() - without

    def wait_for_only(self, without: set[int]) -> None:
        """From now on, ``without`` are not asked any more."""
        now = time.monotonic()
        self.wait_for_answers()
        assert not self.pids(now) & without

    def _wait(self, condition, what: str) -> None:
        try:
            wait_for(condition, what, SECONDS)
        except AssertionError as error:
            counts = f"{len(self.answers)} answers of {self.pids()}"
            raise AssertionError(f"{error}; {counts}; failures: {self.failures[-10:]}") from None

    def begun(self) -> set[str]:
        """The tokens that the application has seen (``life.py`` notes them as its first step)."""
        return {token for path in self.notes.glob("begun-*") for token in path.read_text().split()}

    def check(self, *, lost: int = 0, unseen: int = 0, refused: bool = False) -> None:
        """No answer is wrong, no id comes twice, and no more is lost than uWSGI itself loses.

        ``lost``: of those the application has seen, or may have; ``unseen``: of those that it has not.
        """
        answers, failures = self.answers, self.failures
        assert answers
        assert len({answer.id for answer in answers}) == len(answers), "an id came twice"
        early = [one for one in failures if self.event is None or one.ended < self.event]
        assert not [one for one in early if one.kind != "stale"], early
        begun = self.begun()
        found: dict[str, list[Failure]] = {}
        for one in failures:
            kind = "unseen" if one.kind == "lost" and one.token not in begun else one.kind
            found.setdefault(kind, []).append(one)
        assert "wrong" not in found, found["wrong"]
        assert refused or "refused" not in found, found["refused"]
        assert len(found.get("lost", ())) <= lost, found["lost"]
        assert len(found.get("unseen", ())) <= unseen, found["unseen"]
