"""``to_async`` and ``to_sync`` of functions: what they look like, where they run, what they refuse."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import sys
import threading
import traceback
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

import sidecar
from sidecar._wrappers import to_async, to_sync

Run = Callable[[Coroutine[Any, Any, Any]], Any]
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

# asyncio's is deprecated on 3.14, and is inspect's since then.
is_coroutine_function = (
    asyncio.iscoroutinefunction if sys.version_info < (3, 14) else inspect.iscoroutinefunction
)


@pytest.fixture(params=["bridge", "foreign loop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on the bridge's loop, or on a plain one of asyncio's."""
    return sidecar.run_sync if request.param == "bridge" else asyncio.run


def blocking(number: int, *, base: int = 10) -> tuple[int, bool]:
    """Multiply."""
    return number * base, threading.current_thread() is not threading.main_thread()


async def fetching(number: int, *, base: int = 10) -> int:
    """Multiply."""
    await asyncio.sleep(0)
    return number * base


class Callable_:
    def __call__(self, number: int) -> int:
        return number + 1


class AsyncCallable:
    async def __call__(self, number: int) -> int:
        return number + 1


class Case:
    factor = 3

    def plain(self, number: int) -> int:
        return number * self.factor

    async def coroutine(self, number: int) -> int:
        return number * self.factor

    @to_async
    def blocking(self, number: int) -> int:
        return number * self.factor

    @to_sync
    async def waiting(self, number: int) -> int:
        return await self.coroutine(number)

    @to_async
    @classmethod
    def of_class(cls, number: int) -> int:
        return number * cls.factor

    @to_sync(timeout=5)
    @staticmethod
    async def static(number: int) -> int:
        return number

    fetch = to_sync(coroutine)

    @to_async
    def items(self, end: int) -> Iterator[int]:
        yield from range(end * self.factor)

    @to_sync
    async def stream(self, end: int) -> AsyncIterator[int]:
        for number in range(end * self.factor):
            yield number


# -- functions --------------------------------------------------------------------


def test_function_runs_on_the_pool(run: Run) -> None:
    assert run(to_async(blocking)(4, base=2)) == (8, True)


def test_coroutine_function_runs_on_the_bridge() -> None:
    assert to_sync(fetching)(4, base=2) == 8
    loop = to_sync(lambda: current_loop())
    assert loop() is sidecar.get_bridge().get_loop()


async def current_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


@pytest.mark.parametrize("wrap", [to_async, to_sync])
def test_face_looks_like_its_original(wrap: Any) -> None:
    original: Any = blocking if wrap is to_async else fetching
    face = wrap(original)
    assert face is not original
    assert (face.__name__, face.__qualname__, face.__doc__, face.__module__) == (
        original.__name__,
        original.__qualname__,
        "Multiply.",
        __name__,
    )
    assert face.__wrapped__ is original
    assert inspect.signature(face) == inspect.signature(original)
    assert inspect.signature(face).parameters["base"].default == 10


def test_kind_of_each_face() -> None:
    assert inspect.iscoroutinefunction(to_async(blocking)) and is_coroutine_function(to_async(blocking))
    assert not inspect.iscoroutinefunction(to_sync(fetching)) and not is_coroutine_function(to_sync(fetching))
    assert inspect.iscoroutinefunction(Case().blocking) and not inspect.iscoroutinefunction(Case().waiting)
    # There and back: what one face is marked with is not handed down to the next.
    back = to_sync(to_async(blocking))
    assert not inspect.iscoroutinefunction(back) and not is_coroutine_function(back)
    assert inspect.iscoroutinefunction(to_async(back))

    def numbers() -> Iterator[int]:
        yield 1

    face = to_async(numbers)
    assert inspect.isasyncgenfunction(face) and not inspect.iscoroutinefunction(face)
    assert not inspect.isasyncgenfunction(to_sync(face)) and not inspect.isgeneratorfunction(face)
    assert (face.__qualname__, face().__qualname__) == (numbers.__qualname__,) * 2


def test_methods(run: Run) -> None:
    case = Case()
    assert run(case.blocking(2)) == run(Case.of_class(2)) == run(case.of_class(2)) == 6
    assert case.waiting(2) == case.fetch(2) == to_sync(case.coroutine)(2) == 6
    assert Case.static(2) == case.static(2) == 2
    assert run(to_async(case.plain)(5)) == 15
    assert to_async(case.plain).__wrapped__ == case.plain
    assert list(case.stream(1)) == [0, 1, 2] == run(collected(case.items(1)))
    assert list(inspect.signature(case.blocking).parameters) == ["number"]


async def collected(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


def test_partials_callables_builtins(run: Run) -> None:
    assert run(to_async(functools.partial(blocking, 3))(base=2)) == (6, True)
    assert to_async(functools.partial(blocking, 3)).__name__ == "blocking"
    assert run(to_async(Callable_())(1)) == 2
    assert run(to_async(len)("four")) == run(to_async("four".__len__)()) == 4
    assert run(to_async(sorted)([2, 1], reverse=False)) == [1, 2]
    assert to_sync(functools.partial(fetching, 3))(base=2) == 6
    assert to_sync(AsyncCallable())(1) == 2
    assert to_sync(lambda: fetching(2))() == 20
    assert to_sync(asyncio.sleep)(0, "slept") == "slept"

    def iterator() -> AsyncIterator[int]:
        return Case.stream.__wrapped__(Case(), 1)  # type: ignore[attr-defined, no-any-return]

    assert list(to_sync(iterator)()) == [0, 1, 2]


def test_names_of_our_own_arguments_are_free(run: Run) -> None:
    def blocked(context: int, fn: int, bridge: int, timeout: int) -> int:
        return context + fn + bridge + timeout

    async def streamed(source: int, prefetch: int, context: int) -> AsyncIterator[int]:
        yield source + prefetch + context

    assert run(to_async(blocked)(context=1, fn=2, bridge=3, timeout=4)) == 10
    assert list(to_sync(streamed)(source=1, prefetch=2, context=3)) == [6]


def test_async_already_is_returned_as_it_is() -> None:
    @contextlib.asynccontextmanager
    async def context() -> AsyncIterator[None]:
        yield

    generator = to_async(iter([]))
    for obj in (fetching, AsyncCallable(), functools.partial(fetching, 1), Case.stream.__wrapped__, context):  # type: ignore[attr-defined]
        assert to_async(obj) is obj
    manager = context()
    assert to_async(manager) is manager and to_async(generator) is generator
    assert to_async(to_async(blocking)).__wrapped__ is blocking


def test_decorator_with_arguments() -> None:
    with sidecar.Sidecar(name="mine") as bridge:

        @to_async(bridge=bridge)
        def where() -> str:
            with open(f"/proc/self/task/{threading.get_native_id()}/comm") as file:
                return file.read()

        @to_sync(bridge=bridge, timeout=0.01)
        async def late() -> None:
            await asyncio.sleep(60)

        @to_sync(bridge=bridge)
        async def loop() -> asyncio.AbstractEventLoop:
            return asyncio.get_running_loop()

        assert bridge.run_sync(where()).startswith("mine")
        assert asyncio.run(where()).startswith("mine")
        assert loop() is bridge.get_loop()
        with pytest.raises(sidecar.CallTimeoutError, match="late"):
            late()
        assert not sidecar.is_running()
    with pytest.raises(sidecar.BridgeClosedError):
        loop()
    with pytest.raises(sidecar.BridgeClosedError):
        asyncio.run(where())


def test_default_bridge_is_looked_up_at_each_call() -> None:
    face, back = to_async(blocking), to_sync(fetching)
    for _ in range(2):
        assert sidecar.run_sync(face(1)) == (10, True) and back(1) == 10
        sidecar.shutdown()


def test_both_directions_nested(run: Run) -> None:
    def down(depth: int) -> int:
        return up(depth - 1) if depth else 0

    async def climb(depth: int) -> int:
        return 1 + await below(depth)

    below, up = to_async(down), to_sync(climb)
    assert run(climb(5)) == 6
    assert up(5) == 6


# -- errors -----------------------------------------------------------------------


def frames_of(error: BaseException) -> list[str]:
    return [
        entry.name
        for entry in traceback.extract_tb(error.__traceback__)
        if "/sidecar/_wrap" in entry.filename
    ]


@pytest.mark.parametrize("kind", ["function", "generator", "coroutine", "stream"])
def test_errors_arrive_as_raised(kind: str, run: Run) -> None:
    error = LookupError("mine")

    def innermost() -> None:
        raise error

    def steps() -> Iterator[int]:
        yield 1
        innermost()

    async def wait() -> None:
        innermost()

    async def astep() -> AsyncIterator[int]:
        yield 1
        innermost()

    faces: dict[str, Callable[[], object]] = {
        "function": lambda: run(to_async(innermost)()),
        "generator": lambda: run(collected(to_async(steps)())),
        "coroutine": lambda: to_sync(wait)(),
        "stream": lambda: list(to_sync(astep)()),
    }
    with pytest.raises(LookupError) as caught:
        faces[kind]()
    assert caught.value is error
    assert traceback.extract_tb(error.__traceback__)[-1].name == "innermost"
    if sys.version_info >= (3, 11):
        assert frames_of(error) == []


def test_wrong_arguments(run: Run) -> None:
    with pytest.raises(TypeError, match="blocking.*base2"):
        run(to_async(blocking)(1, base2=2))
    with pytest.raises(TypeError, match="fetching.*base2"):
        to_sync(fetching)(1, base2=2)
    with pytest.raises(TypeError, match="3"):
        run(collected(to_async(Case.items.__wrapped__)(1, 2, 3)))  # type: ignore[attr-defined]


def test_stop_iteration_becomes_a_runtime_error(run: Run) -> None:
    # As in a coroutine, which cannot raise it either.
    with pytest.raises(RuntimeError, match="StopIteration"):
        run(asyncio.wait_for(to_async(next)(iter(())), 10))


@pytest.mark.parametrize("obj", [3, None, "text", [1], property(lambda self: 1)])
@pytest.mark.parametrize("wrap", [to_async, to_sync])
def test_what_is_neither(wrap: Any, obj: object) -> None:
    with pytest.raises(TypeError, match=rf"{wrap.__name__}\(\) takes .* not "):
        wrap(obj)
    with pytest.raises(TypeError, match="bridge=3.*sidecar.Sidecar"):
        wrap(blocking, bridge=3)


@pytest.mark.parametrize("wrap", [to_async, to_sync])
def test_coroutine_in_place_of_its_function_is_closed(wrap: Any) -> None:
    coroutine = fetching(1)
    with pytest.raises(TypeError, match=rf"write {wrap.__name__}\(fetching\)"):
        wrap(coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def test_what_is_sync_already() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="numbers.. is sync already"):
        to_sync(numbers)
    with pytest.raises(TypeError, match=r"blocking\(\).*returned \(10, False\).*needs no wrapper"):
        to_sync(blocking)(1)
    with pytest.raises(TypeError, match="run_sync"):
        to_sync(asyncio.run(future()))


async def future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


def test_timeout_is_for_functions() -> None:
    for obj in (Case.stream.__wrapped__, Case.stream.__wrapped__(Case(), 1), contextlib.AsyncExitStack()):  # type: ignore[attr-defined]
        with pytest.raises(TypeError, match="time-out is for calls of async functions"):
            to_sync(obj, timeout=1)


# -- contexts ---------------------------------------------------------------------


def test_job_sees_a_copy_of_the_context(run: Run) -> None:
    def change() -> str:
        seen = variable.get()
        variable.set("changed on the pool")
        return seen

    async def main() -> list[str]:
        variable.set("mine")
        return [await to_async(change)(), await to_async(change)(), variable.get()]

    assert run(main()) == ["mine"] * 3


def test_coroutine_sees_a_copy_of_the_callers_context() -> None:
    async def change() -> str:
        seen = variable.get()
        variable.set("changed on the loop")
        return seen

    def main() -> list[str]:
        variable.set("mine")
        return [to_sync(change)(), to_sync(change)(), variable.get()]

    assert contextvars.copy_context().run(main) == ["mine"] * 3


# -- lifetimes --------------------------------------------------------------------


def test_survives_a_fork(run_script: Callable[..., Any]) -> None:
    done = run_script(
        """
        import os
        import sidecar
        from sidecar._wrappers import to_async, to_sync

        pid = to_async(os.getpid)

        @to_sync
        async def where():
            return await pid()

        assert where() == os.getpid()
        child = os.fork()
        if child == 0:
            os._exit(0 if where() == os.getpid() else 1)
        print(os.waitpid(child, 0)[1])
        """
    )
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr


@pytest.mark.parametrize("kind", ["function", "generator", "context"])
def test_on_the_loop_itself(kind: str) -> None:
    """To wait there would be for ever. Nothing is left behind that was "never awaited"."""
    faces: dict[str, Callable[[], object]] = {
        "function": lambda: to_sync(fetching)(1),
        "generator": lambda: list(Case().stream(1)),
        "context": lambda: to_sync(contextlib.AsyncExitStack()).__enter__(),
    }

    async def main() -> None:
        with pytest.raises(sidecar.DeadlockError, match="async with" if kind == "context" else "Await it there"):
            faces[kind]()

    sidecar.run_sync(main())


def test_faces_are_functions() -> None:
    assert all(
        isinstance(face, types.FunctionType) for face in (to_async(len), to_sync(fetching), Case.items)
    )
