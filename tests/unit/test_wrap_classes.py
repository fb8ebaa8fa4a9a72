"""Async faces of blocking classes."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import contextvars
import dataclasses
import enum
import functools
import inspect
import sqlite3
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Generic, TypeVar

import pytest

import sidecar
from sidecar._wrappers import to_async

Run = Callable[[Coroutine[Any, Any, Any]], Any]
T = TypeVar("T")
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture(params=["bridge", "foreign loop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on the bridge's loop, or on a plain one of asyncio's."""
    return sidecar.run_sync if request.param == "bridge" else asyncio.run


def on_main() -> bool:
    return threading.current_thread() is threading.main_thread()


class Base:
    limit = 7

    def inherited(self) -> str:
        return f"inherited {self.limit}"


class Store(Base):
    """Keeps numbers."""

    kinds = ("small", "large")

    class Missing(Exception):
        pass

    def __init__(self, *numbers: int, name: str = "store") -> None:
        self.numbers = list(numbers)
        self.name = name
        self.made_on_main = on_main()
        self.events: list[Any] = []

    def get(self, position: int, *, default: int | None = None) -> int:
        """One of them."""
        assert not on_main()
        if position < len(self.numbers):
            return self.numbers[position]
        if default is None:
            raise self.Missing(position)
        return default

    def first(self) -> int:
        return self.get(0)

    def add(self, number: int) -> Store:
        self.numbers.append(number)
        return self

    def merged(self, other: Store) -> Store:
        assert isinstance(other, Store)
        return type(self)(*self.numbers, *other.numbers)

    def items(self, step: int = 1) -> Iterator[int]:
        assert not on_main()
        yield from self.numbers[::step]

    @contextlib.contextmanager
    def locked(self) -> Iterator[str]:
        self.events.append("locked")
        yield self.name
        self.events.append("unlocked")

    @classmethod
    def of(cls, text: str) -> Store:
        assert not on_main()
        return cls(*map(int, text.split()))

    @staticmethod
    def parse(text: str) -> int:
        assert not on_main()
        return int(text)

    @property
    def size(self) -> int:
        """How many."""
        return len(self.numbers)

    @size.setter
    def size(self, size: int) -> None:
        del self.numbers[size:]

    @functools.cached_property
    def total(self) -> int:
        return sum(self.numbers)

    partial = functools.partialmethod(get, 1)

    async def already(self) -> str:
        return self.name

    async def already_items(self) -> AsyncIterator[int]:
        for number in self.numbers:
            yield number

    def _private(self) -> str:
        return "private"

    def __enter__(self) -> Store:
        self.token = variable.set("inside")
        self.events.append("in")
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool:
        variable.reset(self.token)
        self.events.append(kind)
        return kind is LookupError

    def __iter__(self) -> Iterator[int]:
        assert not on_main()
        return iter(self.numbers)

    def __call__(self, number: int, *, plus: int = 0) -> int:
        assert not on_main()
        return number * 2 + plus

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int) -> int:
        return self.numbers[position]

    def __contains__(self, number: int) -> bool:
        return number in self.numbers

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Store) and other.numbers == self.numbers

    def __hash__(self) -> int:
        return hash(tuple(self.numbers))

    def __add__(self, other: Store) -> Store:
        return self.merged(other)

    def __repr__(self) -> str:
        return f"Store{tuple(self.numbers)}"


AsyncStore = to_async(Store)


class Counter:
    """Counts down."""

    def __init__(self, start: int) -> None:
        self.left = start

    def __iter__(self) -> Counter:
        return self

    def __next__(self) -> int:
        if not self.left:
            raise StopIteration
        self.left -= 1
        return self.left


def test_async_methods(run: Run) -> None:
    async def main() -> None:
        store = AsyncStore(1, 2, name="mine")
        assert await store.get(1) == await store.partial() == 2
        assert await store.get(9, default=5) == 5
        assert (await store.first(), await store.inherited()) == (1, "inherited 7")
        assert [item async for item in store.items(step=2)] == [1]
        async with store.locked() as name:
            assert (name, store.events) == ("mine", ["locked"])
        assert store.events[1] == "unlocked"
        assert await store.already() == "mine"
        assert [item async for item in store.already_items()] == [1, 2]
        assert await store(3, plus=1) == 7
        assert await AsyncStore.parse("4") == await store.parse("4") == 4
        with pytest.raises(Store.Missing) as caught:
            await store.get(9)
        assert AsyncStore.Missing is Store.Missing
        if sys.version_info >= (3, 11):
            frames = traceback.extract_tb(caught.value.__traceback__)
            assert not [entry for entry in frames if "/sidecar/_wrap" in entry.filename]

    run(main())


def test_instances_of_the_class_come_back_as_faces(run: Run) -> None:
    async def main() -> None:
        store = AsyncStore(1)
        assert await store.add(2) is store
        other = await AsyncStore.of("3 4")
        assert type(other) is AsyncStore and other.numbers == [3, 4]
        merged = await store.merged(other)
        assert type(merged) is AsyncStore and merged.numbers == [1, 2, 3, 4]
        async with store as entered:
            assert entered is store
        assert type(store + other) is AsyncStore

    run(main())


def test_constructing(run: Run) -> None:
    async def main() -> None:
        assert AsyncStore(1).made_on_main
        store = await AsyncStore.on_pool(1, name="pool")
        assert type(store) is AsyncStore and (store.name, store.made_on_main) == ("pool", False)

    run(main())
    with pytest.raises(TypeError, match="nome"):
        AsyncStore(nome="x")


def test_data_properties_and_private_names_pass_through() -> None:
    store = AsyncStore(1, 2, 3)
    assert (store.size, store.total, store.limit, store.name) == (3, 6, 7, "store")
    assert (AsyncStore.limit, AsyncStore.kinds, AsyncStore.size.__doc__) == (7, Store.kinds, "How many.")
    store.size = 2
    store.name = "other"
    store.limit = 8
    real = store.__wrapped__
    assert type(real) is Store and (real.numbers, real.name, real.limit) == ([1, 2], "other", 8)
    assert store._private() == "private"
    del store.name
    with pytest.raises(AttributeError, match="name"):
        store.name
    assert "numbers" in dir(store) and "get" in dir(store)


def test_special_methods_that_cannot_be_awaited() -> None:
    store, same = AsyncStore(1, 2), AsyncStore(1, 2)
    assert (len(store), store[1], 2 in store, bool(store)) == (2, 2, True, True)
    assert store == same and hash(store) == hash(same) and store != AsyncStore(3)
    assert repr(store) == "<async face of Store(1, 2)>"


def test_async_with_and_for(run: Run) -> None:
    async def main() -> None:
        store = AsyncStore(1, 2)
        assert [number async for number in store] == [1, 2]
        async with store:
            raise LookupError
        assert store.events == ["in", LookupError]
        assert not hasattr(store, "__enter__") or type(store).__dict__.get("__enter__") is None

        counter = to_async(Counter)(3)
        assert await counter.__anext__() == 2
        assert [number async for number in counter] == [1, 0]
        with pytest.raises(StopAsyncIteration):
            await counter.__anext__()

    run(main())


def test_face_of_a_class_looks_like_it() -> None:
    assert (AsyncStore.__name__, AsyncStore.__qualname__, AsyncStore.__module__) == (
        "Store",
        "Store",
        __name__,
    )
    assert AsyncStore.__doc__ == "Keeps numbers." and AsyncStore.__wrapped__ is Store
    assert inspect.signature(AsyncStore) == inspect.signature(Store)
    assert AsyncStore.get.__doc__ == "One of them."
    assert inspect.signature(AsyncStore.get) == inspect.signature(Store.get)
    assert inspect.signature(AsyncStore().get) == inspect.signature(Store().get)
    assert inspect.iscoroutinefunction(AsyncStore.get) and inspect.iscoroutinefunction(AsyncStore().get)
    assert inspect.iscoroutinefunction(AsyncStore.of) and inspect.iscoroutinefunction(AsyncStore.already)
    assert inspect.isasyncgenfunction(AsyncStore.items) and inspect.isasyncgenfunction(
        AsyncStore().already_items
    )
    assert isinstance(AsyncStore(), AsyncStore) and not isinstance(AsyncStore(), Store)


def test_decorated_class(run: Run) -> None:
    @to_async
    class Node:
        def __init__(self, value: int) -> None:
            super().__init__()
            self.value = value

        def doubled(self) -> int:
            return self.half() * 4

        def half(self) -> int:
            return self.value // 2

    assert run(Node(4).doubled()) == 8

    class Mine(Node):
        async def more(self) -> int:
            return 1 + await self.doubled()

    assert run(Mine(4).more()) == 9

    class Unmade(Node):
        def __init__(self) -> None:
            pass

    with pytest.raises((RuntimeError, AttributeError)):
        Unmade().value


def test_unusual_classes(run: Run) -> None:
    class Slotted(Generic[T]):
        __slots__ = ("value",)

        def __init__(self, value: T) -> None:
            self.value = value

        def get(self) -> T:
            return self.value

    @dataclasses.dataclass(order=True)
    class Data:
        value: int = 1

        def get(self) -> int:
            return self.value

    class Abstract(abc.ABC):
        @abc.abstractmethod
        def get(self) -> int: ...

    class Concrete(Abstract):
        value = 1

        def get(self) -> int:
            return self.value

    class Colour(enum.Enum):
        RED = 1

        def get(self) -> int:
            return int(self.value)

    for face in (to_async(Slotted)[int](1), to_async(Data)(), to_async(Concrete)(), to_async(Colour)(1)):
        assert run(face.get()) == face.value == 1
    assert to_async(Data)(1) < to_async(Data)(2) and to_async(Data)(1) == to_async(Data)(1)
    with pytest.raises(TypeError, match="unhashable"):
        hash(to_async(Data)())
    with pytest.raises(TypeError, match="abstract"):
        to_async(Abstract)()


def test_a_real_blocking_client(run: Run, tmp_path: Any) -> None:
    async def main() -> list[Any]:
        connection = await to_async(sqlite3.Connection).on_pool(tmp_path / "db", check_same_thread=False)
        async with connection:
            await connection.execute("create table numbers (number integer)")
            await connection.executemany("insert into numbers values (?)", [(1,), (2,)])
        cursor = to_async(await connection.execute("select number from numbers"))
        rows = [row async for row in cursor]
        await connection.close()
        return rows

    assert run(main()) == [(1,), (2,)]
