"""sidecar.anycall.bridged, under FastAPI too; whose loop a caller is in; what the import does."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from lands import HAS_TRIO, LONG, Gate, Land, every_land

import sidecar
from sidecar.anycall import Bridged, CallAnyTimeout, bridged, call_any, call_map

SOON = 0.05

needs_trio = pytest.mark.skipif(not HAS_TRIO, reason="Trio is not installed")


@pytest.fixture(autouse=True)
def idle_trio_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # Trio keeps threads for 10 s; the count of threads after each test would wait for that.
    if HAS_TRIO:
        monkeypatch.setattr("trio._core._thread_cache.IDLE_TIMEOUT", 0.01)


@bridged
def double(number: int, *, plus: int = 0) -> int:
    """Twice the number."""
    return number * 2 + plus


@bridged(timeout=LONG)
async def triple(number: int, *, plus: int = 0) -> int:
    """Three times the number."""
    return number * 3 + plus


def thread_name() -> str:
    return threading.current_thread().name


@every_land()
@pytest.mark.parametrize("func, result", [(double, 9), (triple, 13)])
def test_called_as_the_land_calls(land: Land, func: Bridged[Any, Any], result: int) -> None:
    assert land.run(lambda: func(4, plus=1)) == result
    assert land.run(lambda: call_any(func, 4, plus=1)) == result
    assert land.run(lambda: call_map([func, func], 4, plus=1)) == [result, result]


@pytest.mark.parametrize(
    "func, name, doc",
    [(double, "double", "Twice the number."), (triple, "triple", "Three times the number.")],
)
def test_looks_like_its_function(func: Bridged[Any, Any], name: str, doc: str) -> None:
    for face in (func, func.sync, func.async_):
        assert (face.__name__, face.__qualname__, face.__module__) == (name, name, __name__)
        assert inspect.getdoc(face) == doc
        assert str(inspect.signature(face)) == "(number: 'int', *, plus: 'int' = 0) -> 'int'"
    assert inspect.iscoroutinefunction(func.async_) and not inspect.iscoroutinefunction(func.sync)
    assert func.__signature__ == inspect.signature(inspect.unwrap(func))
    assert name in repr(func)


def test_is_pickled_by_its_name(run_script: Callable[..., Any]) -> None:
    done = run_script(
        """
        import copy, pickle
        from sidecar.anycall import bridged

        @bridged
        def double(number):
            return number * 2

        print(pickle.loads(pickle.dumps(double)) is double is copy.copy(double))
        """
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_function_without_a_signature() -> None:
    assert bridged(dict.fromkeys)([1, 2]) == {1: None, 2: None}
    assert bridged(type)(1) is int


def test_takes_a_function_only() -> None:
    with pytest.raises(TypeError, match="bridged.. takes a function, not 3"):
        bridged(3)  # type: ignore[call-overload]


def test_options_are_those_of_call_any() -> None:
    assert bridged(force_offload=True)(thread_name)().startswith("Sidecar-work")
    with pytest.raises(ValueError, match="timeout must be"):
        bridged(timeout=-1)(double)
    with Gate() as gate:
        late = bridged(timeout=SOON)(gate.block)
        with pytest.raises(CallAnyTimeout, match="^Function block timed out after 0.05s$"):
            late()
    with Gate() as gate, pytest.raises(CallAnyTimeout, match="^Function block timed out after 0.05s$"):
        call_any(bridged(timeout=SOON)(gate.block))
    with Gate() as gate:
        with pytest.raises(CallAnyTimeout, match="^Function block timed out after 0.02s$"):
            call_any(bridged(timeout=LONG)(gate.block), timeout=0.02)


def test_arguments_named_as_options_are_the_functions_own() -> None:
    @bridged
    def plain(timeout: int, executor: int, force_offload: int) -> tuple[int, int, int]:
        return timeout, executor, force_offload

    assert plain(timeout=-1, executor=2, force_offload=3) == (-1, 2, 3)
    assert asyncio.run(plain.async_(timeout=-1, executor=2, force_offload=3)) == (-1, 2, 3)


# -- its two faces ------------------------------------------------------------


@every_land()
def test_sync_blocks_wherever_it_is_called(land: Land) -> None:
    def both() -> Any:
        results = double.sync(4), bridged(thread_name).sync()
        return results if land.name == "sync" else _at_once(results)

    assert land.run(both) == (8, threading.current_thread().name)


async def _at_once(value: Any) -> Any:
    return value


@every_land(but="bridge")
def test_sync_of_an_async_function_runs_on_the_bridge(land: Land) -> None:
    @bridged
    async def loop() -> asyncio.AbstractEventLoop:
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    found = land.run(lambda: loop.sync() if land.name == "sync" else _at_once(loop.sync()))
    assert found is sidecar.get_bridge().get_loop()


def test_sync_of_an_async_function_inside_the_bridge_is_a_deadlock() -> None:
    async def main() -> None:
        with pytest.raises(sidecar.DeadlockError):
            triple.sync(1)

    sidecar.run_sync(main())


def test_sync_has_the_time_out_of_an_async_function() -> None:
    @bridged(timeout=SOON)
    async def slow() -> None:
        await asyncio.sleep(LONG)

    with pytest.raises(CallAnyTimeout, match="^Function slow timed out after 0.05s$"):
        slow.sync()
    with pytest.raises(CallAnyTimeout, match="^Function slow timed out after 0.05s$"):
        asyncio.run(slow.async_())


@every_land(but="sync")
def test_async_runs_a_sync_function_on_a_thread(land: Land) -> None:
    name = land.run(bridged(thread_name).async_)
    assert name.startswith("thread_name from " if land.name == "trio" else "Sidecar-work")
    with Gate() as gate, pytest.raises(CallAnyTimeout):
        land.run(bridged(timeout=SOON)(gate.block).async_)


def test_methods() -> None:
    class Account:
        def __init__(self) -> None:
            self.sum = 10

        @bridged
        def add(self, number: int) -> int:
            """Adds."""
            return self.sum + number

        @bridged(timeout=LONG)
        async def take(self, number: int) -> int:
            return self.sum - number

    account = Account()
    assert (account.add(1), account.add.sync(1), asyncio.run(account.add.async_(1))) == (11, 11, 11)
    assert (account.take(1), account.take.sync(1), asyncio.run(account.take.async_(1))) == (9, 9, 9)
    assert Account.add(account, 2) == 12 and account.add.__doc__ == "Adds."
    assert str(inspect.signature(account.add)) == "(number: 'int') -> 'int'"
    assert str(inspect.signature(Account.add)) == "(self, number: 'int') -> 'int'"


# -- FastAPI ------------------------------------------------------------------


def test_fastapi_depends() -> None:
    fastapi = pytest.importorskip("fastapi", reason="FastAPI is not installed")
    import httpx

    async def database() -> AsyncIterator[dict[int, str]]:
        yield {1: "Alice", 2: "Bob"}

    # Not as annotations: those are strings here, and the names are local.
    data = fastapi.Depends(database)

    @bridged
    def find(user_id: int, database: Any = data) -> Any:
        if user_id not in database:
            raise fastapi.HTTPException(status_code=404, detail="no such user")
        return {"id": user_id, "name": database[user_id], "thread": thread_name()}

    @bridged(timeout=LONG)
    async def find_async(user_id: int, database: Any = data) -> Any:
        await asyncio.sleep(0)
        return {"id": user_id, "name": database[user_id]}

    @bridged(timeout=SOON)
    async def never(user_id: int) -> Any:
        await asyncio.sleep(LONG)

    def view_of(dependency: Any) -> Callable[..., Any]:
        def view(user: Any = fastapi.Depends(dependency)) -> Any:
            return user

        return view

    app = fastapi.FastAPI()
    app.get("/sync/{user_id}")(view_of(find))
    app.get("/async/{user_id}")(view_of(find_async))
    app.get("/never/{user_id}")(view_of(never))

    @app.get("/itself/{user_id}")
    @bridged
    def itself(user_id: int) -> int:
        return user_id

    async def ask() -> None:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            user = (await client.get("/sync/1")).json()
            assert user.pop("thread") != threading.current_thread().name
            assert user == {"id": 1, "name": "Alice"}
            assert (await client.get("/async/2")).json() == {"id": 2, "name": "Bob"}
            missing = await client.get("/sync/3")
            assert (missing.status_code, missing.json()) == (404, {"detail": "no such user"})
            assert (await client.get("/sync/word")).status_code == 422  # the signature's types are seen
            assert (await client.get("/itself/7")).json() == 7
            with pytest.raises(CallAnyTimeout, match="^Function never timed out after 0.05s$"):
                await client.get("/never/1")

    asyncio.run(ask())


# -- whose loop it is ---------------------------------------------------------


def sync_thread() -> int:
    return threading.get_ident()


@needs_trio
def test_trio_inside_asyncio_and_asyncio_inside_trio() -> None:
    import trio

    # A thread of the wrong library's would give each of them something to await that it does not know.
    async def in_trio() -> list[str]:
        # The bridge's loop is driven by this very thread, inside a step of Trio's.
        inside = sidecar.run_sync(in_asyncio())
        return [await call_any(thread_name), inside, await call_any(thread_name)]

    async def in_asyncio() -> Any:
        return await call_any(thread_name)

    async def both() -> Any:
        return [await in_asyncio(), *trio.run(in_trio), await in_asyncio()]

    def kinds(names: list[str]) -> str:
        return " ".join("asyncio" if name.startswith("Sidecar-work") else "trio" for name in names)

    assert kinds(trio.run(in_trio)) == "trio asyncio trio"
    assert kinds(asyncio.run(both())) == "asyncio trio asyncio trio asyncio"


@needs_trio
def test_trio_as_a_guest_of_asyncio() -> None:
    import trio

    async def trio_sleep() -> str:
        await trio.sleep(0.001)
        return "slept"

    async def guest() -> Any:
        return [
            await call_any(trio_sleep, timeout=LONG),
            await call_any(sync_thread) != threading.get_ident(),
        ]

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        over: asyncio.Future[Any] = loop.create_future()
        trio.lowlevel.start_guest_run(
            guest, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=over.set_result
        )
        return (await over).unwrap()

    assert asyncio.run(main()) == ["slept", True]


def test_in_a_callback_of_the_loop_it_is_asyncio() -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        made: asyncio.Future[Any] = loop.create_future()
        loop.call_soon(lambda: made.set_result(call_any(sync_thread)))
        return await (await made)

    assert asyncio.run(main()) != threading.get_ident()


def test_in_a_thread_beside_a_loop_it_is_sync() -> None:
    async def main() -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, call_any, sync_thread)

    assert isinstance(asyncio.run(main()), int)


# -- the import ---------------------------------------------------------------


def test_import_touches_nothing(run_script: Callable[..., Any]) -> None:
    done = run_script(
        """
        import asyncio.events, logging, sys, threading, warnings
        warnings.simplefilter("error")
        policy = asyncio.events._event_loop_policy
        import sidecar.anycall, sidecar.context
        assert asyncio.events._event_loop_policy is policy is None
        assert asyncio.events._get_running_loop() is None
        assert threading.active_count() == 1
        assert not sidecar.is_running()
        assert not logging.getLogger().handlers
        assert not {"trio", "anyio", "uvloop", "sniffio"} & set(sys.modules)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
