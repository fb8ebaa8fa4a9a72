"""Context managers by ``to_async`` and ``to_sync``; ``wrap_context`` and ``enter_context``."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
import io
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
from harness import wait_for

import sidecar
from sidecar._wrappers import enter_context, to_async, to_sync, wrap_context

Run = Callable[[Coroutine[Any, Any, Any]], Any]
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture(params=["bridge", "foreign loop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on the bridge's loop, or on a plain one of asyncio's."""
    return sidecar.run_sync if request.param == "bridge" else asyncio.run


class Manager:
    """Writes down how it is entered and left; suppresses ``LookupError``."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.threads: set[int] = set()

    def _note(self, event: Any) -> None:
        self.events.append(event)
        self.threads.add(threading.get_ident())

    def __enter__(self) -> str:
        self._note("in")
        self.token = variable.set("inside")
        return "value"

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool:
        self._note(error)
        assert (kind, traceback) == ((type(error), error.__traceback__) if error else (None, None))
        variable.reset(self.token)
        return isinstance(error, LookupError)


class AsyncManager(Manager):
    async def __aenter__(self) -> str:
        self.task = asyncio.current_task()
        await asyncio.sleep(0)
        return super().__enter__()

    async def __aexit__(self, *exc_info: Any) -> bool:
        assert asyncio.current_task() is self.task
        await asyncio.sleep(0)
        return super().__exit__(*exc_info)

    __enter__ = __exit__ = None  # type: ignore[assignment]


@contextlib.contextmanager
def generator_manager(manager: Manager) -> Iterator[str]:
    """Enter it."""
    with manager as value:
        yield value


@contextlib.asynccontextmanager
async def async_generator_manager(manager: AsyncManager) -> AsyncIterator[str]:
    """Enter it."""
    async with manager as value:
        yield value


BLOCKING = [to_async, to_async(generator_manager)]
SYNC = [to_sync, to_sync(async_generator_manager), wrap_context]
names = {"ids": lambda face: face.__name__}


# -- blocking ones as async ones ----------------------------------------------------


@pytest.mark.parametrize("face", BLOCKING, **names)
def test_async_with(face: Any, run: Run) -> None:
    manager = Manager()

    async def main() -> None:
        async with face(manager) as value:
            assert (value, manager.events) == ("value", ["in"])
        assert variable.get() == "unset"

    run(main())
    assert manager.events == ["in", None]
    assert threading.main_thread().ident not in manager.threads


@pytest.mark.parametrize("face", BLOCKING, **names)
def test_exceptions_go_into_the_exit(face: Any, run: Run) -> None:
    error, suppressed = ValueError("mine"), LookupError("suppressed")

    async def main(manager: Manager, error: Exception) -> str:
        async with face(manager):
            raise error
        return "suppressed"

    manager = Manager()
    with pytest.raises(ValueError) as caught:
        run(main(manager, error))
    assert caught.value is error and manager.events == ["in", error]
    assert run(main(Manager(), suppressed)) == "suppressed"


def test_exit_that_fails(run: Run) -> None:
    @to_async
    @contextlib.contextmanager
    def failing() -> Iterator[None]:
        try:
            yield
        finally:
            raise OSError("in the exit")

    class Failing:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            raise OSError("in the exit")

    async def main(manager: Any) -> None:
        async with manager:
            raise ValueError("in the body")

    for manager in (failing(), to_async(Failing())):
        with pytest.raises(OSError, match="in the exit") as caught:
            run(main(manager))
        assert isinstance(caught.value.__context__, ValueError)


def test_entering_that_fails(run: Run) -> None:
    class Failing(Manager):
        def __enter__(self) -> str:
            raise OSError("no entry")

    manager = Failing()

    async def main() -> None:
        async with to_async(manager):
            raise AssertionError("entered")

    with pytest.raises(OSError, match="no entry"):
        run(main())
    assert manager.events == []


def test_lock_among_tasks(run: Run) -> None:
    lock = to_async(threading.Lock())
    inside = most = 0

    async def one() -> None:
        nonlocal inside, most
        async with lock:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    async def main() -> None:
        await asyncio.gather(*(one() for _ in range(8)))

    run(main())
    assert (inside, most) == (0, 1)


def test_cancelled_while_it_is_entered(run: Run) -> None:
    """What nobody is going to leave is left by the thread that has entered it."""
    lock = threading.Lock()

    class Locked:
        waits = threading.Event()

        def __enter__(self) -> None:
            self.waits.set()
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    manager = Locked()

    async def enter() -> None:
        async with to_async(manager):
            raise AssertionError("entered")

    async def main() -> None:
        lock.acquire()
        task = asyncio.ensure_future(enter())
        while not manager.waits.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait({task}, timeout=20)
        assert task.cancelled()

    run(main())
    lock.release()

    def free_again() -> bool:
        if not lock.acquire(blocking=False):
            return False
        lock.release()
        return True

    wait_for(lambda: free_again(), "the lock is free again")


def test_cancelled_while_it_waits_for_the_pool() -> None:
    manager, hold, left = Manager(), threading.Event(), Manager()

    async def stay() -> None:
        async with to_async(left, bridge=bridge):
            begun.set()
            await asyncio.sleep(60)

    async def enter() -> None:
        async with to_async(manager, bridge=bridge):
            raise AssertionError("entered")

    async def main() -> None:
        global begun
        begun = asyncio.Event()
        inside = asyncio.ensure_future(stay())
        await begun.wait()
        busy = asyncio.ensure_future(to_async(hold.wait, bridge=bridge)(20))
        entering = asyncio.ensure_future(enter())
        await asyncio.sleep(0)
        for task in (entering, inside):
            task.cancel()
        await asyncio.sleep(0.01)
        inside.cancel()  # while its exit is in the queue
        await asyncio.wait({entering, inside}, timeout=20)
        assert entering.cancelled() and inside.cancelled() and not busy.done()
        hold.set()
        await busy

    with sidecar.Sidecar(workers=1) as bridge:
        bridge.run_sync(main())
        wait_for(lambda: len(left.events) == 2, "it is left")
        assert isinstance(left.events[1], asyncio.CancelledError)
    assert manager.events == []


begun: asyncio.Event


def test_file_is_both(run: Run) -> None:
    file = io.StringIO("one\ntwo\n")

    async def main() -> list[str]:
        face = to_async(file)
        async with face:
            return [line async for line in face]

    assert run(main()) == ["one\n", "two\n"]
    assert file.closed


def test_left_where_the_pool_is_gone() -> None:
    manager = Manager()

    async def main() -> None:
        bridge = sidecar.Sidecar()
        async with to_async(manager, bridge=bridge):
            await asyncio.get_running_loop().run_in_executor(None, bridge.shutdown)

    asyncio.run(main())
    assert manager.events == ["in", None]


def test_faces_of_functions_look_like_them() -> None:
    for face in (to_async(generator_manager), to_sync(async_generator_manager)):
        assert face.__doc__ == "Enter it."
        assert list(inspect.signature(face).parameters) == ["manager"]
        assert not inspect.iscoroutinefunction(face)
    with pytest.raises(TypeError, match="generator_manager"):
        to_async(generator_manager)(1, 2, 3)  # type: ignore[call-arg]


# -- async ones as sync ones --------------------------------------------------------


@pytest.mark.parametrize("face", SYNC, **names)
def test_with(face: Any) -> None:
    manager = AsyncManager()
    with face(manager) as value:
        assert (value, manager.events) == ("value", ["in"])
        assert variable.get() == "unset"
    assert manager.events == ["in", None]


@pytest.mark.parametrize("face", SYNC, **names)
@pytest.mark.parametrize(
    "kind", [ValueError, KeyboardInterrupt, StopIteration, StopAsyncIteration, GeneratorExit]
)
def test_body_that_fails(face: Any, kind: type[BaseException]) -> None:
    manager, error = AsyncManager(), kind("mine")
    with pytest.raises(kind) as caught, face(manager):
        raise error
    assert caught.value is error
    assert manager.events == ["in", error]
    if sys.version_info >= (3, 11):
        assert all("/sidecar/_wrap" not in str(entry.path) for entry in caught.traceback)


@pytest.mark.parametrize("face", SYNC, **names)
def test_suppressed(face: Any) -> None:
    manager = AsyncManager()
    with face(manager):
        raise LookupError
    assert isinstance(manager.events[1], LookupError)


def test_async_exit_that_fails() -> None:
    class Failing:
        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, *_: object) -> None:
            raise OSError("in the exit")

    with pytest.raises(OSError, match="in the exit") as caught, wrap_context(Failing()):
        raise ValueError("in the body")
    assert isinstance(caught.value.__context__, ValueError)
    with pytest.raises(OSError, match="in the exit"), wrap_context(Failing()):
        pass


def test_async_entering_that_fails() -> None:
    @contextlib.asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        await asyncio.sleep(0)
        raise OSError("no entry")
        yield

    with pytest.raises(OSError, match="no entry"), to_sync(failing)():
        raise AssertionError("entered")
    with pytest.raises(OSError, match="no entry"):
        enter_context(failing())


def test_scopes_that_are_tied_to_their_task() -> None:
    @contextlib.asynccontextmanager
    async def scoped() -> AsyncIterator[anyio.CancelScope]:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(asyncio.sleep, 60)
                yield scope
                group.cancel_scope.cancel()

    with wrap_context(scoped()) as scope:
        assert not scope.cancel_called
    with wrap_context(anyio.create_task_group) as group:
        sidecar.run_sync(call_soon(group.cancel_scope.cancel))
    with pytest.raises(TimeoutError), wrap_context(limited()):
        wait_for(lambda: gone.is_set(), "its time is over")


gone = threading.Event()


async def call_soon(function: Callable[[], object]) -> None:
    function()


@contextlib.asynccontextmanager
async def limited() -> AsyncIterator[None]:
    with anyio.fail_after(0.01):
        try:
            yield
        finally:
            gone.set()


def test_made_on_the_loop() -> None:
    loop = sidecar.get_bridge().get_loop()

    class Client(AsyncManager):
        def __init__(self) -> None:
            super().__init__()
            assert asyncio.get_running_loop() is loop

    async def connect() -> AsyncManager:
        await asyncio.sleep(0)
        return AsyncManager()

    for make in (Client, connect, lambda: Client()):
        with wrap_context(make) as value:
            assert value == "value"
        assert enter_context(make) == "value"


def test_entered_by_many_threads_at_once() -> None:
    inside = most = 0
    lock = sidecar.run_sync(new_lock())
    face = to_sync(lock)

    def one(_: int) -> None:
        nonlocal inside, most
        with face:
            inside += 1
            most = max(most, inside)
            time.sleep(0.001)
            inside -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(16)))
    assert (inside, most) == (0, 1)


def test_each_thread_leaves_what_it_has_entered() -> None:
    class Shared:
        def __init__(self) -> None:
            self.inside: set[Any] = set()

        async def __aenter__(self) -> Any:
            await asyncio.sleep(0)
            self.inside.add(asyncio.current_task())
            return asyncio.current_task()

        async def __aexit__(self, *_: object) -> None:
            self.inside.remove(asyncio.current_task())

    shared = Shared()
    face = to_sync(shared)

    def one(_: int) -> bool:
        with face as task, face as inner:
            return task in shared.inside and inner in shared.inside and task is not inner

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(one, range(40)))
    assert not shared.inside


async def new_lock() -> asyncio.Lock:
    return asyncio.Lock()


def test_connection_is_both() -> None:
    class Connection(AsyncManager):
        async def __aiter__(self) -> AsyncIterator[int]:
            yield 1
            yield 2

    with to_sync(Connection()) as value:
        assert value == "value"
    assert list(to_sync(Connection())) == [1, 2]


def test_dropped_without_an_exit() -> None:
    manager = AsyncManager()
    context = wrap_context(manager)
    context.__enter__()
    del context
    gc.collect()
    wait_for(lambda: len(manager.events) == 2, "it is left")
    assert isinstance(manager.events[1], GeneratorExit)


def test_exit_without_an_entry() -> None:
    with pytest.raises(RuntimeError, match="not entered"):
        wrap_context(AsyncManager()).__exit__(None, None, None)


@pytest.mark.parametrize("wrap", [wrap_context, enter_context])
def test_what_is_no_async_context(wrap: Any) -> None:
    name = wrap.__name__
    with pytest.raises(TypeError, match=f"{name}.. takes an async context manager, .* not 3"):
        wrap(3)
    with pytest.raises(TypeError, match="a sync one is used as it is"):
        wrap(Manager())
    coroutine = new_lock()
    with pytest.raises(TypeError, match=rf"write {name}\(new_lock\)"):
        wrap(coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
    with pytest.raises(TypeError, match="bridge=3"):
        wrap(AsyncManager(), bridge=3)
    with pytest.raises(TypeError, match="which is no async context manager"):
        with contextlib.ExitStack() as stack:
            stack.enter_context(wrap(lambda: 3))
