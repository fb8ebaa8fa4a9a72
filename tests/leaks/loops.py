"""Scenarios: ``sidecar.Loop`` by itself: handles, timers, descriptors, tasks, and its end."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import socket
import threading
import warnings
import weakref
from typing import Any

from leaks.calls import fail, nap, refused
from leaks.measure import Scenarios

import sidecar

scenario = Scenarios()
warnings.simplefilter("ignore", ResourceWarning)  # loops are dropped unclosed on purpose

loop: Any = sidecar.Loop()
loop.set_exception_handler(lambda loop, context: None)
ended = sidecar.Loop()
ended.close()
ours, theirs = socket.socketpair()
ours.setblocking(False)
context = contextvars.copy_context()


def turn() -> None:
    loop.call_soon(loop.stop)
    loop.run_forever()


def nothing(*arguments: object) -> None:
    pass


def broken(*arguments: object) -> None:
    raise ValueError([])


@scenario()
def handles_run() -> None:
    for count in range(5):
        loop.call_soon(nothing, *([object()] * count))
    loop.call_soon(nothing, [], context=context)
    turn()


@scenario()
def handles_cancelled() -> None:
    handles = [loop.call_soon(nothing, *([object()] * count)) for count in range(5)]
    for handle in handles:
        handle.cancel()
        handle.cancel()
    turn()


@scenario()
def handles_that_fail() -> None:
    loop.call_soon(broken)
    loop.call_later(0, broken, [])
    turn()
    turn()


@scenario()
def handles_that_exit() -> None:
    def leave() -> None:
        raise SystemExit

    loop.call_soon(leave)
    refused(SystemExit, loop.run_forever)


@scenario()
def a_look_at_handles() -> None:
    handle = loop.call_soon(nothing, [], 1)
    timer = loop.call_later(60, nothing, 1, 2, 3)
    for each in (handle, timer):
        repr(each)
        weakref.ref(each)
        assert each._args and each._callback is nothing and not each.cancelled() and each._context is not None
    assert timer == timer and hash(timer) and timer.when() and not timer < timer
    timer.cancel()
    repr(timer)
    turn()


@scenario()
def timers_run() -> None:
    for count in range(5):
        loop.call_later(0, nothing, *([object()] * count))
    loop.call_at(loop.time(), nothing, context=context)
    loop.run_until_complete(asyncio.sleep(0.0001))


@scenario()
def timers_cancelled() -> None:
    timers = [loop.call_later(60 + count, nothing, [], []) for count in range(5)]
    for timer in timers[1:] + timers[:1]:
        timer.cancel()


@scenario()
def wrong_arguments() -> None:
    refused(TypeError, loop.call_soon)
    refused(TypeError, loop.call_soon, nothing, wrong=1)
    refused(TypeError, loop.call_soon_threadsafe)
    refused(TypeError, loop.call_later, 1)
    refused(TypeError, loop.call_later, None, nothing)
    refused(TypeError, loop.call_later, "1", nothing)
    refused(TypeError, loop.call_at, None, nothing)
    refused(TypeError, loop.call_at, [], nothing)
    refused(TypeError, loop.create_task)
    refused(TypeError, loop.create_task, 3)
    refused(ValueError, loop.add_reader, "x", nothing)
    refused(ValueError, loop.add_reader, -1, nothing)
    refused(ValueError, loop.remove_reader, -1)


@scenario()
def wrong_arguments_in_debug_mode() -> None:
    loop.set_debug(True)
    try:
        refused(TypeError, loop.call_soon, 3)
        refused(TypeError, loop.call_later, 1, nap)
        loop.call_soon(nothing, []).cancel()
        loop.call_later(60, nothing, []).cancel()
        turn()
    finally:
        loop.set_debug(False)


@scenario()
def a_closed_loop() -> None:
    refused(RuntimeError, ended.call_soon, nothing)
    refused(RuntimeError, ended.call_soon_threadsafe, nothing)
    refused(RuntimeError, ended.call_later, 1, nothing)
    refused(RuntimeError, ended.call_at, 1, nothing)
    refused(RuntimeError, ended.add_reader, ours, nothing)
    assert ended.remove_reader(ours) is False
    coro = nap()
    refused(RuntimeError, ended.create_task, coro)
    coro.close()


@scenario(10)
def from_other_threads() -> None:
    def foreign() -> None:
        for _ in range(10):
            loop.call_soon_threadsafe(nothing, [])
            loop.call_later(0, nothing, []).cancel()
            loop.call_later(0, nothing, [])
            for timer in timers:
                timer.cancel()
        loop.call_soon_threadsafe(loop.stop)

    async def begin() -> None:
        thread.start()

    timers = [loop.call_later(60, nothing, []) for _ in range(5)]
    thread = threading.Thread(target=foreign)
    task = loop.create_task(begin())
    loop.run_forever()
    thread.join()
    assert task.done()
    loop.run_until_complete(asyncio.sleep(0.0002))


@scenario()
def readers_and_writers() -> None:
    loop.add_reader(ours, nothing, [], [], [])
    loop.add_reader(ours, nothing, [])
    loop.add_writer(ours, nothing, [])
    theirs.send(b"x")
    turn()
    turn()
    ours.recv(10)
    assert loop.remove_reader(ours) and not loop.remove_reader(ours)
    assert loop.remove_writer(ours) and not loop.remove_writer(ours)


@scenario()
def a_descriptor_that_is_none() -> None:
    refused(OSError, loop.add_reader, 999, nothing, [])
    assert loop.remove_reader(999) is False


@scenario()
def tasks() -> None:
    task = loop.create_task(nap(), name="named")
    loop.run_until_complete(task)
    refused(ValueError, loop.run_until_complete, fail(ValueError([])))
    task = loop.create_task(nap(60))
    turn()
    task.cancel()
    refused(asyncio.CancelledError, loop.run_until_complete, task)


@scenario()
def futures() -> None:
    future = loop.create_future()
    future.add_done_callback(nothing)
    future.set_result([])
    turn()


@scenario(20)
def streams() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        await writer.drain()
        writer.close()

    async def talk() -> None:
        server = await asyncio.start_unix_server(serve, "\0sidecar-leaks")
        reader, writer = await asyncio.open_unix_connection("\0sidecar-leaks")
        writer.write(b"text")
        assert await reader.read() == b"text"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    loop.run_until_complete(talk())


# -- loops come and go ------------------------------------------------------------


@scenario(10)
def loops_closed() -> None:
    made = sidecar.Loop()
    made.run_until_complete(nap())
    made.close()
    made.close()


@scenario(10)
def loops_closed_with_work_left() -> None:
    made: Any = sidecar.Loop()
    made.call_soon(nothing, [], made)
    made.call_later(60, nothing, [], made)
    made.call_soon_threadsafe(nothing, [], made)
    made.add_reader(ours, nothing, [], made)
    made.set_task_factory(lambda *arguments, **keywords: made)
    thread = threading.Thread(target=made.call_soon_threadsafe, args=(nothing, [], made))
    thread.start()
    thread.join()
    made.close()


@scenario(10)
def loops_dropped() -> None:
    made: Any = sidecar.Loop()
    made.call_soon(nothing, [], made)
    made.call_later(60, nothing, [], made)
    made.add_reader(ours, nothing, [], made)
    del made
    gc.collect()


@scenario(10)
def loops_with_everything() -> None:
    async def work() -> None:
        this = asyncio.get_running_loop()
        await this.run_in_executor(None, len, [])
        await this.shutdown_asyncgens()
        await this.shutdown_default_executor()

    made = sidecar.Loop()
    made.run_until_complete(work())
    made.close()
