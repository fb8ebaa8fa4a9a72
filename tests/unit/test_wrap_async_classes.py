"""Sync faces of async classes."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import sidecar
from sidecar._wrappers import to_async, to_sync


class Session:
    """Fetches."""

    retries = 3

    def __init__(self, host: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.host = host
        self.events: list[Any] = []
        self._token = 1

    async def get(self, path: str, *, times: int = 1) -> str:
        """One page."""
        await asyncio.sleep(0)
        return f"{self.host}/{path}" * times

    async def both(self) -> list[str]:
        # The class's own methods go on awaiting each other.
        return list(await asyncio.gather(self.get("a"), self.get("b")))

    async def lines(self, end: int) -> AsyncIterator[int]:
        try:
            for number in range(end):
                await asyncio.sleep(0)
                yield number
        finally:
            self.events.append("closed")

    def lines_later(self, end: int) -> AsyncIterator[int]:
        return self.lines(end)

    @contextlib.asynccontextmanager
    async def request(self, path: str) -> AsyncIterator[str]:
        task = asyncio.current_task()
        yield await self.get(path)
        assert asyncio.current_task() is task

    def start(self, path: str) -> asyncio.Future[str]:
        """Plain, but it wants the loop, and its result is to be awaited."""
        assert asyncio.get_running_loop() is self.loop
        return asyncio.ensure_future(self.get(path))

    def url(self, path: str) -> str:
        assert asyncio.get_running_loop() is self.loop
        return f"{self.host}/{path}"

    def numbers(self) -> Iterator[int]:
        yield 1

    def clone(self) -> Session:
        return type(self)(self.host)

    def itself(self) -> Session:
        return self

    @classmethod
    async def connect(cls, host: str) -> Session:
        await asyncio.sleep(0)
        return cls(host)

    @staticmethod
    async def wait(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "waited"

    @property
    def address(self) -> str:
        return self.host

    async def fail(self) -> None:
        raise LookupError("mine")

    async def __aenter__(self) -> Session:
        self.task = asyncio.current_task()
        return self

    async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> bool:
        assert asyncio.current_task() is self.task
        self.events.append(kind)
        return kind is LookupError

    def __aiter__(self) -> AsyncIterator[int]:
        return self.lines(3)

    async def __call__(self, number: int) -> int:
        return number + 1

    def __len__(self) -> int:
        return 5


SyncSession = to_sync(Session)


def test_sync_methods() -> None:
    session = SyncSession("host")
    assert session.loop is sidecar.get_bridge().get_loop()
    assert session.get("a", times=2) == "host/ahost/a"
    assert session.both() == ["host/a", "host/b"]
    assert list(session.lines(2)) == list(session.lines_later(2)) == [0, 1]
    assert session.start("x") == session.url("x") == "host/x"
    assert list(session.numbers()) == [1]
    with session.request("r") as page:
        assert page == "host/r"
    assert session.wait(0) == SyncSession.wait(0) == "waited"
    assert (session(1), len(session), session.address, session.retries, session._token) == (
        2,
        5,
        "host",
        3,
        1,
    )
    with pytest.raises(LookupError, match="mine") as caught:
        session.fail()
    if sys.version_info >= (3, 11):
        assert all("/sidecar/_wrap" not in str(entry.path) for entry in caught.traceback)


def test_sync_faces_come_back() -> None:
    session = SyncSession.connect("host")
    assert type(session) is SyncSession and session.itself() is session
    clone = session.clone()
    assert type(clone) is SyncSession and clone is not session
    with session as entered:
        assert entered is session


def test_sync_with_and_for() -> None:
    session = SyncSession("host")
    with session:
        raise LookupError
    assert session.events == [LookupError]
    assert list(session) == [0, 1, 2]
    for number in session:
        if number == 1:
            break

    class Ticks:
        left = 2

        def __aiter__(self) -> Ticks:
            return self

        async def __anext__(self) -> int:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return self.left

    ticks = to_sync(Ticks)()
    assert next(ticks) == 1
    assert list(ticks) == [0]
    with pytest.raises(StopIteration):
        next(ticks)


def test_face_of_an_async_class_looks_like_it() -> None:
    assert (SyncSession.__name__, SyncSession.__doc__, SyncSession.__wrapped__) == (
        "Session",
        "Fetches.",
        Session,
    )
    assert inspect.signature(SyncSession) == inspect.signature(Session)
    assert inspect.signature(SyncSession("h").get) == inspect.signature(Session.get.__get__(object()))
    assert SyncSession.get.__doc__ == "One page."
    for name in ("get", "both", "connect", "wait", "lines", "start", "__call__"):
        member = getattr(SyncSession, name)
        assert not inspect.iscoroutinefunction(member) and not inspect.isasyncgenfunction(member), name
    assert repr(SyncSession("h")).startswith("<sync face of <")


def test_timeout_of_a_class() -> None:
    face = to_sync(Session, timeout=0.02)
    session = face("host")
    with pytest.raises(sidecar.CallTimeoutError, match=r"Session\.wait"):
        session.wait(60)
    assert session.get("a") == "host/a"


def test_bridge_of_a_class() -> None:
    with sidecar.Sidecar() as bridge:

        @to_sync(bridge=bridge)
        class Mine(Session):
            async def where(self) -> asyncio.AbstractEventLoop:
                return asyncio.get_running_loop()

        assert Mine("host").where() is Mine("host").loop is bridge.get_loop()
        assert not sidecar.is_running()


def test_plain_methods_on_the_loop_itself() -> None:
    session = SyncSession("host")

    async def main() -> str:
        # Sync code that a coroutine calls: nothing to wait for, so nothing is in the way.
        assert session.address == "host"
        with pytest.raises(sidecar.DeadlockError, match=r"Session\.get"):
            session.get("a")
        return session.url("x")

    assert sidecar.run_sync(main()) == "host/x"


@pytest.mark.parametrize("run", [sidecar.run_sync, asyncio.run], ids=["bridge", "foreign loop"])
def test_there_and_back(run: Any) -> None:
    class Client:
        async def get(self, number: int) -> int:
            await asyncio.sleep(0)
            return number + 1

        async def lines(self) -> AsyncIterator[int]:
            yield 1
            yield 2

    face = to_async(to_sync(Client))

    async def main() -> list[int]:
        client = await face.on_pool()
        return [await client.get(1), *[line async for line in client.lines()]]

    assert run(main()) == [2, 1, 2]
