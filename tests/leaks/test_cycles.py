"""What is closed goes: no cycle, no global table and no thread keeps a loop, a bridge or its tasks alive."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref

import pytest
from harness import wait_for

import sidecar


class Token:
    """What stands for all that hangs on an object."""


@pytest.fixture
def by_collector(request):
    """True: the collector may help. False: the last reference must do."""
    gc.collect()
    gc.disable()
    yield request.param
    gc.enable()


both = pytest.mark.parametrize("by_collector", [False, True], indirect=True, ids=["without gc", "with gc"])
# A bridge's loop and its root task know each other, and the bridge's own tasks know the loop.
collector = pytest.mark.parametrize("by_collector", [True], indirect=True, ids=["with gc"])


def goes(reference, by_collector):
    # A thread of the pump or the pool may just be dropping the last one.
    wait_for(
        lambda: (gc.collect() if by_collector else None, reference() is None)[1], f"{reference!r} is dead", 10
    )


@both
def test_a_loop_that_is_closed(by_collector):
    loop = sidecar.Loop()
    loop.run_until_complete(asyncio.sleep(0.001))
    reference = weakref.ref(loop)
    loop.close()
    del loop
    goes(reference, by_collector)


@both
def test_what_a_closed_loop_was_to_run(by_collector):
    """Handles, timers, readers and the inbox are emptied by ``close()``, not by the collector."""
    loop = sidecar.Loop()
    token = Token()
    reference = weakref.ref(token)
    context = contextvars.copy_context()
    context.run(contextvars.ContextVar("var").set, token)
    loop.call_soon(print, token, token, token)
    loop.call_later(60, print, token, loop)
    loop.call_soon(print, context=context)
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(print, token, loop))
    thread.start()
    thread.join()
    del thread, context, token
    loop.close()
    goes(reference, by_collector)


@collector
@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
def test_a_loop_that_is_dropped(by_collector):
    loop = sidecar.Loop()
    loop.call_later(60, print, loop)
    loop.set_task_factory(lambda loop, coro, **rest: asyncio.Task(coro, loop=loop, **rest))
    reference = weakref.ref(loop)
    del loop
    goes(reference, by_collector)


@collector
def test_a_bridge_that_is_shut_down(by_collector):
    """From 3.11 on the exception that ended the loop's root task holds the frames of ``shutdown()``."""
    bridge = sidecar.Sidecar()
    bridge.run_sync(asyncio.sleep(0.001))
    reference = weakref.ref(bridge)
    assert bridge.shutdown()
    del bridge
    goes(reference, by_collector)


@collector
def test_the_loop_of_a_bridge_that_is_shut_down(by_collector):
    """With it what was left on it: tasks, orphans, generators, timers."""

    async def leave(token):
        loop = asyncio.get_running_loop()
        loop.call_later(60, print, token, loop)
        tasks.append(loop.create_task(wait(token)))
        await loop.run_in_executor(None, id, token)

    async def wait(token):
        await asyncio.sleep(60)

    tasks = []
    token = Token()
    bridge = sidecar.Sidecar(cleanup_timeout=0.0)
    bridge.run_sync(leave(token))
    with pytest.raises(sidecar.CallTimeoutError):
        bridge.run_sync(wait(token), timeout=0.001)
    references = [weakref.ref(bridge.get_loop()), weakref.ref(token), weakref.ref(tasks[0])]
    assert bridge.shutdown()
    del bridge, token
    tasks.clear()
    for reference in references:
        goes(reference, by_collector)


@both
def test_what_a_call_was_given_and_gave(by_collector):
    async def work(token):
        await asyncio.sleep(0)
        return [token]

    token = Token()
    references = [weakref.ref(token)]
    answer = sidecar.run_sync(work(token))
    assert answer == [token]
    del token, answer
    sidecar.run_sync(asyncio.sleep(0))
    for reference in references:
        goes(reference, by_collector)


@both
def test_what_a_failed_call_held(by_collector):
    """Once its exception is forgotten; that holds the coroutine's frames, and is not made a cycle by us."""

    class Failure(Exception):
        pass

    async def work(token):
        await asyncio.sleep(0)
        raise Failure(token)

    def call():
        token = Token()
        try:
            sidecar.run_sync(work(token))
        except Failure:
            pass
        return weakref.ref(token)

    reference = call()
    goes(reference, by_collector)
