"""Synchronizer: functions, its loop's life, translation, callbacks, warnings."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import gc
import inspect
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
import weakref
from collections.abc import Awaitable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import wait_for

import sidecar
from sidecar.errors import DeadlockError
from sidecar.synchronizer import Synchronizer


@pytest.fixture
def sync() -> Iterator[Synchronizer]:
    made = Synchronizer()
    yield made
    made.close()


async def double(x: int) -> int:
    """Twice as much."""
    await asyncio.sleep(0.001)
    return 2 * x


async def loop_of() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


# -- the faces of a function ----------------------------------------------------------


def test_three_faces(sync: Synchronizer) -> None:
    face = sync.wrap(double)
    assert face(2) == 4
    assert asyncio.run(face.aio(3)) == 6
    for future in (face(4, _future=True), face.future(4)):
        assert isinstance(future, concurrent.futures.Future)
        assert future.result(10) == 8


def test_how_faces_look(sync: Synchronizer) -> None:
    face = sync.wrap(double)
    assert (face.__name__, face.aio.__name__) == ("blocking_double", "aio_double")
    assert face.__doc__ == face.aio.__doc__ == "Twice as much."
    assert inspect.signature(face) == inspect.signature(double)
    assert inspect.iscoroutinefunction(face.aio)
    assert not inspect.iscoroutinefunction(face)
    named = sync.wrap(loop_of, name="where", target_module="elsewhere")
    assert (named.__name__, named.aio.__name__, named.__module__) == ("where", "where", "elsewhere")


def test_every_face_runs_on_its_loop(sync: Synchronizer) -> None:
    face = sync.wrap(loop_of)
    loop = sync.start()
    assert face() is face.future().result(10) is loop

    async def elsewhere() -> None:
        assert await face.aio() is loop is not asyncio.get_running_loop()

    asyncio.run(elsewhere())


def test_aio_does_not_hold_the_callers_loop(sync: Synchronizer) -> None:
    """The library's coroutine ends only when the caller's loop has gone on: it blocks its own until then."""
    went_on = threading.Event()

    async def blocks() -> bool:
        return went_on.wait(20)

    async def main() -> bool:
        work = asyncio.ensure_future(sync.wrap(blocks).aio())
        await asyncio.sleep(0.01)
        went_on.set()
        result: bool = await work
        return result

    assert asyncio.run(main())


def test_aio_inside_its_own_loop(sync: Synchronizer) -> None:
    face = sync.wrap(double)

    async def outer() -> int:
        result: int = await face.aio(5)
        return result

    assert sync.wrap(outer)() == 10


def test_another_synchronizers(sync: Synchronizer) -> None:
    other = Synchronizer(name="other")
    try:
        inner = other.wrap(loop_of)

        async def outer() -> Any:
            return await inner.aio()

        assert sync.wrap(outer)() is other.get_loop() is not sync.get_loop()
    finally:
        other.close()


def test_blocking_inside_its_own_loop_is_refused(sync: Synchronizer) -> None:
    face = sync.wrap(double)

    async def outer() -> int:
        result: int = face(1)
        return result

    with pytest.raises(DeadlockError):
        sync.wrap(outer)()


def test_many_threads(sync: Synchronizer) -> None:
    face = sync.wrap(double)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(face, range(200))) == [2 * n for n in range(200)]


def test_the_callers_context(sync: Synchronizer) -> None:
    var = contextvars.ContextVar("var", default="unset")

    async def read() -> str:
        return var.get()

    face = sync.wrap(read)
    var.set("mine")
    assert face() == face.future().result(10) == asyncio.run(face.aio()) == "mine"


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError(), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_errors_come_as_they_are(sync: Synchronizer, error: BaseException) -> None:
    async def fail() -> None:
        raise error

    face = sync.wrap(fail)
    with pytest.raises(type(error)) as raised:
        face()
    assert raised.value is error

    async def main() -> None:
        try:
            await face.aio()
        except BaseException as caught:
            assert caught is error
        else:
            pytest.fail("not raised")

    asyncio.run(main())
    assert sync.wrap(double)(1) == 2


@pytest.mark.skipif(sys.version_info < (3, 11), reason="frames are taken out of tracebacks from 3.11 on")
def test_tracebacks_have_no_frames_of_ours(sync: Synchronizer) -> None:
    async def fail() -> None:
        raise ValueError("no")

    face = sync.wrap(fail)

    class Holder:
        async def fail(self) -> None:
            raise ValueError("no")

    proxy = sync.wrap(Holder)()

    def frames(error: BaseException) -> list[str]:
        found, entry = [], error.__traceback__
        while entry is not None:
            found.append(entry.tb_frame.f_code.co_filename)
            entry = entry.tb_next
        return found

    async def awaiting(function: Any) -> None:
        with pytest.raises(ValueError) as raised:
            await function()
        assert set(frames(raised.value)) == {__file__}

    for function in (face, proxy.fail):
        with pytest.raises(ValueError) as raised:
            function()
        assert set(frames(raised.value)) == {__file__}
        asyncio.run(awaiting(function.aio))


# -- cancellation ---------------------------------------------------------------------


def test_cancelled_there_and_waited_for(sync: Synchronizer) -> None:
    seen: list[str] = []
    began = threading.Event()

    async def stubborn(swallow: bool) -> str:
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0.01)
            seen.append("cleaned up")
            if not swallow:
                raise
        return "done"

    async def main(swallow: bool) -> None:
        began.clear()
        seen.clear()
        task = asyncio.ensure_future(sync.wrap(stubborn).aio(swallow))
        while not began.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["cancelled", "cleaned up"]

    asyncio.run(main(False))
    asyncio.run(main(True))


def test_a_second_cancellation_does_not_wait(sync: Synchronizer) -> None:
    began, release, ended = threading.Event(), threading.Event(), threading.Event()

    async def stuck() -> None:
        began.set()
        release.wait(20)
        ended.set()

    async def main() -> None:
        task = asyncio.ensure_future(sync.wrap(stuck).aio())
        while not began.is_set():
            await asyncio.sleep(0.001)
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0.005)
        assert task.cancelled()
        release.set()

    asyncio.run(main())
    assert ended.wait(20)


def test_cancelled_before_it_begins(sync: Synchronizer) -> None:
    """Nothing says that a coroutine was never awaited."""
    held, release = threading.Event(), threading.Event()

    async def hold() -> None:
        held.set()
        release.wait(20)

    holding = sync.wrap(hold).future()
    assert held.wait(20)
    face = sync.wrap(double)
    future = face.future(1)
    assert future.cancel()

    async def main() -> None:
        task = asyncio.ensure_future(face.aio(1))
        await asyncio.sleep(0.001)
        task.cancel()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    holding.result(20)
    gc.collect()


def test_it_cancels_itself(sync: Synchronizer) -> None:
    async def quits() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await sync.wrap(quits).aio()

    asyncio.run(main())


def test_a_signal_cancels_the_call_and_waits_for_its_cleanup(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import asyncio, os, signal, threading
        from sidecar.synchronizer import Synchronizer
        sync = Synchronizer()

        @sync.wrap
        async def forever():
            asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)
                print("cleaned up")

        try:
            forever()
        except KeyboardInterrupt:
            print("interrupted")
    """)
    path = tmp_path / "script.py"
    path.write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(Path(sidecar.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, str(path)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("cleaned up\ninterrupted\n", "")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# -- what is no coroutine function ------------------------------------------------------


def test_annotations_make_async_faces(sync: Synchronizer) -> None:
    def gives() -> Coroutine[Any, Any, int]:
        return double(4)

    def hidden():  # type: ignore[no-untyped-def]
        return double(4)

    def future() -> Awaitable[int]:
        return asyncio.ensure_future(double(4))

    def unknown(x: NoSuchName[Coroutine]) -> NoSuchModule.Coroutine[int]:  # type: ignore  # noqa: F821
        return double(4)

    def plain(x: int) -> int:
        return x + 1

    for function in (gives, unknown):
        face = sync.wrap(function)
        args = (None,) if function is unknown else ()
        assert face(*args) == 8
        assert asyncio.run(face.aio(*args)) == 8
        assert face.future(*args).result(10) == 8
    assert sync.wrap(hidden)() == 8
    assert not hasattr(sync.wrap(hidden), "aio")
    assert hasattr(sync.wrap(future), "aio")
    assert sync.wrap(plain)(1) == 2
    assert not hasattr(sync.wrap(plain), "aio")


def test_a_decorated_function_is_known(sync: Synchronizer) -> None:
    @functools.wraps(double)
    def decorated(*args: Any) -> Any:
        return double(*args)

    face = sync.wrap(decorated)
    assert face(3) == asyncio.run(face.aio(3)) == 6


def test_a_decorator_around_a_face_is_another_function(sync: Synchronizer) -> None:
    face = sync.wrap(double)

    @functools.wraps(face)
    def decorated(x: int) -> int:
        result: int = face(x) + 1
        return result

    assert sync.translate_in(face) is double
    assert sync.translate_in(decorated) is decorated
    assert sync.wrap(decorated)(2) == 5


def test_lambdas_partials_and_builtins(sync: Synchronizer) -> None:
    assert sync.wrap(lambda x: double(x))(2) == 4
    assert sync.wrap(functools.partial(double, 4))() == 8
    assert sync.wrap(len)([1, 2]) == 2


def test_what_cannot_be_wrapped(sync: Synchronizer) -> None:
    with pytest.raises(TypeError, match="takes a function or a class, not 3"):
        sync.wrap(3)
    with pytest.raises(TypeError, match="not the coroutine"):
        sync.wrap(double(1))
    with pytest.raises(TypeError, match="class dict is built in"):
        sync.wrap(dict)


# -- its loop -------------------------------------------------------------------------


def test_start_is_idempotent_from_any_thread(sync: Synchronizer) -> None:
    assert sync.get_loop() is None
    assert sync.thread is None
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        loops = set(pool.map(lambda _: sync.start(), range(200)))
    assert loops == {sync.get_loop()}


def test_its_thread(sync: Synchronizer) -> None:
    sync.start()
    thread = sync.thread
    assert thread is not None and thread.is_alive() and thread is sync.thread

    async def ident() -> int:
        return threading.get_ident()

    assert sync.wrap(ident).future().result(10) == thread.ident
    sync.close()
    assert sync.thread is None


def test_restart(sync: Synchronizer) -> None:
    face = sync.wrap(loop_of)
    first = face()
    sync.close()
    sync.close()
    assert first.is_closed()
    assert sync.get_loop() is None
    second = face()
    assert second is not first and not second.is_closed()


def test_close_cancels_what_runs(sync: Synchronizer) -> None:
    began = threading.Event()

    async def forever() -> None:
        began.set()
        await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.ensure_future(sync.wrap(forever).aio())
        await asyncio.get_running_loop().run_in_executor(None, began.wait)
        await asyncio.get_running_loop().run_in_executor(None, sync.close)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_close_inside_is_refused(sync: Synchronizer) -> None:
    async def suicidal() -> None:
        sync.close()

    loop = sync.start()
    with pytest.raises(DeadlockError):
        sync.wrap(suicidal)()
    assert sync.start() is loop


def test_dropped_it_ends() -> None:
    sync = Synchronizer()
    loop = sync.start()
    gone = weakref.ref(sync)
    del sync
    wait_for(lambda: gc.collect() is not None and gone() is None, "the Synchronizer to go")
    wait_for(loop.is_closed, "its loop's end")


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_after_a_fork(sync: Synchronizer) -> None:
    face = sync.wrap(double)
    assert face(1) == 2
    assert sync.thread is not None
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            fine = sync.thread is None and sync.get_loop() is None
            fine = fine and face(2) == 4 and sync.thread is not None
            sync.close()
            code = 0 if fine else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert face(3) == 6


def test_pickle() -> None:
    sync = Synchronizer(multiwrap_warning=True, finalizer_timeout=3, name="pickled")
    sync.start()
    try:
        copy = pickle.loads(pickle.dumps(sync))
    finally:
        sync.close()
    assert copy.get_loop() is None
    assert copy.finalizer_timeout == 3
    assert repr(copy) == "<sidecar.Synchronizer 'pickled' not running>"
    with pytest.warns(UserWarning, match="already wrapped"):
        copy.wrap(copy.wrap(double))
    assert copy.wrap(loop_of) is not sync.wrap(loop_of)
    copy.close()


# -- translation ----------------------------------------------------------------------


class Thing:
    def __init__(self, name: str = "") -> None:
        self.name = name


def test_containers_are_translated(sync: Synchronizer) -> None:
    wrapped = sync.wrap(Thing)
    proxy = wrapped("one")
    inside = sync.translate_in([proxy, (proxy, {"key": proxy}), 3])
    thing = inside[0]
    assert type(thing) is Thing
    assert inside == [thing, (thing, {"key": thing}), 3]
    outside = sync.translate_out(inside)
    assert outside == [proxy, (proxy, {"key": proxy}), 3]
    assert sync.translate_out(Thing) is wrapped
    assert sync.translate_in(wrapped) is Thing


def test_what_does_not_change_is_the_same_object(sync: Synchronizer) -> None:
    values: list[Any] = [1, "two", {"three": (4, [5])}]
    assert sync.translate_in(values) is values
    assert sync.translate_out(values) is values
    values.append(values)
    assert sync.translate_in(values) is values
    shared = [sync.wrap(Thing)()]
    first, second = sync.translate_in([shared, shared])
    assert first is second is not shared


def test_arguments_and_results(sync: Synchronizer) -> None:
    wrapped = sync.wrap(Thing)

    async def pick(things: list[Thing], key: Thing | None = None) -> dict[str, Thing]:
        assert all(type(thing) is Thing for thing in (*things, key))
        return {thing.name: thing for thing in things}

    a, b = wrapped("a"), wrapped("b")
    face = sync.wrap(pick)
    assert face([a, b], key=a) == asyncio.run(face.aio([a, b], key=b)) == {"a": a, "b": b}
    assert face.future([a], key=b).result(10) == {"a": a}


def test_without_translation(sync: Synchronizer) -> None:
    wrapped = sync.wrap(Thing)
    made: list[Thing] = [Thing()]

    async def echo(thing: Any) -> tuple[Any, Any]:
        return thing, made[0]

    proxy = wrapped()
    for mark, kept, raw in (
        (sync.no_input_translation, proxy, False),
        (sync.no_output_translation, sync.translate_in(proxy), True),
        (sync.no_io_translation, proxy, True),
    ):
        marked: Any = mark(functools.partial(echo))
        given, own = sync.wrap(marked)(proxy)
        assert given is kept
        assert (type(own) is Thing) is raw


def test_external_wrappers(sync: Synchronizer) -> None:
    class Outside:
        def __init__(self, thing: Thing) -> None:
            self.thing = thing

    outsides: dict[int, Outside] = {}
    sync.register_external_wrapper_class(
        Thing,
        Outside,
        translate_in=lambda outside: outside.thing,
        translate_out=lambda thing: outsides.setdefault(id(thing), Outside(thing)),
    )
    outside = Outside(Thing("x"))
    outsides[id(outside.thing)] = outside

    async def echo(thing: Thing) -> list[Thing]:
        assert type(thing) is Thing
        return [thing]

    assert sync.wrap(echo)(outside) == [outside]
    assert sync.translate_out(Thing) is Outside
    assert sync.translate_in(Outside) is Thing
    for pair in ((Thing, Synchronizer), (Synchronizer, Outside)):
        with pytest.raises(RuntimeError, match="external wrapper"):
            sync.register_external_wrapper_class(
                *pair, translate_in=lambda obj: obj, translate_out=lambda obj: obj  # type: ignore
            )


def test_decorators_are_translated(sync: Synchronizer) -> None:
    wrapped = sync.wrap(Thing)

    def decorator(prefix: str) -> Any:
        def decorated(thing: Thing) -> Thing:
            assert type(thing) is Thing
            return thing

        return decorated

    proxy = wrapped()
    assert sync.wrap(decorator)("p")(proxy) is proxy


def test_is_synchronized(sync: Synchronizer) -> None:
    face, wrapped = sync.wrap(double), sync.wrap(Thing)
    assert all(map(sync.is_synchronized, (face, face.aio, wrapped, wrapped())))
    assert not any(map(sync.is_synchronized, (double, Thing, Thing(), 3)))
    assert not Synchronizer().is_synchronized(face)


# -- callbacks ------------------------------------------------------------------------


def test_callbacks_run_on_the_pool_and_at_the_same_time(sync: Synchronizer) -> None:
    together = threading.Barrier(2, timeout=20)
    inner = sync.wrap(double)

    def blocking(x: int) -> int:
        together.wait()
        result: int = inner(x)  # it may call the library back
        return result

    async def library(callback: Any) -> list[int]:
        return list(await asyncio.gather(callback(1), callback(2)))

    assert sync.wrap(library)(sync.create_callback(blocking)) == [2, 4]


def test_callbacks_translate_the_other_way(sync: Synchronizer) -> None:
    wrapped = sync.wrap(Thing)

    async def users(thing: Any, *, more: Any) -> Any:
        assert type(thing) is type(more[0]) is wrapped
        return [wrapped("made")]

    async def library(callback: Any) -> str:
        (made,) = await callback(Thing(), more=[Thing()])
        assert type(made) is Thing
        return str(made.name)

    assert sync.wrap(library)(sync.create_callback(users)) == "made"


def test_callbacks_are_no_generators(sync: Synchronizer) -> None:
    def generator() -> Iterator[int]:
        yield 1

    async def library(callback: Any) -> None:
        await callback()

    with pytest.raises(RuntimeError, match="Generators are not supported"):
        sync.wrap(library)(sync.create_callback(generator))


# -- warnings -------------------------------------------------------------------------


def test_multiwrap_warning(sync: Synchronizer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        face = sync.wrap(double)
        assert sync.wrap(double) is sync.wrap(face) is face
    loud = Synchronizer(multiwrap_warning=True)
    face = loud.wrap(double)
    for again in (double, face):
        with pytest.warns(UserWarning, match="is already wrapped, but getting wrapped again"):
            assert loud.wrap(again) is face


def test_leakage_warning(sync: Synchronizer) -> None:
    async def leaks() -> Any:
        return double(1)

    with pytest.warns(UserWarning, match="Potential async leakage"):
        sync.wrap(leaks)().close()
    quiet = Synchronizer(async_leakage_warning=False)
    quiet.wrap(leaks)().close()
    quiet.close()


def test_blocking_in_async_callback() -> None:
    called: list[Any] = []
    sync = Synchronizer(blocking_in_async_callback=called.append)
    face = sync.wrap(double)

    async def main() -> int:
        result: int = face(2)
        return result

    assert face(1) == 2
    assert called == []
    assert asyncio.run(main()) == 4
    assert called == [double]
    sync.close()
