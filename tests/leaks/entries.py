"""Scenarios: ``submit``, ``gather``, ``to_caller``, cycles of calls, ``propagate``: each by each way it can go."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from typing import Any

from leaks.calls import fail, nap, refused
from leaks.measure import Scenarios

import sidecar
from sidecar import to_caller

scenario = Scenarios()

bridge = sidecar.Sidecar(name="entries", workers=2, cleanup_timeout=60).start()
pair = sidecar.Sidecar(name="left").start(), sidecar.Sidecar(name="right").start()
closed = sidecar.Sidecar(name="closed")
closed.start().shutdown()
run: Any = bridge.run_sync
submit: Any = bridge.submit
gather: Any = bridge.gather
var: contextvars.ContextVar[object] = contextvars.ContextVar("entries_var")


def give(value: object = None) -> object:
    return value


def broken(error: BaseException) -> None:
    raise error


def ended(*futures: concurrent.futures.Future[Any]) -> None:
    assert not concurrent.futures.wait(futures, 20).not_done


# -- submit -----------------------------------------------------------------------


@scenario()
def functions() -> None:
    assert submit(give, []).result(20) == []


@scenario()
def coroutines() -> None:
    assert submit(nap, 0, []).result(20) == []
    assert submit(nap(0, [])).result(20) == []


@scenario()
def failures_asked_for() -> None:
    refused(ValueError, submit(broken, ValueError([])).result, 20)
    refused(ValueError, submit(fail, ValueError([])).result, 20)
    assert isinstance(submit(fail, ValueError([])).exception(20), ValueError)


@scenario()
def failures_nobody_asks_for() -> None:
    ended(submit(broken, ValueError([])), submit(fail, ValueError([])))


@scenario()
def cancelled_at_once() -> None:
    futures = [submit(nap, 60) for _ in range(3)]
    for future in futures:
        future.cancel()
    ended(*futures)


@scenario(20)
def cancelled_while_it_runs() -> None:
    begun = threading.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            raise ValueError([])

    future = submit(work)
    assert begun.wait(20)
    future.cancel()
    ended(future)


@scenario(20)
def given_up() -> None:
    go = threading.Event()
    future = submit(go.wait, 20)
    refused(concurrent.futures.TimeoutError, future.result, 0)
    go.set()
    ended(future)


@scenario()
def wrapped() -> None:
    async def main() -> object:
        return await asyncio.wrap_future(submit(nap, 0, 3))

    assert run(main()) == 3


@scenario()
def submit_refuses() -> None:
    refused(TypeError, submit, 3)
    refused(TypeError, submit, nap(), 3)
    refused(sidecar.BridgeClosedError, closed.submit, nap())
    refused(sidecar.BridgeClosedError, closed.submit, nap)
    refused(sidecar.BridgeClosedError, closed.submit, give)


@scenario(10)
def submitted_just_before_the_end() -> None:
    brief = sidecar.Sidecar(name="brief").start()
    futures = [brief.submit(nap, 60) for _ in range(2)]
    assert brief.shutdown()
    ended(*futures)


# -- gather -----------------------------------------------------------------------


@scenario()
def gathers() -> None:
    same = nap(0, [])
    assert gather(nap(0, 1), same, same)[1:] == [[], []]
    assert gather() == []


@scenario()
def gathers_failures() -> None:
    refused(ValueError, gather, nap(60), fail(ValueError([])))
    assert isinstance(gather(fail(ValueError([])), return_exceptions=True)[0], ValueError)


@scenario(20)
def gathers_in_time() -> None:
    refused(sidecar.CallTimeoutError, gather, nap(60), nap(60), timeout=0.0002)
    assert gather(nap(), timeout=60) == [None]


@scenario()
def gathers_inside() -> None:
    async def main() -> None:
        assert await gather(nap(0, 1), nap(0, 2)) == [1, 2]
        assert await gather(nap(0, 1), timeout=60) == [1]
        for options in ({}, {"timeout": 60}):
            try:
                await gather(nap(60), fail(ValueError([])), **options)
            except ValueError:
                continue
            raise AssertionError("no ValueError")
        try:
            await gather(nap(60), timeout=0.0002)
        except sidecar.CallTimeoutError:
            pass
        gather(nap(), nap()).close()

    run(main())


@scenario()
def gather_refuses() -> None:
    refused(TypeError, gather, nap(), 3)
    refused(sidecar.BridgeClosedError, closed.gather, nap(), nap())


# -- to_caller --------------------------------------------------------------------


@scenario()
def errands() -> None:
    async def main() -> None:
        assert await to_caller(give, []) == []
        assert await asyncio.gather(to_caller(give, 1), to_caller(give, 2)) == [1, 2]

    run(main())


@scenario(20)
def errands_of_threads() -> None:
    async def main() -> object:
        await asyncio.sleep(0.0001)
        return await to_caller(run, nap(0, 3))

    futures = [submit(run, main()) for _ in range(3)]
    assert [future.result(20) for future in futures] == [3] * 3


@scenario()
def errands_fail() -> None:
    refused(ValueError, run, to_caller(broken, ValueError([])))
    refused(StopAsyncIteration, run, to_caller(broken, StopAsyncIteration()))
    refused(RuntimeError, run, to_caller(broken, StopIteration([])))


@scenario()
def errands_change_the_context() -> None:
    async def main() -> object:
        await to_caller(var.set, [])
        return var.get()

    assert run(main()) == []


@scenario()
def errands_of_a_stream() -> None:
    async def items() -> Any:
        yield await to_caller(give, 1)
        yield await asyncio.ensure_future(to_caller(give, 2))

    assert list(bridge.stream(items)) == [1, 2]


@scenario()
def errands_cancelled() -> None:
    async def main() -> None:
        task = asyncio.ensure_future(to_caller(give, []))
        task.cancel()
        refused_task = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(refused_task[0], asyncio.CancelledError)
        to_caller(give).close()

    run(main())


@scenario(20)
def errands_time_out() -> None:
    go = threading.Event()

    async def main() -> None:
        try:
            await to_caller(go.wait, 20)
        finally:
            go.set()

    refused(sidecar.CallTimeoutError, run, main(), timeout=0.0005)


@scenario()
def errands_of_nobody() -> None:
    async def main() -> object:
        return await to_caller(give)

    refused(sidecar.NoCallerError, submit(main).result, 20)
    refused(TypeError, to_caller, 3)


@scenario()
def errands_left_queued() -> None:
    """The call ends first."""

    async def ask() -> None:
        try:
            await to_caller(give)
            await to_caller(give)
        except sidecar.NoCallerError:
            pass

    async def main() -> asyncio.Task[None]:
        task = asyncio.ensure_future(ask())
        await asyncio.sleep(0)
        return task

    run(run(main()))


# -- cycles, contexts ---------------------------------------------------------------


@scenario(10)
def cycles() -> None:
    together = threading.Barrier(2)

    async def hold(i: int) -> object:
        together.wait(20)
        try:
            return pair[1 - i].run_sync(nap(0, "through"))
        except sidecar.DeadlockError:
            return "refused"

    futures = [pair[i].submit(hold, i) for i in range(2)]
    assert sorted(str(future.result(20)) for future in futures) == ["refused", "through"]


@scenario()
def calls_between_bridges() -> None:
    async def hold() -> object:
        return pair[1].run_sync(nap(0, 1))

    assert pair[0].run_sync(hold()) == 1


@scenario()
def blocked_jobs() -> None:
    async def level(depth: int) -> int:
        return depth and await bridge._on_pool(None, lambda: run(level(depth - 1)))

    run(level(3))


@scenario()
def propagates() -> None:
    async def work(error: BaseException | None) -> None:
        await asyncio.ensure_future(asyncio.sleep(0))
        var.set([])
        if error is not None:
            raise error

    run(work(None), propagate=True)
    refused(ValueError, run, work(ValueError([])), propagate=True)
    assert var.get() == []
