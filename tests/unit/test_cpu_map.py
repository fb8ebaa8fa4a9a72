"""``map()``: order, bounds, ends."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import wait_for
from requested import call
from unit import cpu_work as work
from unit.cpu_bridges import ENGINES, bridge_on, tracker, warm  # noqa: F401

import sidecar


@pytest.fixture(params=ENGINES, scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[sidecar.Sidecar]:
    with bridge_on(request.param) as made:
        warm(made)
        yield made


class Items:
    """Counts what is taken of it."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.taken = 0

    def __iter__(self) -> Items:
        return self

    def __next__(self) -> int:
        if not self.left:
            raise StopIteration
        self.left -= 1
        self.taken += 1
        return self.taken


def test_in_order(shared: sidecar.Sidecar) -> None:
    assert list(shared.map(work.add, range(100))) == list(range(100))
    assert list(shared.map(work.add, [])) == []


def test_bounded_in_flight(shared: sidecar.Sidecar) -> None:
    items = Items(50)
    results = shared.map(work.add, items, in_flight=3)
    assert items.taken == 0, "it begins with the first result"
    assert next(results) == 1 and items.taken == 3
    assert next(results) == 2 and items.taken == 4
    assert list(results) == list(range(3, 51))
    assert next(shared.map(work.add, default := Items(50))) == 1 and default.taken == 4, "two for each worker"


def test_an_error_cancels_the_rest(shared: sidecar.Sidecar) -> None:
    items = Items(50)
    results = shared.map(work.fail, items, in_flight=2)  # type: ignore[arg-type]
    with pytest.raises(work.Failure):
        next(results)
    assert items.taken == 2
    with pytest.raises(StopIteration):
        next(results)
    wait_for(lambda: shared.stats()["cpu_queued"] == 0, "nothing waits")


def test_an_error_of_the_items(shared: sidecar.Sidecar) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError("announced")

    with pytest.raises(LookupError):
        list(shared.map(work.add, items()))


def test_closing_it_cancels_the_rest(tmp_path: Path) -> None:
    for engine in ("threads", "processes"):
        with bridge_on(engine, 1) as bridge:
            folder = tmp_path / engine
            folder.mkdir()
            (folder / "one.go").touch()
            names = ["one", "two", "three", "four"]
            results = bridge.map(work.Named(str(folder)), names, in_flight=4)
            assert next(results) == "one"
            wait_for((folder / "two.begun").exists, "the second has begun")
            results.close()
            assert bridge.stats()["cpu_queued"] == 0 and bridge.stats()["cpu_orphans"] == 1
            (folder / "two.go").touch()
            wait_for(lambda: bridge.stats()["cpu_orphans"] == 0, "it has ended")  # noqa: B023
            assert not (folder / "three.begun").exists()


def test_more_than_the_queue_takes() -> None:
    with bridge_on("threads", 1, max_queue=1) as bridge:
        assert list(bridge.map(work.add, range(50), in_flight=20)) == list(range(50))


def test_each_call_is_the_requests(shared: sidecar.Sidecar) -> None:
    def view() -> Any:
        return list(shared.map(work.current_id, range(5))), sidecar.current()

    found, request = call(view)
    assert found == [request.id] * 5


def test_the_deadline_ends_it(shared: sidecar.Sidecar, tmp_path: Path) -> None:
    def view() -> None:
        with pytest.raises(sidecar.DeadlineExceeded):
            list(shared.map(work.Named(str(tmp_path)), ["one", "two"]))

    call(view, deadline=0.3)
    for name in ("one", "two"):
        (tmp_path / f"{name}.go").touch()
    wait_for(lambda: shared.stats()["cpu_orphans"] == 0, "what had begun has ended")


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "2"])
def test_wrong_bounds(shared: sidecar.Sidecar, wrong: Any) -> None:
    with pytest.raises(ValueError, match="in_flight must be a whole number from 1 on"):
        shared.map(work.add, [], in_flight=wrong)


def test_no_function(shared: sidecar.Sidecar) -> None:
    with pytest.raises(TypeError, match=r"map\(\) takes a function"):
        shared.map(None, [])  # type: ignore[arg-type]


# -- progress -----------------------------------------------------------------------------


class Bar:
    made: list[Bar] = []

    def __init__(self, total: int | None, desc: str) -> None:
        self.total, self.desc, self.count, self.closed = total, desc, 0, False
        Bar.made.append(self)

    def update(self, more: int) -> None:
        self.count += more

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    module = types.ModuleType("tqdm.auto")
    module.tqdm = Bar  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tqdm.auto", module)
    monkeypatch.setattr(Bar, "made", [])
    return Bar.made


def test_a_bar(shared: sidecar.Sidecar, bars: list[Bar]) -> None:
    assert list(shared.map(work.add, range(7), progress=True)) == list(range(7))
    bar = Bar.made[0]
    assert (bar.total, bar.desc, bar.count, bar.closed) == (7, "add", 7, True)
    results = shared.map(work.add, iter(range(7)), progress=True)
    next(results)
    results.close()
    assert (Bar.made[1].total, Bar.made[1].count, Bar.made[1].closed) == (None, 1, True)


def test_without_tqdm_the_log_says_so_once(
    shared: sidecar.Sidecar, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from sidecar.cpu import map as module

    monkeypatch.setattr(module, "_said", False)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with caplog.at_level(logging.WARNING, "sidecar"):
        for _ in range(2):
            assert list(shared.map(work.add, range(3), progress=True)) == [0, 1, 2]
    assert caplog.text.count("tqdm is not installed") == 1
