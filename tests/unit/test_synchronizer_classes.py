"""Synchronizer: classes, their proxies, and what these have for each side."""

from __future__ import annotations

import abc
import asyncio
import concurrent.futures
import contextlib
import dataclasses
import functools
import gc
import inspect
import threading
import typing
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, TypeVar

import pytest

from sidecar.synchronizer import Synchronizer, classproperty

T = TypeVar("T")
V = TypeVar("V")


@pytest.fixture
def sync() -> Iterator[Synchronizer]:
    made = Synchronizer()
    yield made
    made.close()


class Account:
    """Holds money."""

    def __init__(self, owner: str = "nobody") -> None:
        self.owner = owner
        self.balance = 0

    async def deposit(self, amount: int) -> int:
        """Put money in."""
        await asyncio.sleep(0.001)
        self.balance += amount
        return self.balance

    def peek(self) -> int:
        return self.balance

    async def itself(self) -> Account:
        return self

    async def give_to(self, other: Account) -> bool:
        return type(other) is Account

    @property
    def money(self) -> int:
        return self.balance

    @money.setter
    def money(self, value: int) -> None:
        self.balance = value

    @property
    async def slow_money(self) -> int:
        await asyncio.sleep(0.001)
        return self.balance

    @functools.cached_property
    def partner(self) -> Account:
        return Account("partner")

    @staticmethod
    async def rate(x: int) -> int:
        return x * 3

    @staticmethod
    def plain_rate(x: int) -> int:
        return x * 4

    @classmethod
    async def open(cls, owner: str) -> Account:
        assert cls is Account
        return cls(owner)

    @classmethod
    def plain_open(cls, owner: str) -> Account:
        assert cls is Account
        return cls(owner)

    @classproperty
    @classmethod
    def kind(cls) -> str:
        return cls.__name__

    @classproperty
    @classmethod
    async def slow_kind(cls) -> type[Account]:
        return cls

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Account) and other.owner == self.owner

    def __len__(self) -> int:
        return self.balance


def test_methods(sync: Synchronizer) -> None:
    wrapped = sync.wrap(Account)
    account = wrapped("ada")
    assert account.deposit(2) == 2
    assert asyncio.run(account.deposit.aio(3)) == 5
    assert account.deposit(1, _future=True).result(10) == 6
    assert account.deposit.future(1).result(10) == 7
    assert (account.peek(), len(account), account.money) == (7, 7, 7)
    assert wrapped.deposit(account, 1) == 8
    assert asyncio.run(wrapped.deposit.aio(account, 1)) == 9


def test_identity(sync: Synchronizer) -> None:
    wrapped = sync.wrap(Account)
    account = wrapped("ada")
    assert account.itself() is asyncio.run(account.itself.aio()) is account.itself.future().result(10) is account
    assert account.partner is account.partner
    assert type(account.partner) is wrapped
    assert account.give_to(wrapped())
    assert account == wrapped("ada")
    assert account != wrapped("eve")


def test_properties(sync: Synchronizer) -> None:
    account = sync.wrap(Account)()
    account.money = 4
    assert account.money == account.slow_money == 4
    with pytest.raises(AttributeError):
        account.slow_money = 3


def test_static_and_class_methods(sync: Synchronizer) -> None:
    wrapped = sync.wrap(Account)
    for holder in (wrapped, wrapped("x")):
        assert holder.rate(2) == asyncio.run(holder.rate.aio(2)) == holder.rate.future(2).result(10) == 6
        assert holder.plain_rate(2) == 8
        made = [holder.open("eve"), holder.plain_open("eve"), asyncio.run(holder.open.aio("eve"))]
        made.append(holder.open.future("eve").result(10))
        assert [type(each) for each in made] == [wrapped] * 4
    assert not hasattr(wrapped.plain_open, "aio")


def test_classproperty(sync: Synchronizer) -> None:
    wrapped = sync.wrap(Account)
    assert Account.kind == wrapped.kind == "Account"
    assert wrapped.slow_kind is wrapped
    with pytest.raises(TypeError, match="classproperty expects a classmethod"):
        classproperty(lambda cls: 1)


def test_how_it_looks(sync: Synchronizer) -> None:
    wrapped = sync.wrap(Account)
    assert (wrapped.__name__, wrapped.__doc__, wrapped.__module__) == ("BlockingAccount", "Holds money.", __name__)
    assert wrapped.deposit.__doc__ == wrapped.deposit.aio.__doc__ == wrapped().deposit.__doc__ == "Put money in."
    assert str(inspect.signature(wrapped)) == "(owner: 'str' = 'nobody') -> 'None'"
    assert list(inspect.signature(wrapped().deposit).parameters) == ["amount"]
    assert inspect.iscoroutinefunction(wrapped().deposit.aio)
    assert not inspect.iscoroutinefunction(wrapped.deposit)
    assert not hasattr(wrapped.peek, "aio")
    other = Synchronizer().wrap(Account, name="Account", target_module="public")
    assert (other.__name__, other.__module__) == ("Account", "public")


def test_bound_methods_are_values(sync: Synchronizer) -> None:
    account = sync.wrap(Account)()
    assert account.deposit == account.deposit
    assert hash(account.deposit) == hash(account.deposit)
    assert account.deposit != sync.wrap(Account)().deposit
    assert account.deposit.__name__ == "deposit"
    assert account.deposit.__self__ is account
    assert repr(account.deposit).startswith("<bound method Account.deposit of ")
    assert sync.is_synchronized(account.deposit)


def test_two_synchronizers_wrap_one_class(sync: Synchronizer) -> None:
    other = Synchronizer()
    first, second = sync.wrap(Account), other.wrap(Account)
    assert first is not second
    assert sync.translate_in(second) is second
    assert other.wrap(Account) is other.wrap(second) is second


def test_inheritance(sync: Synchronizer) -> None:
    class Savings(Account):
        async def deposit(self, amount: int) -> int:
            return await super().deposit(amount * 2)

        async def interest(self) -> int:
            return 1

    wrapped = sync.wrap(Savings)
    base = sync.wrap(Account)
    assert issubclass(wrapped, base)
    savings = wrapped("ada")
    assert isinstance(savings, base)
    assert (savings.deposit(2), savings.interest(), savings.peek()) == (4, 1, 4)
    assert asyncio.run(savings.deposit.aio(1)) == 6
    assert type(sync.translate_in(savings)) is Savings


def test_a_name_wants_named_bases(sync: Synchronizer) -> None:
    class Savings(Account):
        pass

    with pytest.raises(RuntimeError, match="needs to be wrapped explicitly, with a name of its own"):
        sync.wrap(Savings, name="Savings")
    sync.wrap(Account, name="Account")
    assert sync.wrap(Savings, name="Savings").__name__ == "Savings"


def test_a_users_subclass(sync: Synchronizer) -> None:
    base = sync.wrap(Account)
    seen: list[Any] = []

    class Mine(base):  # type: ignore
        def __init__(self) -> None:
            super().__init__("mine")
            self.extra = "kept"

        def twice(self) -> int:
            result: int = self.deposit(1) + self.deposit(1)
            return result

    async def keep(account: Account) -> None:
        seen.append(account)

    async def last() -> Account:
        account: Account = seen[-1]
        return account

    mine = Mine()
    assert mine.twice() == 3
    sync.wrap(keep)(mine)
    assert type(seen[0]) is Account
    del mine
    gc.collect()
    back = sync.wrap(last)()
    assert (type(back), back.extra) == (Mine, "kept")
    assert type(Mine.plain_open("x")) is base


def test_generics(sync: Synchronizer) -> None:
    class Box(Generic[T, V]):
        async def get(self) -> int:
            return 1

    class SubBox(Box[V, T]):
        pass

    wrapped, sub = sync.wrap(Box), sync.wrap(SubBox)
    assert typing.get_args(wrapped[str, float]) == (str, float)
    assert typing.get_args(sub[int, bool]) == (int, bool)
    assert wrapped[str, float]().get() == sub().get() == 1
    assert issubclass(sub, wrapped)


def test_abstract_classes(sync: Synchronizer) -> None:
    class Shape(abc.ABC):
        @abc.abstractmethod
        async def area(self) -> int: ...

    class Square(Shape):
        async def area(self) -> int:
            return 4

    with pytest.raises(TypeError, match="abstract"):
        sync.wrap(Shape)()
    assert sync.wrap(Square)().area() == 4


def test_slots_and_dataclasses(sync: Synchronizer) -> None:
    class Slotted:
        __slots__ = ("value",)

        def __init__(self, value: int) -> None:
            self.value = value

        async def itself(self) -> Slotted:
            return self

    slotted = sync.wrap(Slotted)(3)
    assert slotted.itself() is slotted

    @dataclasses.dataclass
    class Point:
        x: int

        async def get(self) -> int:
            return self.x

    point = sync.wrap(Point)(x=3)
    assert point.get() == 3
    assert point == sync.wrap(Point)(3)
    assert repr(point).endswith("Point(x=3)")


def test_async_getattr(sync: Synchronizer) -> None:
    class Remote:
        def __init__(self) -> None:
            self.__dict__["values"] = {}

        async def __getattr__(self, name: str) -> Any:
            await asyncio.sleep(0.001)
            return self.values[name]

        def __setattr__(self, name: str, value: Any) -> None:
            self.values[name] = value

    remote = sync.wrap(Remote)()
    remote.x = 3
    assert remote.x == asyncio.run(remote.__getattr__.aio("x")) == 3
    with pytest.raises(KeyError):
        remote.y


def test_nowrap(sync: Synchronizer) -> None:
    class Library:
        async def one(self) -> int:
            return 1

        @sync.nowrap
        def two(self) -> int:
            return self.one() + self.one()  # type: ignore

    assert sync.wrap(Library)().two() == 2


def test_no_translation_in_methods(sync: Synchronizer) -> None:
    class Library:
        @sync.no_io_translation
        async def echo(self, other: Any) -> Any:
            assert type(self) is Library
            return other, self

        @staticmethod
        @sync.no_input_translation
        def static(other: Any) -> bool:
            return type(other) is Library

    wrapped = sync.wrap(Library)
    proxy = wrapped()
    other, raw = proxy.echo(proxy)
    assert other is proxy
    assert type(raw) is Library
    assert not wrapped.static(proxy)


def test_hooks_and_destructors_are_the_objects_own(sync: Synchronizer) -> None:
    events: list[str] = []

    class Library:
        def __init_subclass__(cls) -> None:
            events.append(cls.__name__)

        def __del__(self) -> None:
            events.append(f"del {type(self).__name__}")

    class Sub(Library):
        pass

    wrapped = sync.wrap(Sub)
    assert events == ["Sub"]
    proxy = wrapped()
    gone = weakref.ref(proxy)
    del proxy
    gc.collect()
    assert gone() is None
    assert events == ["Sub", "del Sub"]


def test_not_an_instance(sync: Synchronizer) -> None:
    class Library:
        def method(self) -> None:
            raise ValueError(f"got {type(self).__name__}")

    with pytest.raises(ValueError, match="got str"):
        sync.wrap(Library).method("not one")


# -- protocols ----------------------------------------------------------------------


class Session:
    def __init__(self, suppress: bool = False) -> None:
        self.suppress = suppress
        self.tasks: list[Any] = []
        self.exits: list[Any] = []

    async def __aenter__(self) -> Session:
        self.tasks.append(asyncio.current_task())
        return self

    async def __aexit__(self, *exc_info: Any) -> bool:
        await asyncio.sleep(0.001)
        self.tasks.append(asyncio.current_task())
        self.exits.append(exc_info[0])
        return self.suppress


@pytest.mark.parametrize("side", ["sync", "async"])
def test_context_managers(sync: Synchronizer, side: str) -> None:
    wrapped = sync.wrap(Session)

    def run(session: Any, error: BaseException | None) -> None:
        if side == "sync":
            with session as value:
                assert value is session
                if error:
                    raise error
            return

        async def main() -> None:
            async with session as value:
                assert value is session
                if error:
                    raise error

        asyncio.run(main())

    session = wrapped()
    run(session, None)
    error = ValueError("body")
    with pytest.raises(ValueError) as raised:
        run(session, error)
    assert raised.value is error
    run(suppressing := wrapped(suppress=True), KeyError("x"))
    real = sync.translate_in(session)
    assert real.exits == [None, ValueError]
    assert sync.translate_in(suppressing).exits == [KeyError]
    # One task for each stay, so cancel scopes and task groups work in it.
    assert real.tasks[0] is real.tasks[1] is not real.tasks[2]
    assert real.tasks[2] is real.tasks[3]


def test_each_thread_leaves_its_own_stay(sync: Synchronizer) -> None:
    session = sync.wrap(Session)()
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with session:
            inside.set()
            leave.wait(20)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with session:
            future = pool.submit(other)
            assert inside.wait(20)
        leave.set()
        future.result(20)
    tasks = sync.translate_in(session).tasks  # first in, second in, first out, second out
    assert tasks[0] is tasks[2] is not tasks[1]
    assert tasks[1] is tasks[3]


def test_a_stay_is_left_by_the_other_side(sync: Synchronizer) -> None:
    session = sync.wrap(Session)()
    asyncio.run(session.__aenter__())
    session.__exit__(None, None, None)
    real = sync.translate_in(session)
    assert real.tasks[0] is real.tasks[1]


def test_closing_leaves_what_was_entered(sync: Synchronizer) -> None:
    session = sync.wrap(Session)()
    session.__enter__()
    sync.close()
    assert sync.translate_in(session).exits == [asyncio.CancelledError]


def test_errors_of_entering_and_leaving(sync: Synchronizer) -> None:
    class Broken:
        async def __aenter__(self) -> None:
            raise LookupError("enter")

        async def __aexit__(self, *exc_info: Any) -> None: ...

    class BrokenEnd:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *exc_info: Any) -> None:
            raise LookupError("exit")

    with pytest.raises(LookupError, match="enter"):
        with sync.wrap(Broken)():
            pytest.fail("entered")
    with pytest.raises(LookupError, match="exit") as raised:
        with sync.wrap(BrokenEnd)():
            raise ValueError("body")
    assert isinstance(raised.value.__context__, ValueError)


class Numbers:
    """Iterates itself, by a generator that belongs to the loop."""

    def __init__(self, end: int = 3) -> None:
        self.end = end
        self.closed = False

    def __aiter__(self) -> Numbers:
        self._numbers = self._make()
        return self

    async def _make(self) -> AsyncIterator[int]:
        for number in range(self.end):
            await asyncio.sleep(0.001)
            yield number

    def __anext__(self) -> Any:  # no coroutine function: what it returns is awaited
        return self._numbers.__anext__()

    async def aclose(self) -> None:
        self.closed = True


class GeneratedNumbers:
    async def __aiter__(self) -> AsyncIterator[Numbers]:
        for _ in range(2):
            yield Numbers()


def test_iteration(sync: Synchronizer) -> None:
    wrapped = sync.wrap(Numbers)

    async def collect(source: Any) -> list[Any]:
        return [item async for item in source]

    assert list(wrapped()) == asyncio.run(collect(wrapped())) == [0, 1, 2]
    numbers = wrapped()
    assert iter(numbers) is numbers
    assert next(numbers) == 0
    assert asyncio.run(numbers.__anext__()) == 1
    numbers.close()
    assert sync.translate_in(numbers).closed
    assert next(wrapped(0).__iter__(), "end") == "end"
    asyncio.run(wrapped().aclose())
    generated = sync.wrap(GeneratedNumbers)
    assert {type(item) for item in generated()} == {wrapped}
    assert {type(item) for item in asyncio.run(collect(generated()))} == {wrapped}


def test_methods_that_make_context_managers(sync: Synchronizer) -> None:
    class Library:
        @contextlib.asynccontextmanager
        async def lend(self, fail: bool = False) -> AsyncIterator[Library]:
            if fail:
                raise LookupError("fails")
            yield self

    library = sync.wrap(Library)()
    with library.lend() as lent:
        assert lent is library
    with pytest.raises(LookupError):
        with library.lend(fail=True):
            pytest.fail("entered")

    async def main() -> None:
        async with library.lend() as lent:
            assert lent is library
        async with library.lend.aio() as lent:
            assert lent is library

    asyncio.run(main())
