"""An error that several have: pruned for one, it stays whole for the others; raised on all their threads at once."""

from __future__ import annotations

import asyncio
import subprocess
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import pytest

import sidecar
from sidecar import _core
from sidecar._support import ERRORS_RACE, PACKAGE_FOLDER, copy_error

SECONDS = 2.0


@pytest.fixture
def bridge() -> Iterator[sidecar.Sidecar]:
    with sidecar.Sidecar(workers=2, name="shared") as bridge:
        yield bridge


def function_of_ours() -> Callable[[Callable[[], Any]], Any]:
    """It calls what it is given, in a frame that counts as the package's."""
    source = "def pass_on(function):\n    return function()\n"
    scope: dict[str, Any] = {}
    exec(compile(source, PACKAGE_FOLDER + "made_up.py", "exec"), scope)
    made: Callable[[Callable[[], Any]], Any] = scope["pass_on"]
    return made


pass_on = function_of_ours()


def fail() -> None:
    raise LookupError("shared")


def by_way_of_ours() -> None:
    pass_on(fail)


def three_times() -> None:
    pass_on(lambda: pass_on(by_way_of_ours))


def names(entry: TracebackType | None) -> list[str]:
    return [frame.f_code.co_name for frame, _ in traceback.walk_tb(entry)]


def lines(entry: TracebackType | None) -> list[tuple[str, int]]:
    return [(frame.f_code.co_name, line) for frame, line in traceback.walk_tb(entry)]


def raised(function: Callable[[], Any]) -> BaseException:
    """What it raises, with a traceback that begins in the function."""
    try:
        function()
    except LookupError as error:
        assert error.__traceback__ is not None
        return error.with_traceback(error.__traceback__.tb_next)
    raise AssertionError("nothing was raised")


# -- taking frames out of a traceback ---------------------------------------------


@pytest.mark.parametrize(
    ("function", "kept"),
    [
        (fail, ["fail"]),
        (by_way_of_ours, ["by_way_of_ours", "fail"]),
        (three_times, ["three_times", "<lambda>", "by_way_of_ours", "fail"]),
        (lambda: pass_on(lambda: None) or fail(), ["<lambda>", "fail"]),
    ],
)
def test_only_frames_of_ours_go(function: Callable[[], Any], kept: list[str]) -> None:
    error = raised(function)
    expected = [entry for entry in lines(error.__traceback__) if entry[0] != "pass_on"]
    _core.prune(error)
    assert names(error.__traceback__) == kept
    assert lines(error.__traceback__) == expected
    left = error.__traceback__
    _core.prune(error)
    assert error.__traceback__ is left, "with nothing to take out, nothing is copied"


def test_frames_of_ours_at_the_beginning_and_at_the_end() -> None:
    error = raised(by_way_of_ours)
    whole = error.__traceback__
    assert whole is not None
    error.__traceback__ = whole.tb_next
    assert names(error.__traceback__) == ["pass_on", "fail"]
    _core.prune(error)
    assert whole.tb_next is not None
    assert error.__traceback__ is whole.tb_next.tb_next, "what follows the last of them is no copy"

    def last() -> None:
        pass_on(3)  # type: ignore[arg-type]

    with pytest.raises(TypeError) as caught:
        last()
    assert names(caught.value.__traceback__)[-2:] == ["last", "pass_on"]
    _core.prune(caught.value)
    assert names(caught.value.__traceback__)[-1] == "last"


def test_with_none_left_and_with_none_at_all() -> None:
    with pytest.raises(TypeError) as caught:
        pass_on(3)  # type: ignore[arg-type]
    error = caught.value
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next
    assert names(error.__traceback__) == ["pass_on"]
    for _ in range(2):
        _core.prune(error)
        assert error.__traceback__ is None


def test_only_exceptions_have_a_traceback() -> None:
    with pytest.raises(TypeError, match="needs an exception, not 3"):
        _core.prune(3)  # type: ignore[arg-type]


def test_entries_that_others_have_are_left_as_they_are() -> None:
    error = raised(three_times)
    theirs = error.__traceback__
    before = lines(theirs)
    assert names(theirs).count("pass_on") == 3
    _core.prune(error)
    assert "pass_on" not in names(error.__traceback__)
    assert lines(theirs) == before


def test_the_view_that_a_coroutine_has_of_its_error_stays(bridge: sidecar.Sidecar) -> None:
    seen: list[TracebackType | None] = []

    async def call() -> None:
        try:
            pass_on(fail)
        except LookupError as error:
            seen.append(error.__traceback__)
            raise

    error = raised(lambda: bridge.run_sync(call()))
    assert names(error.__traceback__) == ["<lambda>", "call", "fail"]
    assert names(seen[0]) == ["call", "pass_on", "fail"]


# -- a copy of an exception ----------------------------------------------------------


class Custom(OSError):
    """Slots, fields in C, and an ``__init__`` that its ``args`` do not fit."""

    __slots__ = ("code", "unset")

    def __init__(self, number: int, text: str, *, code: int) -> None:
        super().__init__(number, text, "name")
        self.code = code
        self.notes = [code]


class Odd(Exception):
    made = 0

    def __new__(cls, one: int) -> Odd:
        return super().__new__(cls, one, "more")

    def __init__(self, one: int) -> None:
        Odd.made += 1


EXCEPTIONS = [
    Custom(2, "text", code=3),
    Odd(1),
    KeyError("key"),
    Exception(),
    SystemExit(4),
    StopIteration(5),
    ImportError("text", name="name", path="path"),
    SyntaxError("text", ("file", 1, 2, "line")),
    UnicodeDecodeError("utf-8", b"ab", 0, 1, "reason"),
]


@pytest.mark.parametrize("error", EXCEPTIONS, ids=lambda error: type(error).__name__)
def test_a_copy_of_an_exception_is_its_like(error: BaseException) -> None:
    made = Odd.made
    try:
        try:
            raise ValueError("context")
        except ValueError:
            raise error
    except BaseException:
        pass
    copy = copy_error(error)
    assert copy is not error and type(copy) is type(error)
    assert Odd.made == made, "no __init__ is run"
    assert str(copy) == str(error) and repr(copy) == repr(error)
    assert vars(copy) == vars(error) and vars(copy) is not vars(error)
    for name in dir(error):
        value = getattr(error, name, None)
        assert callable(value) or getattr(copy, name, None) == value, name
    assert error.__traceback__ is not None and copy.__traceback__ is error.__traceback__
    assert error.__context__ is not None and copy.__context__ is error.__context__
    error.__traceback__ = None
    assert copy.__traceback__ is not None


@pytest.mark.parametrize("cause", [None, ValueError("cause")])
@pytest.mark.parametrize("suppressed", [True, False])
def test_a_copy_has_the_same_cause(cause: BaseException | None, suppressed: bool) -> None:
    error = LookupError()
    error.__cause__ = cause
    error.__suppress_context__ = suppressed
    copy = copy_error(error)
    assert (copy.__cause__, copy.__suppress_context__) == (cause, suppressed)


# -- several threads -------------------------------------------------------------------


def test_who_asks_for_a_resource_that_cannot_be_made(bridge: sidecar.Sidecar) -> None:
    """All get the factory's error; where CPython cannot raise one on several threads, each a copy of it."""
    error = Custom(2, "text", code=3)

    async def factory() -> None:
        raise error

    resource = sidecar.resource(factory, bridge=bridge)

    async def ask() -> None:
        await resource

    async def both() -> list[Any]:
        return await asyncio.gather(ask(), ask(), return_exceptions=True)

    found = bridge.run_sync(both())
    assert [(type(one), str(one), one.code) for one in found] == [(Custom, str(error), 3)] * 2
    assert len({id(one) for one in [error, *found]}) == (3 if ERRORS_RACE else 1)


STORM = """
import sys, threading, time
import sidecar

bridge = sidecar.Sidecar()
resources = []

def add(number):
    async def factory():
        if number:
            await resources[number - 1]
        raise LookupError("shared")
    resources.append(sidecar.resource(factory, bridge=bridge))

def deep(levels, resource):
    if levels:
        deep(levels - 1, resource)
    else:
        resource.get()

def caller(number):
    while time.monotonic() < end:
        try:
            deep(20, resources[number])
        except LookupError as caught:
            assert type(caught) is LookupError and caught.args == ("shared",)
            counts[number] += 1

for number in range(6):
    add(number)
counts = [0] * len(resources)
end = time.monotonic() + float(sys.argv[1])
threads = [threading.Thread(target=caller, args=(number,)) for number in range(len(counts))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert min(counts) > 10, counts
print("all raised it")
"""


def test_threads_that_raise_it_at_once(
    run_script: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    # Memory is at stake: in a process of its own.
    done = run_script(STORM, str(SECONDS))
    assert done.returncode == 0 and done.stdout == "all raised it\n", (done.returncode, done.stdout, done.stderr)
