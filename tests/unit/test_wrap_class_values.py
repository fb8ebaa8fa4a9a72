"""Faces of classes as values: in containers and streams, derived, compared, copied, pickled."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import copy
import enum
import gc
import pickle
import sys
import weakref
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import pytest
from harness import wait_for

import sidecar
from sidecar._wrappers import to_async, to_sync

T = TypeVar("T")
Run = Any


@pytest.fixture(params=[sidecar.run_sync, asyncio.run], ids=["bridge", "foreign loop"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.param


@to_async
class Node:
    def __init__(self, name: str = "") -> None:
        self.name = name

    def family(self, *others: Any) -> dict[str, Any]:
        return {"me": self, "all": [self, *others], "deep": [({"one": self},)]}

    def are_real(self, nodes: Any) -> bool:
        return all(type(each) is Node.__wrapped__ for each in nodes)

    def same(self, value: Any) -> Any:
        return value

    def walked(self) -> Iterator[Any]:
        said = yield self
        yield [said, self]

    @contextlib.contextmanager
    def held(self) -> Iterator[Any]:
        yield self

    def __iter__(self) -> Iterator[Any]:
        yield self


def test_faces_in_containers(run: Run) -> None:
    async def main() -> None:
        node, other = Node("a"), Node("b")
        family = await node.family(other)
        assert family["me"] is family["all"][0] is family["deep"][0][0]["one"] is node
        assert type(family["all"][1]) is Node and family["all"][1] == other
        assert await node.are_real([node, other]) and await node.are_real({1: node}.values()) is False
        data = [1, [2, (3, {"four": 5})]]
        ring: list[Any] = [data]
        ring.append(ring)
        # In which nothing changes: the very object.
        assert await node.same(data) is data and await node.same(ring) is ring

    run(main())


def test_faces_in_data() -> None:
    node, other = Node("a"), Node("b")
    node.next, node.all = other, [other]
    assert type(node.next) is Node and node.next == other
    # The list is the one that the object keeps.
    assert node.all is node.all and node.all == [other.__wrapped__]


def test_faces_out_of_generators_and_contexts(run: Run) -> None:
    async def main() -> None:
        node = Node("a")
        walk = node.walked()
        assert await walk.__anext__() is node
        said, again = await walk.asend(3)
        assert (said, again) == (3, node) and type(again) is Node
        with pytest.raises(StopAsyncIteration):
            await walk.__anext__()
        async with node.held() as held:
            assert held is node
        assert [each async for each in node] == [node]

    run(main())


class Animal:
    def name(self) -> str:
        return "animal"

    def friends(self) -> list[Animal]:
        return [Animal(), Dog()]


class Dog(Animal):
    def name(self) -> str:
        return super().name() + ", a dog"

    def bark(self) -> str:
        return "woof"


def test_the_face_of_a_derived_class_derives(run: Run) -> None:
    async def main() -> None:
        plain = to_async(Dog)
        animal, dog = to_async(Animal), to_async(Dog)
        assert issubclass(dog, animal) and isinstance(dog(), animal) and not issubclass(animal, dog)
        assert await dog().name() == "animal, a dog" and await dog().bark() == "woof"
        assert not issubclass(dog, to_sync(Animal))
        first, second = await animal().friends()
        assert type(first) is animal and isinstance(second, animal) and await second.name() == "animal, a dog"
        assert await plain().bark() == "woof"

    run(main())


def test_objects_come_out_as_the_nearest_face(run: Run) -> None:
    class Base:
        def made(self) -> list[Base]:
            return [Base(), Derived(), Other()]

    class Derived(Base):
        def own(self) -> int:
            return 1

    class Other(Base):
        pass

    base, derived = to_async(Base), to_async(Derived)

    async def main() -> None:
        one, two, three = await base().made()
        assert (type(one), type(two), type(three)) == (base, derived, base)
        assert await two.own() == 1

    run(main())


def test_classes_that_derive_from_a_face(run: Run) -> None:
    class Mine(Node):  # type: ignore[misc]
        def __init__(self, number: int) -> None:
            super().__init__(f"number {number}")

    async def main() -> None:
        mine = await Mine.on_pool(3)
        assert type(mine) is Mine and mine.name == "number 3"
        assert (await mine.family())["me"] is mine

    run(main())


def test_equal_and_hashed_by_the_object() -> None:
    node = Node("a")
    twin = copy.copy(node)
    assert node == node and node != twin and node != 3
    other = type(node).__sidecar_builder__.of(node.__wrapped__)
    assert other == node and other is not node and {node: 1}[other] == 1


def test_members_of_an_enumeration(run: Run) -> None:
    @to_async
    class Colour(enum.Enum):
        RED = 1

        def shown(self) -> str:
            return self.name.lower()

    async def main() -> None:
        assert await Colour.RED.shown() == "red"
        assert Colour.RED == Colour(1) and {Colour.RED: 3}[Colour(1)] == 3

    run(main())


@to_async
class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value


@to_async
class Rows(list[int]):
    def total(self) -> int:
        return sum(self)


@to_async
class Stateful:
    def __init__(self) -> None:
        self.state: Any = "new"

    def __getstate__(self) -> dict[str, Any]:
        return {"kept": self.state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = ["restored", state["kept"]]


def test_copied_and_pickled(run: Run) -> None:
    async def main() -> None:
        node = Node("a")
        node.children = ["b"]
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            back = pickle.loads(pickle.dumps(node, protocol))
            assert type(back) is Node and back.name == "a" and back.__wrapped__ is not node.__wrapped__
        shallow, deep = copy.copy(node), copy.deepcopy(node)
        assert shallow.children is node.children and deep.children is not node.children
        assert type(deep) is Node and (await deep.family())["me"] is deep
        assert pickle.loads(pickle.dumps(Slotted(3))).value == 3
        assert await pickle.loads(pickle.dumps(Rows([1, 2]))).total() == 3
        assert pickle.loads(pickle.dumps(Stateful())).state == ["restored", "new"]

    run(main())


def test_odd_relatives(run: Run) -> None:
    class Registered(abc.ABC):
        def other(self) -> Any:
            return Stranger()

    class Stranger:
        pass

    Registered.register(Stranger)

    class Unhashable(type):
        def __eq__(cls, other: object) -> bool:
            return cls is other

    class Odd(metaclass=Unhashable):
        def one(self) -> int:
            return 1

    async def main() -> None:
        assert type((await to_async(Registered)().other()).__wrapped__) is Stranger
        assert await to_async(Odd)().one() == 1

    run(main())


def test_generic() -> None:
    class Box(Generic[T]):
        def __init__(self, value: T) -> None:
            self.value = value

    face = to_async(Box)
    assert face[int].__origin__ is face and type(face[int](3)) is face
    assert to_async(Animal)[int] is not None  # whatever it is good for: as before


@pytest.mark.skipif(
    sys.version_info < (3, 14) and not getattr(sys, "_is_gil_enabled", lambda: True)(),
    reason="without a GIL CPython 3.13 keeps classes for good once there are threads",
)
def test_nothing_is_kept() -> None:
    def made() -> tuple[Any, Any]:
        class Local:
            pass

        with sidecar.Sidecar() as bridge:
            return weakref.ref(to_async(Local)), weakref.ref(to_async(Local, bridge=bridge))

    faces = made()
    wait_for(lambda: gc.collect() >= 0 and [face() for face in faces] == [None, None], "both are gone")


def test_a_class_has_one_face_of_a_side() -> None:
    class Local:
        pass

    with sidecar.Sidecar() as bridge:
        face, elsewhere = to_async(Local), to_async(Local, bridge=bridge)
        assert to_async(Local) is face and to_async(Local, bridge=bridge) is elsewhere
        assert len({face, elsewhere, to_sync(Local)}) == 3
