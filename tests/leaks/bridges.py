"""Scenarios: bridges and pools come and go; requests."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import sys
import threading
import warnings
from typing import Any

from leaks.calls import nap, refused
from leaks.measure import Scenarios

import sidecar
from sidecar._bridge import WorkerPool

scenario = Scenarios()
pool = WorkerPool(2, "leaks")
warnings.simplefilter("ignore", ResourceWarning)


@scenario(10)
def bridges() -> None:
    with sidecar.Sidecar(workers=1) as bridge:
        bridge.run_sync(nap())
    assert bridge.shutdown()


@scenario()
def bridges_never_started() -> None:
    bridge = sidecar.Sidecar(name="unused")
    repr(bridge)
    assert not bridge.is_running()
    assert bridge.shutdown()


@scenario()
def wrong_bridges() -> None:
    make: Any = sidecar.Sidecar
    refused(ValueError, make, workers=0)
    refused(ValueError, make, workers="1")
    refused(ValueError, make, name="")
    refused(ValueError, make, timeout=-1)
    refused(ValueError, make, shutdown_timeout=float("inf"))
    refused(TypeError, make, timeout=[])


@scenario(10)
def the_default_bridge() -> None:
    assert sidecar.run_sync(nap(0, 1)) == 1
    assert sidecar.shutdown()


@scenario(10)
def shutdown_with_work_left() -> None:
    async def leave() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.kept = [loop.create_task(nap(60)) for _ in range(3)]
        loop.call_later(60, nap, [])
        loop.run_in_executor(None, len, [])
        agen = steps()
        await agen.__anext__()
        loop.kept.append(agen)

    async def steps() -> Any:
        yield 1

    bridge = sidecar.Sidecar(workers=1)
    bridge.run_sync(leave())
    loop = bridge.get_loop()
    assert bridge.shutdown()
    del loop.kept  # type: ignore[attr-defined]


@scenario(5)
def shutdown_with_calls_under_way() -> None:
    begun = threading.Barrier(4)

    async def work() -> None:
        await asyncio.get_running_loop().run_in_executor(None, begun.wait)
        await asyncio.sleep(60)

    def call() -> None:
        with contextlib.suppress(asyncio.CancelledError, sidecar.BridgeClosedError):
            bridge.run_sync(work())

    bridge = sidecar.Sidecar(workers=4)
    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    begun.wait(20)
    assert bridge.shutdown()
    for caller in callers:
        caller.join()


@scenario()
def shutdown_inside() -> None:
    async def work() -> None:
        sidecar.shutdown()

    async def work_on(bridge: sidecar.Sidecar) -> None:
        bridge.shutdown()

    bridge = sidecar.get_bridge()
    refused(sidecar.DeadlockError, bridge.run_sync, work_on(bridge))


# -- the pool -----------------------------------------------------------------------


@scenario()
def jobs() -> None:
    assert pool.submit(len, [1]).result(20) == 1
    assert pool.submit(sorted, [2, 1], key=abs, reverse=True).result(20) == [2, 1]


@scenario()
def jobs_that_fail() -> None:
    future = pool.submit(int, "x")
    refused(ValueError, future.result, 20)
    refused(TypeError, pool.submit)


@scenario()
def jobs_cancelled() -> None:
    gate = threading.Event()
    running = [pool.submit(gate.wait, 20) for _ in range(2)]
    waiting = [pool.submit(len, []) for _ in range(3)]
    assert all(future.cancel() for future in waiting)
    gate.set()
    assert all(future.result(20) for future in running)


@scenario(10)
def pools() -> None:
    made = WorkerPool(2, "made")
    made.submit(len, []).result(20)
    made.shutdown()
    refused(RuntimeError, made.submit, len, [])


@scenario(10)
def pools_ended_with_jobs_left() -> None:
    made = WorkerPool(1, "made")
    gate = threading.Event()
    begun = threading.Event()
    first = made.submit(lambda: (begun.set(), gate.wait(20)))
    assert begun.wait(20)
    futures = [made.submit(len, [number]) for number in range(3)]
    made.shutdown(wait=False, cancel_futures=True)
    gate.set()
    assert first.result(20)
    assert all(future.cancelled() for future in futures)
    made.shutdown()


@scenario()
def a_pool_that_is_full() -> None:
    made = WorkerPool(1, "full", 1)
    gate = threading.Event()
    begun = threading.Event()
    first = made.submit(lambda: (begun.set(), gate.wait(20)))
    assert begun.wait(20)
    second = made.submit(len, [])
    try:
        made.submit(len, [])
    except Exception as error:
        assert "full" in str(error) or "wait" in str(error), error
    gate.set()
    first.result(20)
    second.result(20)
    made.shutdown()


@scenario()
def wrong_pools() -> None:
    make: Any = WorkerPool
    refused(ValueError, make, 0, "x")
    refused(TypeError, make, "1", "x")
    refused(TypeError, make)


# -- requests -------------------------------------------------------------------------


class Body:
    """A body with close(), and with a length where it is asked to have one."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)

    def __iter__(self) -> Any:
        return iter(self.chunks)

    def close(self) -> None:
        self.chunks.clear()


class SizedBody(Body):
    def __len__(self) -> int:
        return len(self.chunks)


def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
    if exc_info is not None:
        exc_info = None
    return [].append


def serve(app: Any, environ: dict[str, Any] | None = None, read: bool = True) -> None:
    body: Any = sidecar.WSGIMiddleware(app)(environ if environ is not None else {}, start)
    if read:
        for _ in body:
            pass
    if hasattr(body, "close"):
        body.close()


def answering(make_body: Any) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        assert sidecar.current() is environ["sidecar.request"]
        assert environ["sidecar.request"].run_sync(nap(0, 1)) == 1
        return make_body()

    return app


@scenario()
def bodies() -> None:
    def generate() -> Any:
        yield b"a"
        sidecar.run_sync(nap())
        yield b"b"

    for make in (
        lambda: [b"a", b"b"],
        lambda: [],
        lambda: (b"a",),
        lambda: Body(b"a", b"b"),
        lambda: SizedBody(b"a"),
        generate,
        lambda: io.BytesIO(b"a\nb\n"),
    ):
        serve(answering(make))
        serve(answering(make), {"HTTP_X_REQUEST_ID": "theirs"}, read=False)


@scenario()
def a_body_dropped_half_read() -> None:
    def generate() -> Any:
        yield b"a"
        yield b"b"

    body = iter(sidecar.WSGIMiddleware(answering(generate))({}, start))
    assert next(body) == b"a"
    del body
    gc.collect()


# Not made anew in each repetition: without the GIL, CPython 3.13 keeps every class for good.
class Wrapper:
    def __init__(self, file: Any, size: int = 8192) -> None:
        self.file = file

    def __iter__(self) -> Any:
        return iter(self.file)


@scenario()
def a_file_wrapper() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"x"))

    serve(app, {"wsgi.file_wrapper": Wrapper})


@scenario()
def a_written_response() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response("200 OK", [])
        write(b"written")
        return []

    serve(app)


@scenario()
def an_error_response() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        try:
            raise KeyError(1)
        except KeyError:
            start_response("500 Oops", [], sys.exc_info())
        return [b"x"]

    serve(app)


@scenario()
def apps_that_fail() -> None:
    def fails(environ: dict[str, Any], start_response: Any) -> Any:
        raise KeyError([])

    def generate() -> Any:
        yield b"a"
        raise KeyError([])

    refused(KeyError, serve, fails)
    refused(KeyError, serve, answering(generate))
    refused(TypeError, serve, answering(lambda: 3))


@scenario()
def wrong_requests() -> None:
    make: Any = sidecar.WSGIMiddleware
    refused(TypeError, make)
    refused(TypeError, make, 3)
    wrapped = make(answering(lambda: []))
    refused(TypeError, wrapped, {})
    refused(TypeError, wrapped, [], start)
    repr(wrapped)


@scenario()
def wrong_responses() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        refused(TypeError, start_response)
        refused(TypeError, start_response, "200 OK", 3)
        start_response("200 OK", [])
        return []

    serve(app)


@scenario()
def one_within_another() -> None:
    serve(sidecar.WSGIMiddleware(answering(lambda: [b"x"])))
