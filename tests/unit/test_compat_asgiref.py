"""``sidecar.compat.asgiref``: what holds beyond asgiref's own tests, which tests/compat runs."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from harness import wait_for

import sidecar
from sidecar.compat.asgiref.current_thread_executor import CurrentThreadExecutor
from sidecar.compat.asgiref.local import Local
from sidecar.compat.asgiref.sync import (
    AsyncSingleThreadContext,
    AsyncToSync,
    SyncToAsync,
    ThreadSensitiveContext,
    async_to_sync,
    sync_to_async,
)

where = sync_to_async(threading.get_ident)
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


@pytest.fixture(autouse=True, scope="module")
def shared_thread() -> None:
    """Thread-sensitive code's, which the process keeps: there before a test counts threads."""
    asyncio.run(where())


@pytest.fixture(autouse=True)
def fresh_bridge() -> Iterator[None]:
    yield
    assert sidecar.shutdown(), "the bridge has left something behind"


# -- one loop, and the thread that waits -------------------------------------------------


def test_all_calls_share_the_bridges_loop() -> None:
    @async_to_sync
    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    seen = {id(loop()), id(loop())}
    with ThreadPoolExecutor(1) as pool:
        seen.add(id(pool.submit(loop).result()))
    assert seen == {id(sidecar.get_bridge().get_loop())}


def test_what_a_call_leaves_behind_goes_on() -> None:
    done = threading.Event()

    @async_to_sync
    async def leave() -> None:
        async def later() -> None:
            await asyncio.sleep(0.01)
            done.set()

        leave.task = asyncio.create_task(later())  # type: ignore[attr-defined]

    leave()
    assert done.wait(10)


def test_thread_sensitive_code_runs_on_the_thread_that_waits_on_plain_run_sync_too() -> None:
    async def from_a_task() -> int:
        return await asyncio.create_task(where())

    assert sidecar.run_sync(from_a_task()) == threading.get_ident()
    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(threading.get_ident).result()
        assert pool.submit(sidecar.run_sync, from_a_task()).result() == worker
        assert pool.submit(async_to_sync(from_a_task)).result() == worker


def test_submitted_work_shares_one_thread() -> None:
    async def twice() -> set[int]:
        return {await where(), await where()}

    found = sidecar.submit(twice).result() | sidecar.submit(twice).result()
    assert len(found) == 1
    assert threading.get_ident() not in found


def test_a_context_has_one_thread_while_nobody_waits() -> None:
    async def twice() -> set[int]:
        async with ThreadSensitiveContext():
            return {await where(), await asyncio.create_task(where())}

    first, second = sidecar.submit(twice).result(), sidecar.submit(twice).result()
    assert len(first) == len(second) == 1


def test_a_bridge_of_ones_own_is_gone_back_to() -> None:
    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def there_and_back() -> bool:
        return await sync_to_async(async_to_sync(loop))() is asyncio.get_running_loop()

    with sidecar.Sidecar() as bridge:
        assert bridge.run_sync(there_and_back())
        assert bridge.submit(there_and_back).result()


def test_the_waiting_thread_is_reached_from_another_loop() -> None:
    """A coroutine of the bridge sends code to the pool, which runs an event loop of its own."""

    async def outer() -> int:
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, context.run, asyncio.run, where())

    @async_to_sync
    async def entry() -> int:
        return await asyncio.create_task(outer())

    assert entry() == threading.get_ident()


def test_executors_current_takes_functions_from_any_thread() -> None:
    @async_to_sync
    async def entry() -> int:
        async def run() -> int:
            executor = AsyncToSync.executors.current
            assert isinstance(executor, CurrentThreadExecutor)
            return await asyncio.wrap_future(executor.submit(threading.get_ident))

        return await asyncio.create_task(run())

    assert entry() == threading.get_ident()


# -- no deadlocks --------------------------------------------------------------------------


def nested(depth: int) -> Callable[[], Coroutine[Any, Any, int]]:
    """Blocking code that waits for async code that waits for blocking code ..., none of it thread-sensitive."""

    def blocking() -> int:
        return async_to_sync(nested(depth - 1))() if depth else threading.get_ident()

    return sync_to_async(blocking, thread_sensitive=False)


def test_nested_calls_do_not_run_out_of_threads() -> None:
    async def many() -> list[int]:
        return await asyncio.gather(*(nested(6)() for _ in range(16)))

    with sidecar.Sidecar(workers=2) as bridge:
        assert len(bridge.run_sync(many(), timeout=60)) == 16


def test_a_loop_that_ends_before_the_call_is_an_error() -> None:
    loop = asyncio.new_event_loop()
    found: list[BaseException] = []
    began = threading.Event()

    async def never() -> None:
        await asyncio.sleep(3600)

    def caller() -> None:
        try:
            fn()
        except BaseException as error:
            found.append(error)

    async def main() -> None:
        nonlocal fn
        fn = async_to_sync(never)
        thread.start()
        while not asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.sleep(0.001)
        began.set()

    fn: Any = None
    thread = threading.Thread(target=caller)
    loop.run_until_complete(main())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(found[0], asyncio.CancelledError)


def test_a_call_that_its_loop_never_got_to_is_an_error() -> None:
    found: list[BaseException] = []
    fn: Any = None

    async def quick() -> None:
        pass

    def caller() -> None:
        try:
            fn()
        except BaseException as error:
            found.append(error)

    async def main(thread: threading.Thread) -> None:
        nonlocal fn
        fn = async_to_sync(quick)
        loop: Any = asyncio.get_running_loop()
        tell, posted = loop.call_soon_threadsafe, threading.Event()

        def tell_and_say(*args: Any, **kwargs: Any) -> Any:
            tell(*args, **kwargs)
            posted.set()

        loop.call_soon_threadsafe = tell_and_say
        thread.start()
        loop.stop()  # at the end of this turn, before what comes from other threads
        assert posted.wait(10)

    def run() -> threading.Thread:
        thread = threading.Thread(target=caller)
        loop = asyncio.new_event_loop()
        task = loop.create_task(main(thread))
        loop.run_forever()
        assert task.done()
        loop.close()
        return thread

    thread = run()
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(found[0], RuntimeError)


# -- cancellation --------------------------------------------------------------------------


@pytest.mark.parametrize("sensitive", [True, False])
@pytest.mark.parametrize("bridged", [True, False])
def test_cancelled_it_cancels_what_its_blocking_code_waits_for(sensitive: bool, bridged: bool) -> None:
    seen: list[str] = []

    async def inner(started: asyncio.Event) -> None:
        try:
            started.set()
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    def blocking(started: asyncio.Event) -> None:
        async_to_sync(inner)(started)

    async def main() -> None:
        started = asyncio.Event()
        task = asyncio.create_task(sync_to_async(blocking, thread_sensitive=sensitive)(started))
        await asyncio.wait_for(started.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        seen.append("over")

    if bridged:
        sidecar.run_sync(main(), timeout=30)
    else:
        asyncio.run(main())
    assert seen == ["cancelled", "over"]


def test_cancelled_before_its_turn_it_is_not_called() -> None:
    called: list[str] = []
    begun, free = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        free.wait(10)

    async def main() -> None:
        async with ThreadSensitiveContext():
            first = asyncio.create_task(sync_to_async(block)())
            while not begun.is_set():
                await asyncio.sleep(0.001)
            second = asyncio.create_task(sync_to_async(called.append)("second"))
            await asyncio.sleep(0.001)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            free.set()
            await first

    asyncio.run(main())
    assert called == []


def test_a_signals_error_in_a_thread_that_waits_for_another_loop_cancels_the_call() -> None:
    class Interrupted(Exception):
        pass

    def interrupt(*_: Any) -> None:
        raise Interrupted

    ended: list[bool] = []
    ready = threading.Event()

    async def stuck() -> None:
        ready.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append(True)
            raise

    def send() -> None:
        ready.wait(10)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        with AsyncSingleThreadContext():
            with pytest.raises(Interrupted):
                async_to_sync(stuck)()
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)
    assert ended == [True]


# -- contexts --------------------------------------------------------------------------------


@pytest.mark.parametrize("sensitive", [True, False])
def test_variables_come_back_both_ways_on_a_bridge(sensitive: bool) -> None:
    def blocking() -> None:
        variable.set(variable.get() + " blocking")

    @async_to_sync
    async def entry() -> None:
        variable.set(variable.get() + " async")
        await sync_to_async(blocking, thread_sensitive=sensitive)()
        variable.set(variable.get() + " async")

    variable.set("caller")
    entry()
    assert variable.get() == "caller async blocking async"


def test_the_error_that_is_being_handled_is_handled_there_too() -> None:
    @async_to_sync
    async def entry() -> tuple[Any, Any]:
        await asyncio.sleep(0.001)
        return sys.exc_info()[1], await sync_to_async(sys.exc_info, thread_sensitive=False)()

    try:
        raise ValueError("being handled")
    except ValueError as error:
        seen, there = entry()
        assert seen is error
        assert there[1] is error
        traceback, depth = error.__traceback__, 0
        while traceback is not None:
            traceback, depth = traceback.tb_next, depth + 1
        assert depth == 1


def test_a_traceback_shows_the_users_frames_only() -> None:
    def fail() -> None:
        raise ValueError

    with pytest.raises(ValueError) as caught:
        async_to_sync(functools.partial(failing, fail))()
    names = [entry.name for entry in caught.traceback]
    assert names[-2:] == ["failing", "fail"]
    if sys.version_info >= (3, 11):  # before, a frame that raises again is always added
        assert not [each for each in caught.traceback if "compat/asgiref" in str(each.path)]


async def failing(fail: Callable[[], None]) -> None:
    await sync_to_async(fail)()


def test_request_crosses() -> None:
    """The request in progress is known on both sides."""
    seen: list[str | None] = []

    def current() -> str | None:
        request = sidecar.current()
        return request.id if request is not None else None

    def application(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(current())

        @async_to_sync
        async def entry() -> None:
            seen.append(current())
            seen.append(await sync_to_async(current)())
            seen.append(await sync_to_async(current, thread_sensitive=False)())

        entry()
        start_response("200 OK", [])
        return []

    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}
    response = sidecar.WSGIMiddleware(application)(environ, lambda *_: lambda _: None)
    list(response)
    getattr(response, "close", int)()
    assert len(seen) == 4
    assert seen[0] is not None
    assert len(set(seen)) == 1


# -- Local -------------------------------------------------------------------------------------


def test_local_is_seen_wherever_its_coroutine_goes() -> None:
    local = Local()
    local.value = "caller"

    async def entry() -> list[Any]:
        found = [local.value]
        await asyncio.sleep(0.01)  # the background thread may take over
        found.append(local.value)
        found.append(await sync_to_async(getattr, thread_sensitive=False)(local, "value"))
        local.value = "entry"
        return found

    assert async_to_sync(entry)() == ["caller"] * 3
    assert local.value == "entry"


def test_local_goes_to_a_loop_in_another_thread_and_back() -> None:
    local = Local()
    local.value = "caller"

    async def entry() -> Any:
        found, local.value = local.value, "entry"
        return found

    with AsyncSingleThreadContext():
        assert async_to_sync(entry)() == "caller"
        assert async_to_sync(entry)() == "entry"
    assert local.value == "entry"


def test_thread_critical_data_of_a_call_ends_with_it() -> None:
    local = Local(thread_critical=True)

    @async_to_sync
    async def entry() -> bool:
        before = hasattr(local, "value")
        local.value = 1
        assert await asyncio.create_task(present()) == 1
        return before

    async def present() -> Any:
        return local.value

    assert entry() is False
    assert entry() is False


# -- single threads, forks, leaks -----------------------------------------------------------------


def test_single_thread_context_cancels_what_it_leaves() -> None:
    seen: list[str] = []

    async def entry() -> None:
        async def late() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                seen.append("late")

        seen.append("entry")
        entry.task = asyncio.create_task(late())  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    with AsyncSingleThreadContext():
        async_to_sync(entry)()
        assert seen == ["entry"]
    assert seen == ["entry", "late"]


def test_a_new_loop_for_each_call_where_it_is_forced() -> None:
    seen: list[Any] = []

    @async_to_sync(force_new_loop=True)
    async def entry() -> None:
        seen.append((weakref.ref(asyncio.get_running_loop()), await where()))

    entry()
    entry()
    (first, one), (second, other) = seen
    assert one == other == threading.get_ident()
    assert first() is None or first() is not second()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_both_ways_in_the_child_of_a_fork() -> None:
    @async_to_sync
    async def entry() -> tuple[int, int]:
        return await sync_to_async(os.getpid)(), await sync_to_async(os.getpid, thread_sensitive=False)()

    entry()
    assert sidecar.submit(where).result()  # the shared thread is there
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if entry() == (os.getpid(),) * 2 and sidecar.submit(where).result() else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_threads_of_contexts_end() -> None:
    async def main() -> None:
        for _ in range(5):
            async with ThreadSensitiveContext():
                await where()

    before = threading.active_count()
    asyncio.run(main())
    wait_for(lambda: threading.active_count() <= before, "a context's thread is left")


def test_nothing_is_kept_of_a_call() -> None:
    class Thing:
        pass

    def blocking(thing: Thing) -> Thing:
        return thing

    async def entry(thing: Thing) -> Thing:
        await sync_to_async(blocking, thread_sensitive=False)(thing)
        return await sync_to_async(blocking)(thing)

    thing = Thing()
    gone = weakref.ref(thing)
    assert async_to_sync(entry)(thing) is thing
    assert asyncio.run(entry(thing)) is thing
    assert sidecar.submit(entry, thing).result() is thing
    del thing

    def is_gone() -> bool:
        if not getattr(sys, "_is_gil_enabled", lambda: True)():
            gc.collect()  # what a sleeping thread of a free-threaded build owns waits for it otherwise
        return gone() is None

    # The shared thread lets go of its last job when it has told the end.
    wait_for(is_gone, "the argument of a call is kept")


def test_an_errors_cycle_is_broken() -> None:
    class Failed(Exception):
        pass

    def fail() -> None:
        raise Failed

    async def entry() -> None:
        await sync_to_async(fail)()

    def call() -> Any:
        try:
            async_to_sync(entry)()
        except Failed as error:
            return weakref.ref(error)

    gc.collect()
    gc.disable()
    try:
        gone = call()
        wait_for(lambda: gone() is None, "the error is in a cycle of references")
    finally:
        gc.enable()


def test_thread_handler_is_called_on_the_thread() -> None:
    """Channels' database_sync_to_async is such a class."""
    seen: list[int] = []

    class Handled(SyncToAsync):  # type: ignore[type-arg]
        def thread_handler(self, loop: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(threading.get_ident())
            return super().thread_handler(loop, *args, **kwargs)

    for sensitive in (True, False):
        assert async_to_sync(Handled(threading.get_ident, sensitive))() == seen[-1]
    assert seen[0] == threading.get_ident() != seen[1]
