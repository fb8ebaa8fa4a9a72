"""The kinds of calls in a storm: each makes one call, and raises unless it ends as its kind must.

Each takes the storm and its action and returns what to count it as.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import sidecar

if TYPE_CHECKING:
    from stress.plan import Action
    from stress.storm import Storm

Kind = Callable[["Storm", "Action"], str]
KINDS: dict[str, Kind] = {}
mine: contextvars.ContextVar[int] = contextvars.ContextVar("mine", default=-1)

FAR = 3600.0


def kind(name: str) -> Callable[[Kind], Kind]:
    def keep(function: Kind) -> Kind:
        KINDS[name] = function
        return function

    return keep


class Unexpected(AssertionError):
    """A call ended in another way than its kind must."""


def check(truth: object, what: str) -> None:
    if not truth:
        raise Unexpected(what)


def must_raise(
    expected: type[BaseException], call: Callable[[], object], what: Callable[[Any], bool]
) -> None:
    """``call`` raises exactly that type, and ``what`` is true of it."""
    try:
        answer = call()
    except BaseException as error:
        if type(error) is not expected or not what(error):
            raise
        return
    raise Unexpected(f"{expected.__name__} expected, not the answer {answer!r}")


# -- coroutines -------------------------------------------------------------------


async def answer(storm: Storm, action: Action) -> int:
    with storm.ledger.body(action.kind):
        return action.number


async def once(storm: Storm, action: Action) -> int:
    with storm.ledger.body(action.kind):
        await asyncio.sleep(0)
        return action.number


async def sleep(storm: Storm, action: Action) -> int:
    with storm.ledger.body(action.kind):
        for seconds in action.waits:
            await asyncio.sleep(seconds)
        return action.number


class Refused(Exception):
    """What a coroutine of the storm raises."""


class Abrupt(BaseException):
    """What a coroutine raises that is no Exception."""


# -- those that answer ------------------------------------------------------------


@kind("never waits")
def never_waits(storm: Storm, action: Action) -> str:
    check(storm.bridge.run_sync(answer(storm, action)) == action.number, "a wrong answer")
    return "answered"


@kind("waits once")
def waits_once(storm: Storm, action: Action) -> str:
    check(storm.bridge.run_sync(once(storm, action)) == action.number, "a wrong answer")
    return "answered"


@kind("sleeps")
def sleeps(storm: Storm, action: Action) -> str:
    check(storm.bridge.run_sync(sleep(storm, action)) == action.number, "a wrong answer")
    return "answered"


@kind("within a time-out")
def within_a_timeout(storm: Storm, action: Action) -> str:
    check(storm.bridge.run_sync(sleep(storm, action), timeout=FAR) == action.number, "a wrong answer")
    return "answered"


@kind("own tasks")
def own_tasks(storm: Storm, action: Action) -> str:
    async def part(number: int) -> int:
        await asyncio.sleep(action.waits[number % len(action.waits)])
        return number

    async def work() -> int:
        with storm.ledger.body(action.kind):
            parts = await asyncio.gather(*map(part, range(5)))
            return await asyncio.wait_for(part(sum(parts)), FAR)

    check(storm.bridge.run_sync(work()) == 10, "a wrong answer")
    return "answered"


@kind("own context")
def own_context(storm: Storm, action: Action) -> str:
    before = mine.get()
    context = contextvars.copy_context() if action.number % 2 else None

    async def work() -> int:
        with storm.ledger.body(action.kind):
            seen = mine.get()
            mine.set(action.number)
            for seconds in action.waits:
                await asyncio.sleep(seconds)
                check(mine.get() == action.number, "another call's context")
            return seen

    check(storm.bridge.run_sync(work(), context=context) == before, "not the caller's context")
    check(mine.get() == before, "the caller's context was changed")
    # Tasks take a context as it is from 3.11 on.
    if context is not None and sys.version_info >= (3, 11):
        check(context[mine] == action.number, "the context given was not used")
    return "answered"


@kind("async generator")
def async_generator(storm: Storm, action: Action) -> str:
    async def steps() -> Any:
        with storm.ledger.body("generator"):
            for seconds in (*action.waits, *action.waits):
                await asyncio.sleep(seconds)
                yield seconds

    async def work() -> int:
        with storm.ledger.body(action.kind):
            async for _ in steps():
                break  # the rest is for the loop's hooks
            return action.number

    check(storm.bridge.run_sync(work()) == action.number, "a wrong answer")
    return "answered"


# -- those that fail ---------------------------------------------------------------


@kind("fails")
def fails(storm: Storm, action: Action) -> str:
    error = (Refused if action.number % 2 else Abrupt)(action.number)

    async def work() -> None:
        with storm.ledger.body(action.kind):
            for seconds in action.waits[1:]:
                await asyncio.sleep(seconds)
            raise error

    must_raise(type(error), lambda: storm.bridge.run_sync(work()), lambda caught: caught is error)
    return "failed"


@kind("exits")
def exits(storm: Storm, action: Action) -> str:
    error = (SystemExit if action.number % 2 else KeyboardInterrupt)(action.number)

    async def work() -> None:
        with storm.ledger.body(action.kind):
            for seconds in action.waits[1:]:
                await asyncio.sleep(seconds)
            raise error

    must_raise(type(error), lambda: storm.bridge.run_sync(work()), lambda caught: caught is error)
    return "failed"


@kind("no awaitable")
def no_awaitable(storm: Storm, action: Action) -> str:
    run: Any = storm.bridge.run_sync
    must_raise(TypeError, lambda: run(action.number), lambda error: "awaitable" in str(error))
    must_raise(ValueError, lambda: run(unreached(storm), timeout=-1), lambda error: "timeout" in str(error))
    return "refused"


async def unreached(storm: Storm) -> None:
    storm.ledger.report("a coroutine of a call that was refused ran")


@kind("deadlock")
def deadlock(storm: Storm, action: Action) -> str:
    async def work() -> str:
        with storm.ledger.body(action.kind):
            for seconds in action.waits[1:]:
                await asyncio.sleep(seconds)
            try:
                storm.bridge.run_sync(unreached(storm))
            except sidecar.DeadlockError:
                return "refused"
            return "answered"

    check(storm.bridge.run_sync(work()) == "refused", "a call that waits for itself was made")
    return "refused"


# -- those that are cancelled -------------------------------------------------------


@kind("cancels itself")
def cancels_itself(storm: Storm, action: Action) -> str:
    async def work() -> None:
        with storm.ledger.body(action.kind):
            for seconds in action.waits[1:]:
                await asyncio.sleep(seconds)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(FAR)

    must_raise(asyncio.CancelledError, lambda: storm.bridge.run_sync(work()), lambda error: True)
    return "cancelled"


@kind("is cancelled")
def is_cancelled(storm: Storm, action: Action) -> str:
    """By another thread, through the loop."""

    async def work() -> None:
        with storm.ledger.body(action.kind):
            task = asyncio.current_task()
            assert task is not None
            storm.to_cancel.put(task)
            while True:
                await asyncio.sleep(FAR)

    must_raise(asyncio.CancelledError, lambda: storm.bridge.run_sync(work()), lambda error: True)
    return "cancelled"


@kind("times out")
def times_out(storm: Storm, action: Action) -> str:
    async def work() -> None:
        with storm.ledger.body(action.kind):
            await asyncio.sleep(FAR)

    must_raise(
        sidecar.CallTimeoutError,
        lambda: storm.bridge.run_sync(work(), timeout=action.limit),
        lambda error: "was cancelled" in str(error) or "as an orphan" in str(error),
    )
    return "timed out"


@kind("times out, cleans up")
def cleans_up(storm: Storm, action: Action) -> str:
    """Its cleanup is over before it is given up: unless the machine stands still for longer than that."""

    async def work() -> None:
        with storm.ledger.body(action.kind):
            try:
                await asyncio.sleep(FAR)
            finally:
                await asyncio.sleep(0.001)

    must_raise(
        sidecar.CallTimeoutError,
        lambda: storm.bridge.run_sync(work(), timeout=action.limit),
        lambda error: "was cancelled" in str(error) or "as an orphan" in str(error),
    )
    return "timed out"


@kind("orphan")
def orphan(storm: Storm, action: Action) -> str:
    async def work() -> None:
        with storm.ledger.body(action.kind):
            try:
                await asyncio.sleep(FAR)
            finally:
                # So long that it is given up before; shutdown() cancels it once more.
                await asyncio.sleep(8 * storm.CLEANUP)

    must_raise(
        sidecar.CallTimeoutError,
        lambda: storm.bridge.run_sync(work(), timeout=action.limit),
        lambda error: "as an orphan" in str(error),
    )
    return "orphaned"


# -- those that use more of the bridge ----------------------------------------------


@kind("leaves a task")
def leaves_a_task(storm: Storm, action: Action) -> str:
    for_good = storm.keeps_tasks and action.number % 8 == 0

    async def task() -> None:
        with storm.ledger.body("task"):
            try:
                for seconds in action.waits:
                    await asyncio.sleep(seconds)
                if for_good:
                    await asyncio.sleep(FAR)
            except asyncio.CancelledError:
                storm.ledger.count("task", "cancelled")
                raise
            storm.ledger.count("task", "finished")

    async def work() -> int:
        with storm.ledger.body(action.kind):
            storm.keep(asyncio.get_running_loop().create_task(task()))
            await asyncio.sleep(0)  # so that it has begun
            return action.number

    check(storm.bridge.run_sync(work()) == action.number, "a wrong answer")
    storm.ledger.count("task", "left")
    return "answered"


@kind("executor")
def executor(storm: Storm, action: Action) -> str:
    async def work() -> int:
        with storm.ledger.body(action.kind):
            return await asyncio.get_running_loop().run_in_executor(None, abs, -action.number)

    check(storm.bridge.run_sync(work()) == action.number, "a wrong answer")
    return "answered"


@kind("executor fails")
def executor_fails(storm: Storm, action: Action) -> str:
    def job() -> None:
        raise Refused(action.number)

    async def work() -> None:
        with storm.ledger.body(action.kind):
            await asyncio.get_running_loop().run_in_executor(None, job)

    must_raise(Refused, lambda: storm.bridge.run_sync(work()), lambda error: error.args == (action.number,))
    return "failed"


@kind("executor calls back")
def executor_calls_back(storm: Storm, action: Action) -> str:
    """The job is a caller itself, on a thread of the pool."""

    async def work() -> int:
        with storm.ledger.body(action.kind):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(None, lambda: storm.bridge.run_sync(inner()))

    async def inner() -> int:
        with storm.ledger.body("called back"):
            await asyncio.sleep(action.waits[0])
            return action.number

    check(storm.bridge.run_sync(work()) == action.number, "a wrong answer")
    return "answered"


@kind("other bridge inside")
def other_bridge_inside(storm: Storm, action: Action) -> str:
    """A coroutine may block on another bridge; this loop is nobody's to lend then."""

    async def inner() -> int:
        with storm.ledger.body("inside"):
            await asyncio.sleep(0)
            return action.number

    async def work() -> int:
        with storm.ledger.body(action.kind):
            number = storm.inner_bridge.run_sync(inner())
            check(asyncio.get_running_loop() is storm.loop, "the marks of the outer loop are gone")
            await asyncio.sleep(0)
            return number

    check(storm.bridge.run_sync(work()) == action.number, "a wrong answer")
    return "answered"


@kind("foreign loop")
def foreign_loop(storm: Storm, action: Action) -> str:
    """The caller runs asyncio's loop of its own, and calls from within it."""

    async def outside() -> int:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        number = storm.bridge.run_sync(sleep(storm, action))
        check(
            asyncio.get_running_loop() is loop and asyncio.current_task() is task,
            "the caller's marks are gone",
        )
        await asyncio.sleep(0)
        return number

    loop = asyncio.SelectorEventLoop()
    try:
        check(loop.run_until_complete(outside()) == action.number, "a wrong answer")
    finally:
        loop.close()
    return "answered"


# -- sockets ---------------------------------------------------------------------


async def talk(storm: Storm, text: bytes, times: int) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_unix_connection(storm.echo_address)
    storm.ledger.count("connections", "made")
    for _ in range(times):
        writer.write(text)
        await writer.drain()
        check(await reader.readexactly(len(text)) == text, "the echo is another text")
    return writer


@kind("socket")
def socket(storm: Storm, action: Action) -> str:
    text = str(action.number).encode() * (4000 if action.number % 7 == 0 else 10)

    async def work() -> int:
        with storm.ledger.body(action.kind):
            writer = await talk(storm, text, len(action.waits))
            writer.close()
            await writer.wait_closed()
            return action.number

    check(storm.bridge.run_sync(work()) == action.number, "a wrong answer")
    return "answered"


@kind("drops a writer")
def drops_a_writer(storm: Storm, action: Action) -> str:
    """What is left of a connection ends on another thread: closed, dropped or collected there."""
    way = WAYS_TO_DROP[action.number % len(WAYS_TO_DROP)]

    async def work() -> list[asyncio.StreamWriter]:
        with storm.ledger.body(action.kind):
            writer = await talk(storm, b"dropped", 1)
            if way == "collect":
                # Nothing in the loop holds it now: it goes with its last reference.
                writer.transport.pause_reading()  # type: ignore[attr-defined]
            return [writer]

    box = storm.bridge.run_sync(work())
    check(len(box) == 1, "a wrong answer")
    storm.to_drop.put((way, box))
    return "answered"


# Where StreamWriter has a __del__ that closes its transport, a collector on another thread must not meet both
# at once: the transport's own may close the socket first, and the writer's then takes the reader away from
# whatever has got the descriptor's number meanwhile. That is asyncio's own code, by the number alone.
WAYS_TO_DROP = ["close", "drop" if hasattr(asyncio.StreamWriter, "__del__") else "collect"]


def drop(way: str, box: list[asyncio.StreamWriter]) -> None:
    """On the thread that drops."""
    if way == "close":
        box.pop().close()
    else:
        box.clear()
    if way == "collect":
        gc.collect()


# -- forks -------------------------------------------------------------------------


@kind("fork")
def fork(storm: Storm, action: Action) -> str:
    pid = os.fork()
    if pid == 0:
        storm.child()
    storm.wait_for_child(pid)
    return "forked"


@kind("fork inside")
def fork_inside(storm: Storm, action: Action) -> str:
    """A coroutine forks. Whoever drove it finds itself in the child, whose loop is dead."""

    async def work() -> int:
        with storm.ledger.body(action.kind):
            pid = os.fork()
            if pid == 0:
                if action.number % 2:
                    storm.child()
                storm.become_child()
                await asyncio.sleep(0)
                os._exit(8)  # it must not come back
            storm.wait_for_child(pid)
            await asyncio.sleep(0)
            return action.number

    check(storm.bridge.run_sync(work()) == action.number, "a wrong answer")
    return "forked"


# -- signals ----------------------------------------------------------------------


class Interrupted(Exception):
    """What the signal handler raises, like a soft time limit."""


class Stopped(KeyboardInterrupt):
    """What it raises, like Ctrl-C."""


def interruptible(storm: Storm, action: Action, make: Callable[[], Awaitable[int]]) -> str:
    """The main thread's: the handler raises once while it is armed. It is raised here, or not at all."""
    raised: BaseException | None = None
    work = make()
    try:
        storm.arm(Stopped(action.number) if action.number % 2 else Interrupted(action.number))
        check(storm.bridge.run_sync(work) == action.number, "a wrong answer")
        storm.disarm()
    except (Interrupted, Stopped) as error:
        raised = error
    finally:
        was_raised = storm.disarm()
    if raised is not was_raised:
        raise Unexpected(f"the handler raised {was_raised!r}; the call {raised!r}")
    if raised is None:
        return "answered"
    work.close()  # type: ignore[attr-defined]
    check(raised.args == (action.number,), "another call's exception")
    return "interrupted"


@kind("interrupted")
def interrupted(storm: Storm, action: Action) -> str:
    async def work() -> int:
        with storm.ledger.body(action.kind):
            for seconds in action.waits * 2:
                await asyncio.sleep(seconds)
                sum(range(200))
            return action.number

    return interruptible(storm, action, work)


@kind("interrupted in a wait")
def interrupted_in_a_wait(storm: Storm, action: Action) -> str:
    """Without a signal it would last for good; its cleanup is waited for."""

    async def work() -> int:
        with storm.ledger.body(action.kind):
            try:
                await asyncio.sleep(FAR)
            finally:
                with storm.ledger.body("cleanup"):
                    await asyncio.sleep(0.001)
        return action.number

    return interruptible(storm, action, work)
