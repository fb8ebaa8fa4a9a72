"""Scenarios: ``run_sync``, by each way a call can go."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import signal
import threading
from collections.abc import Callable, Generator
from typing import Any

from leaks.measure import Scenarios

import sidecar

scenario = Scenarios()
logging.getLogger("sidecar").setLevel(logging.CRITICAL)

bridge = sidecar.Sidecar(name="leaks", workers=2, cleanup_timeout=60).start()
brief = sidecar.Sidecar(name="brief", workers=2, cleanup_timeout=0.01).start()
run: Any = bridge.run_sync
closed = sidecar.Sidecar(name="closed")
closed.start().shutdown()
var: contextvars.ContextVar[object] = contextvars.ContextVar("var")


def refused(error: type[BaseException], call: Callable[..., object], *args: object, **kwargs: object) -> None:
    try:
        call(*args, **kwargs)
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


async def answer(value: object = None) -> object:
    return value


async def nap(seconds: float = 0.0, value: object = None) -> object:
    await asyncio.sleep(seconds)
    return value


async def fail(error: BaseException, seconds: float | None = 0.0) -> None:
    if seconds is not None:
        await asyncio.sleep(seconds)
    raise error


# -- answers --------------------------------------------------------------------


@scenario()
def never_waits() -> None:
    assert run(answer([])) == []


@scenario()
def waits_once() -> None:
    assert run(nap(0, [])) == []


@scenario(20)
def sleeps() -> None:
    assert run(nap(0.0001, [])) == []


@scenario()
def on_the_default_bridge() -> None:
    assert sidecar.run_sync(nap(0, [])) == []


@scenario()
def time_limit_not_reached() -> None:
    assert run(nap(0, []), timeout=60) == []


class Own:
    def __await__(self) -> Generator[Any, None, str]:
        yield from asyncio.sleep(0).__await__()
        return "own"


@scenario()
def other_awaitables() -> None:
    assert run(Own()) == "own"


@scenario()
def futures() -> None:
    future = bridge.get_loop().create_future()
    bridge.get_loop().call_soon_threadsafe(future.set_result, [])
    assert run(future) == []


@scenario()
def in_a_context() -> None:
    context = contextvars.copy_context()
    context.run(var.set, [])
    assert run(nap(), context=context) is None


@scenario()
def own_tasks() -> None:
    async def work() -> list[object]:
        return list(await asyncio.gather(nap(), nap(), answer()))

    assert run(work()) == [None] * 3


@scenario()
def task_left_behind() -> None:
    async def work() -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(nap())

    task = run(work())
    run(nap())
    run(nap())
    assert task.done()


@scenario()
def async_generator_left() -> None:
    async def steps() -> Any:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)

    async def work() -> None:
        async for _ in steps():
            break

    run(work())
    run(nap())


@scenario()
def executor() -> None:
    async def work() -> int:
        return await asyncio.get_running_loop().run_in_executor(None, len, [1])

    assert run(work()) == 1


@scenario()
def executor_calls_back() -> None:
    async def work() -> object:
        return await asyncio.get_running_loop().run_in_executor(None, lambda: run(nap(0, 1)))

    assert run(work()) == 1


@scenario(5)
def from_threads() -> None:
    threads = [threading.Thread(target=lambda: [run(nap(0.0002)) for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@scenario(10)
def inside_a_foreign_loop() -> None:
    async def outside() -> object:
        return run(nap(0, 1))

    loop = asyncio.SelectorEventLoop()
    assert loop.run_until_complete(outside()) == 1
    loop.close()


@scenario()
def bridge_inside_a_bridge() -> None:
    async def work() -> object:
        return sidecar.run_sync(nap(0, 1))

    assert run(work()) == 1


# -- failures ---------------------------------------------------------------------


@scenario()
def raises() -> None:
    refused(ValueError, run, fail(ValueError([])))
    refused(ValueError, run, fail(ValueError([]), None))


class Abrupt(BaseException):
    pass


@scenario()
def raises_no_exception() -> None:
    refused(Abrupt, run, fail(Abrupt([])))
    refused(Abrupt, run, fail(Abrupt([]), None))


@scenario()
def exits() -> None:
    refused(SystemExit, run, fail(SystemExit(3)))
    refused(SystemExit, run, fail(SystemExit(3), None))
    refused(KeyboardInterrupt, run, fail(KeyboardInterrupt()))
    refused(KeyboardInterrupt, run, fail(KeyboardInterrupt(), None))


@scenario()
def raises_from_within() -> None:
    async def outer() -> None:
        try:
            await fail(KeyError(1))
        except KeyError as error:
            raise ValueError(2) from error

    refused(ValueError, run, outer())


@scenario()
def cancels_itself() -> None:
    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)

    refused(asyncio.CancelledError, run, work())


@scenario(20)
def times_out() -> None:
    refused(sidecar.CallTimeoutError, run, nap(60), timeout=0)
    refused(sidecar.CallTimeoutError, run, nap(60), timeout=0.0002)


@scenario(20)
def times_out_and_cleans_up() -> None:
    async def work(error: BaseException | None) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.0005)
            if error is not None:
                raise error

    refused(sidecar.CallTimeoutError, run, work(None), timeout=0.0002)
    refused(sidecar.CallTimeoutError, run, work(ValueError([])), timeout=0.0002)
    refused(SystemExit, run, work(SystemExit()), timeout=0.0002)


@scenario(10)
def orphans() -> None:
    """Given up, and ended later."""
    over = threading.Event()

    async def event() -> asyncio.Event:
        return asyncio.Event()

    given_up = brief.run_sync(event(), timeout=60)

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await given_up.wait()
            over.set()

    async def let_go() -> None:
        given_up.set()

    refused(sidecar.CallTimeoutError, brief.run_sync, work(), timeout=0.0002)
    brief.run_sync(let_go(), timeout=60)
    assert over.wait(20)
    brief.run_sync(nap(), timeout=60)


@scenario()
def wrong_arguments() -> None:
    async def generator() -> Any:
        yield 1

    refused(TypeError, run)
    pair = nap(), nap()
    refused(TypeError, run, *pair)
    pair[1].close()
    refused(TypeError, run, 3)
    refused(TypeError, run, nap)
    refused(TypeError, run, generator())
    refused(TypeError, run, nap(), nonsense=1)
    refused(TypeError, run, nap(), timeout="1")
    refused(ValueError, run, nap(), timeout=-1)
    refused(ValueError, run, nap(), timeout=float("nan"))
    refused(TypeError, run, nap(), context={})


@scenario()
def an_entered_context() -> None:
    context = contextvars.copy_context()
    refused(RuntimeError, context.run, lambda: run(nap(), context=context))


@scenario()
def deadlocks() -> None:
    async def work() -> None:
        run(nap())

    refused(sidecar.DeadlockError, run, work())


@scenario()
def on_a_closed_bridge() -> None:
    refused(sidecar.BridgeClosedError, closed.run_sync, nap())
    refused(sidecar.BridgeClosedError, closed.get_loop)


@scenario()
def orders_to_the_loop() -> None:
    loop = bridge.get_loop()
    refused(sidecar.errors.LoopOwnedError, loop.run_forever)
    refused(sidecar.errors.LoopOwnedError, loop.run_until_complete, nap())
    refused(sidecar.errors.LoopOwnedError, loop.stop)
    refused(sidecar.errors.LoopOwnedError, loop.close)


# -- signals and forks --------------------------------------------------------------


class Limit(Exception):
    pass


def _raise(*_: object) -> None:
    raise Limit([])


async def _alarm(cleanup: float) -> None:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(cleanup)


@scenario(20)
def interrupted() -> None:
    signal.signal(signal.SIGALRM, _raise)
    refused(Limit, run, _alarm(0.0005))


@scenario(20)
def interrupted_while_it_waits() -> None:
    """Another call drives, or the pump."""
    signal.signal(signal.SIGALRM, _raise)

    async def leave() -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(nap(0.002))

    task = run(leave())
    refused(Limit, run, _alarm(0.0005))
    run(asyncio.wait([task]))


@scenario(5)
def interrupted_twice() -> None:
    """The second one ends the wait for the cleanup."""
    left = [Limit([]), Limit([])]

    def raise_twice(*_: object) -> None:
        # A third one might come just when the orphan is noted, and be told on stderr.
        if left:
            raise left.pop()

    signal.signal(signal.SIGALRM, raise_twice)
    over = threading.Event()

    async def work() -> None:
        await asyncio.sleep(0)  # raised inside asyncio.Task() it would end the task before its cleanup, as in asyncio
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.003)
            await asyncio.sleep(60)
        finally:
            try:
                await asyncio.sleep(0.03)
            finally:  # where the first one came in a step of this, the second one cancels this sleep
                over.set()

    try:
        refused(Limit, run, work())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert over.wait(20)
    run(nap())


@scenario(3)
def forks() -> None:
    """In the parent."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if run(nap(0, 3)) == 3 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert run(nap(0, 4)) == 4


@scenario(3)
def forks_inside() -> None:
    async def work() -> int:
        pid = os.fork()
        if pid:
            return os.waitpid(pid, 0)[1]
        await asyncio.sleep(0)
        return 9

    here = os.getpid()
    try:
        assert run(work()) == 0
    except sidecar.errors.ForkedError:
        os._exit(0)
    finally:
        if os.getpid() != here:
            os._exit(1)


# -- the loop's other ways of making tasks ----------------------------------------------


@scenario()
def task_factory() -> None:
    loop = bridge.get_loop()
    loop.set_task_factory(lambda loop, coro, **rest: asyncio.Task(coro, loop=loop, **rest))
    try:
        run(nap())
        refused(ValueError, run, fail(ValueError()))
    finally:
        loop.set_task_factory(None)


@scenario()
def task_factory_fails() -> None:
    loop = bridge.get_loop()

    def factory(loop: object, coro: Any, **rest: object) -> Any:
        raise LookupError

    loop.set_task_factory(factory)
    try:
        refused(LookupError, run, nap())
    finally:
        loop.set_task_factory(None)


@scenario(20)
def debug_mode() -> None:
    loop = bridge.get_loop()
    loop.set_debug(True)
    try:
        run(nap(0.0001))
        refused(ValueError, run, fail(ValueError()))
    finally:
        loop.set_debug(False)
