# ruff: noqa: UP006, UP007, UP035, UP045 (old spellings are what is tested)
"""The shop, for both sides."""

from __future__ import annotations

import dataclasses
import enum
import time
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Optional, TypeVar, Union

import shop_impl
from typing_extensions import Literal, Protocol, TypedDict

from sidecar import to_async, to_sync
from sidecar.synchronizer import Synchronizer

synchronizer = Synchronizer(name="shop")

Connection = synchronizer.wrap(shop_impl.Connection, "Connection", __name__)
Secure = synchronizer.wrap(shop_impl.Secure, "Secure", __name__)
Box = synchronizer.wrap(shop_impl.Box, "Box", __name__)
same = synchronizer.wrap(shop_impl.same, "same", __name__)
square = synchronizer.wrap(shop_impl.square, "square", __name__)
lines = synchronizer.wrap(shop_impl.lines, "lines", __name__)
opened = synchronizer.wrap(shop_impl.opened, "opened", __name__)
converted = synchronizer.wrap(shop_impl.converted, "converted", __name__)
later = synchronizer.wrap(shop_impl.later, "later", __name__)
called = synchronizer.wrap(shop_impl.called, "called", __name__)
plain = synchronizer.wrap(shop_impl.plain, "plain", __name__)

LIMIT = 10
NAMES = ["a", "b"]
Number = Union[int, float]
Kind = Literal["big", "small"]
fallback: Optional[Connection] = None
V = TypeVar("V")


def first(items: list[V], kind: Kind = "big") -> V:
    return items[0]


class Colour(enum.Enum):
    RED = 1
    BLUE = "b"


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int = 0

    def shifted(self, by: int) -> Point:
        return Point(self.x + by, self.y)


class Pair(NamedTuple):
    left: int
    right: str = ""


class Options(TypedDict, total=False):
    colour: Colour


class Named(Protocol):
    name: str

    def rename(self, name: str) -> None: ...


@to_async
def resized(name: str, width: int = 100) -> str:
    """Another size."""
    time.sleep(0)
    return f"{name} at {width}"


@to_async
def counted(end: int) -> Generator[int, str, None]:
    for number in range(end):  # noqa: UP028 (a generator that takes)
        yield number


@to_async
@contextmanager
def locked(name: str) -> Iterator[str]:
    yield name


@to_sync
async def greeted(name: str) -> str:
    return f"hello {name}"


@to_sync
class Client:
    """Of another shop."""

    def __init__(self, host: str) -> None:
        self.host = host

    async def get(self, path: str, /, *, times: int = 1) -> bytes:
        return f"{self.host}/{path}".encode() * times

    async def pages(self, end: int) -> AsyncIterator[str]:
        for number in range(end):
            yield str(number)

    def itself(self) -> Client:
        return self

    @classmethod
    async def connected(cls, host: str) -> Client:
        return cls(host)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.host = "left"

    def __aiter__(self) -> AsyncIterator[str]:
        return self.pages(2)


@to_async
class Account:
    """Somebody's money."""

    bank = "Sidecar"
    limit: int = 5

    def __init__(self, owner: str, balance: int = 0) -> None:
        self.owner = owner
        self.balance = balance
        self.peers: list[str] = []

    def deposit(self, amount: int) -> int:
        """More of it."""
        self.balance += amount
        return self.balance

    def merged(self, others: list[Account]) -> Account:
        return Account.__wrapped__(self.owner, self.balance + sum(other.balance for other in others))

    def everyone(self) -> list[Account]:
        return [self]

    def each(self) -> Iterator[Account]:
        yield self

    @contextmanager
    def lock(self) -> Iterator[Account]:
        yield self

    @classmethod
    def opened(cls, owner: str) -> Account:
        return cls(owner)

    @staticmethod
    def rate(percent: float) -> float:
        return percent / 100

    @property
    def rich(self) -> bool:
        return self.balance > 100

    def __enter__(self) -> Account:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.balance = 0

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.balance))

    def __len__(self) -> int:
        return self.balance
