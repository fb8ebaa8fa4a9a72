# ruff: noqa: UP006, UP007, UP035, UP045 (old spellings are what is tested)
"""An async library that ``shop.py`` wraps: what stubs and emitted modules are tested with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, List, Optional, TypeVar, Union, overload

if TYPE_CHECKING:
    from decimal import Decimal

    from typing_extensions import ParamSpec, Self

    P = ParamSpec("P")

T = TypeVar("T")

MISSING: Any = object()


class Connection:
    """To one shop.

    Keeps what it was asked.
    """

    url: str
    currency = "EUR"

    def __init__(self, url: str, *, retries: int = 3) -> None:
        if not url:
            raise ValueError("no url")
        self.url = url
        self.retries = retries
        self.asked: list[str] = []

    async def query(self, text: str, /, *more: int, times: int = 1, **options: str) -> list[str]:
        """Ask the shop."""
        await asyncio.sleep(0)
        self.asked.append(text)
        return [text] * times + list(options) + [str(each) for each in more]

    async def itself(self) -> Self:
        return self

    async def default(self, value: object = MISSING) -> bool:
        return value is MISSING

    async def price(self) -> Decimal:
        import decimal

        return decimal.Decimal(1)

    @classmethod
    async def connect(cls, url: str) -> Connection:
        return cls(url)

    @staticmethod
    async def ping(url: str) -> float:
        return float(len(url))

    @staticmethod
    def parse(url: str) -> str:
        return url.partition(":")[0]

    @property
    def name(self) -> str:
        """Of the shop."""
        return self.url

    @name.setter
    def name(self, name: str) -> None:
        self.url = name

    async def rows(self, end: int) -> AsyncGenerator[int, None]:
        for number in range(end):
            await asyncio.sleep(0)
            yield number

    @contextlib.asynccontextmanager
    async def transaction(self, name: str) -> AsyncIterator[Connection]:
        self.asked.append(f"begin {name}")
        yield self
        self.asked.append(f"end {name}")

    def same_as(self, other: Optional[Connection] = None) -> bool:
        return other is self

    async def list(self) -> List[str]:
        return self.asked

    async def fail(self) -> None:
        raise LookupError("mine")

    async def __aenter__(self) -> Connection:
        self.asked.append("enter")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.asked.append("exit")

    def __aiter__(self) -> AsyncGenerator[int, None]:
        return self.rows(2)

    def __len__(self) -> int:
        return len(self.asked)


class Secure(Connection):
    """With a key."""

    async def key(self) -> bytes:
        return self.url.encode()


class Box(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value

    async def get(self) -> T:
        return self.value

    async def put(self, value: T) -> None:
        self.value = value

    async def swapped(self, value: T) -> T:
        self.value, value = value, self.value
        return value

    def plain(self) -> T:
        return self.value


C = TypeVar("C", bound=Connection)


async def same(item: C) -> list[C]:
    return [item]


async def square(number: int) -> int:
    """The number times itself.

    As `\\d` would have it.
    """
    await asyncio.sleep(0)
    return number * number


async def lines(end: int) -> AsyncIterator[str]:
    for number in range(end):
        yield str(number)


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[Connection]:
    yield Connection(url)


@overload
async def converted(value: int) -> str: ...
@overload
async def converted(value: str) -> int: ...
async def converted(value: Union[int, str]) -> Union[int, str]:
    return str(value) if isinstance(value, int) else int(value)


def later(url: str) -> Awaitable[Connection]:
    return Connection.connect(url)


async def called(function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    return await function(*args, **kwargs)


def plain(connection: Connection) -> list[Connection]:
    return [connection]
