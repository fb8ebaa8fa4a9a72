"""sidecar.compat.synchronicity: its own names and messages, and what a bridge adds to its own tests."""

from __future__ import annotations

import asyncio
import contextvars
import os
import pickle
import signal
import sys
import threading
import typing
import warnings
from collections.abc import AsyncGenerator, Iterator
from types import FrameType
from typing import Any

import pytest

from sidecar.compat.synchronicity import Synchronizer, annotations, classproperty, exceptions
from sidecar.compat.synchronicity.async_utils import NestedEventLoops, Runner
from sidecar.compat.synchronicity.async_wrap import asynccontextmanager, is_coroutine_function_follow_wrapped
from sidecar.compat.synchronicity.combined_types import FunctionWithAio, MethodWithAio
from sidecar.compat.synchronicity.overload_tracking import get_overloads, patched_overload
from sidecar.errors import DeadlockError

tenant = contextvars.ContextVar("tenant", default="nobody")


@pytest.fixture
def sync() -> Iterator[Synchronizer]:
    made = Synchronizer()
    yield made
    made._close_loop()


async def double(x: int) -> int:
    await asyncio.sleep(0.001)
    return 2 * x


class Impl:
    @staticmethod
    async def of_nobody(x: int) -> int:
        return x

    @classproperty
    @classmethod
    def kind(cls) -> str:
        return cls.__name__

    async def itself(self) -> Impl:
        return self


# -- names --------------------------------------------------------------------------------


def test_names_in_use(sync: Synchronizer) -> None:
    assert sync._loop is sync._get_loop() is sync._thread is None
    loop = sync._start_loop()
    assert sync._loop is sync._get_loop() is sync._get_loop(start=True) is loop
    assert isinstance(sync._thread, threading.Thread)
    outside = sync.create_blocking(Impl)()
    inside = sync._translate_in(outside)
    assert type(inside) is Impl and sync._translate_out([inside]) == [outside]
    sync._asyncgen_finalizer_timeout_seconds = 0.5
    assert sync._asyncgen_finalizer_timeout_seconds == sync.finalizer_timeout == 0.5
    assert pickle.loads(pickle.dumps(sync)).finalizer_timeout == 0.5
    sync._close_loop()
    assert sync._loop is sync._thread is None


def test_kinds_of_faces(sync: Synchronizer) -> None:
    face, wrapped = sync.wrap(double), sync.wrap(Impl)
    assert isinstance(face, FunctionWithAio) and not isinstance(double, FunctionWithAio)
    assert isinstance(vars(wrapped)["of_nobody"], FunctionWithAio)
    assert isinstance(vars(wrapped)["itself"], MethodWithAio)
    assert not is_coroutine_function_follow_wrapped(face) and is_coroutine_function_follow_wrapped(face.aio)
    assert wrapped.of_nobody(3) == wrapped().of_nobody(3) == asyncio.run(wrapped.of_nobody.aio(3)) == 3
    assert wrapped.kind == "Impl"

    made: Any = FunctionWithAio(lambda: "sync", double, sync)
    assert made() == "sync" and asyncio.run(made.aio(2)) == 4

    class Holder:
        both = MethodWithAio(lambda self: self, sync.wrap(Impl.itself).aio, sync)

    holder: Any = Holder()
    assert holder.both() is holder and asyncio.run(holder.both.aio()) is holder


def test_messages(sync: Synchronizer) -> None:
    strict = Synchronizer(multiwrap_warning=True)
    face = strict.wrap(double)
    with pytest.warns(UserWarning, match="^Object <function double .*> is already wrapped, but getting wrapped again$"):
        assert strict.wrap(double) is face

    async def nested() -> str:
        with pytest.raises(DeadlockError, match="^Deadlock detected: calling a sync function from the synchronizer"):
            sync.wrap(double)(1)
        return "went on"

    async def leaks() -> Any:
        return double(1)

    assert sync.wrap(nested)() == "went on"
    with pytest.warns(UserWarning, match="^Potential async leakage:"):
        sync.wrap(leaks)().close()


def test_annotations_are_true() -> None:
    async def named() -> typing.AsyncGenerator[int, None]:
        yield 1

    async def nameless():  # type: ignore[no-untyped-def]
        yield 1

    assert asynccontextmanager(named).__annotations__["return"] == typing.AsyncContextManager[int]
    with pytest.raises(ValueError, match="To use the fixed @asynccontextmanager"):
        asynccontextmanager(nameless)
    evaluated = annotations.evaluated_annotation
    assert evaluated("Sized", declaration_module="typing") is typing.Sized
    assert evaluated("x", globals_={"x": 1}) == 1 and evaluated(int) is int
    assert evaluated("concurrent.futures.Future", globals_={}).__name__ == "Future"
    with pytest.raises(NameError):
        evaluated("nowhere")


def test_overloads_are_remembered() -> None:
    with patched_overload():

        @typing.overload
        def either(x: int) -> int: ...
        @typing.overload
        def either(x: str) -> str: ...
        def either(x: Any) -> Any:
            return x

    assert [each.__annotations__["return"] for each in get_overloads(either)] == ["int", "str"]
    assert get_overloads(double) == get_overloads(5) == []


def test_errors_that_carry_errors() -> None:
    async def raises() -> None:
        raise exceptions.UserCodeException(ValueError("inside"))

    with pytest.raises(ValueError, match="inside"):
        asyncio.run(exceptions.unwrap_coro_exception(raises()))
    with pytest.raises(exceptions.UserCodeException):
        asyncio.run(exceptions.wrap_coro_exception(raises()))
    with pytest.raises(ValueError), exceptions.suppress_synchronicity_tb_frames():
        raise ValueError


# -- Ctrl-C -------------------------------------------------------------------------------


class Stop(BaseException):
    pass


@pytest.fixture
def handler() -> Iterator[list[int]]:
    calls: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        calls.append(number)
        raise Stop(len(calls))

    before = signal.signal(signal.SIGINT, handle)
    yield calls
    assert signal.getsignal(signal.SIGINT) is handle
    signal.signal(signal.SIGINT, before)


def test_interrupted_inside_the_coroutine_it_is_cancelled_and_cleans_up(
    sync: Synchronizer, handler: list[int]
) -> None:
    order = []

    async def work() -> None:
        try:
            signal.raise_signal(signal.SIGINT)  # not between two awaits: here
            order.append("goes on")
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.001)
            order.append("cleaned up")
            raise

    with pytest.raises(Stop, match="1"):
        sync.wrap(work)()
    assert order == ["goes on", "cleaned up"]


def test_a_second_interrupt_does_not_wait(sync: Synchronizer, handler: list[int]) -> None:
    async def stubborn() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(Stop):
        sync.wrap(stubborn)()
    assert len(handler) == 2


def test_a_handler_that_raises_nothing_cancels_nothing(sync: Synchronizer) -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    try:

        async def work() -> str:
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(0.001)
            return "done"

        assert sync.wrap(work)() == "done"
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [signal.SIGINT]


def test_a_handler_that_the_coroutine_sets_stays(sync: Synchronizer) -> None:
    before = signal.getsignal(signal.SIGINT)

    async def sets() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    try:
        sync.wrap(sets)()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert sync.wrap(double)(2) == 4
    finally:
        signal.signal(signal.SIGINT, before)


# -- Runner -------------------------------------------------------------------------------


def test_runner_keeps_its_loop() -> None:
    async def which() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    with Runner() as runner:
        assert runner.run(which()) is runner.run(which())
        with pytest.raises(ZeroDivisionError):
            runner.run(fails())

    async def nested() -> None:
        with pytest.raises(NestedEventLoops), Runner():
            pass

    asyncio.run(nested())


async def fails() -> None:
    raise ZeroDivisionError


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there a bridge takes it: tests/unit/test_signals.py")
def test_runner_is_interrupted(sync: Synchronizer) -> None:
    async def work() -> None:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(60)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Runner() as runner, pytest.raises(KeyboardInterrupt):
            runner.run(work())
    finally:
        signal.signal(signal.SIGINT, before)


# -- what a bridge adds -------------------------------------------------------------------


def test_all_steps_of_a_generator_are_in_one_task_and_context(sync: Synchronizer) -> None:
    async def steps() -> AsyncGenerator[Any, None]:
        tenant.set(tenant.get() + "!")
        yield asyncio.current_task()
        yield tenant.get()
        yield asyncio.current_task()

    token = tenant.set("acme")
    try:
        first, name, last = sync.wrap(steps)()
        assert first is last and name == "acme!" and tenant.get() == "acme"
    finally:
        tenant.reset(token)


def test_no_coroutine_is_left_unawaited(sync: Synchronizer) -> None:
    async def nested() -> None:
        sync.wrap(double)(1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DeadlockError):
            sync.wrap(nested)()


def test_a_child_of_a_fork_goes_on(sync: Synchronizer) -> None:
    face = sync.wrap(double)
    assert face(1) == 2
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if sync._thread is None and face(2) == 4 else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert face(3) == 6
