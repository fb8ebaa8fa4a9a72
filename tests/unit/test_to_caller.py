"""``to_caller``: sync code on the thread that waits, from wherever its coroutine is."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import traceback
from collections.abc import AsyncIterator
from typing import Any

import callers
import pytest
from callers import LONG, Where, whose

import sidecar
from sidecar import to_caller

ident = threading.get_ident
# Imported by their names, they would be imports that no code uses.
bridge, where = callers.bridge, callers.where

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class TestWhere:
    def test_on_the_thread_that_waits(self, bridge: sidecar.Sidecar, where: Where) -> None:
        assert where(lambda: bridge.run_sync(whose()) == ident())

    def test_its_arguments_and_result(self, bridge: sidecar.Sidecar, where: Where) -> None:
        def show(*args: int, **kwargs: int) -> object:
            return args, kwargs

        assert where(lambda: bridge.run_sync(to_caller(show, 1, 2, key=3))) == ((1, 2), {"key": 3})

    def test_in_the_first_step_and_in_later_ones(self, bridge: sidecar.Sidecar, where: Where) -> None:
        async def main() -> list[int]:
            found = [await to_caller(ident)]
            found.append(await to_caller(ident))
            await asyncio.sleep(0.001)
            found.append(await to_caller(ident))
            return found

        assert where(lambda: set(bridge.run_sync(main())) == {ident()})

    def test_in_child_tasks(self, bridge: sidecar.Sidecar, where: Where) -> None:
        async def grandchildren() -> list[int]:
            return [*(await asyncio.gather(whose(), whose())), await asyncio.create_task(whose(), name="named")]

        async def main() -> list[Any]:
            loop = asyncio.get_running_loop()
            found = await asyncio.gather(whose(), grandchildren(), asyncio.wait_for(whose(), LONG))
            return [found[0], *found[1], found[2], await loop.create_task(whose(), name="by hand")]

        assert where(lambda: set(bridge.run_sync(main())) == {ident()})

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup came with 3.11")
    def test_in_a_task_group(self, bridge: sidecar.Sidecar, where: Where) -> None:
        async def main() -> set[int]:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(whose()) for _ in range(3)]
            return {task.result() for task in tasks}

        assert where(lambda: bridge.run_sync(main()) == {ident()})

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
    def test_with_eager_tasks(self, bridge: sidecar.Sidecar, where: Where) -> None:
        bridge.get_loop().set_task_factory(asyncio.eager_task_factory)

        async def child() -> int:
            found: int = await to_caller(ident)
            return found

        async def main() -> set[int]:
            return {await to_caller(ident), *(await asyncio.gather(child(), child(), whose())), await child()}

        assert where(lambda: bridge.run_sync(main()) == {ident()})

    def test_with_a_task_factory(self, bridge: sidecar.Sidecar, where: Where) -> None:
        bridge.get_loop().set_task_factory(lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options))

        async def main() -> set[int]:
            return {await to_caller(ident), *(await asyncio.gather(whose(), whose()))}

        assert where(lambda: bridge.run_sync(main()) == {ident()})

    def test_in_a_stream(self, bridge: sidecar.Sidecar, where: Where) -> None:
        async def items() -> AsyncIterator[int]:
            for _ in range(3):
                yield await to_caller(ident)
                yield await asyncio.create_task(whose())

        assert where(lambda: set(bridge.stream(items)) == {ident()})

    def test_a_stream_runs_it_on_the_thread_of_each_step(self, bridge: sidecar.Sidecar) -> None:
        async def items() -> AsyncIterator[int]:
            while True:
                yield await to_caller(ident)

        with bridge.stream(items) as stream:
            assert next(stream) == ident()
            assert bridge.submit(lambda: next(stream) == ident()).result(LONG)
            assert next(stream) == ident()

    def test_in_a_gather(self, bridge: sidecar.Sidecar, where: Where) -> None:
        async def main() -> set[int]:
            return set(await bridge.gather(whose(), whose(), timeout=LONG))

        assert where(lambda: bridge.run_sync(main()) == {ident()})
        assert set(bridge.gather(whose(), whose())) == {ident()}

    def test_of_the_innermost_call(self, bridge: sidecar.Sidecar) -> None:
        """A pool's job that calls back waits itself: what it waits for goes to it, not to the outer caller."""

        def job() -> tuple[int, int]:
            return bridge.run_sync(whose()), ident()

        async def main() -> tuple[int, int, int]:
            found, pool = await bridge._on_pool(None, job)
            return found, pool, await to_caller(ident)

        found, pool, outer = bridge.run_sync(main())
        assert found == pool != outer == ident()


class TestMeanwhile:
    def test_the_loop_goes_on(self, bridge: sidecar.Sidecar, where: Where) -> None:
        """The function waits for what only the loop can do."""
        ticks = threading.Semaphore(0)

        async def tick() -> None:
            while True:
                ticks.release()
                await asyncio.sleep(0.001)

        def wait_for_ticks() -> bool:
            return all(ticks.acquire(timeout=LONG) for _ in range(5))

        async def main() -> bool:
            task = asyncio.create_task(tick())
            await asyncio.sleep(0)
            while ticks.acquire(blocking=False):
                pass
            through: bool = await to_caller(wait_for_ticks)
            task.cancel()
            return through

        assert where(lambda: bridge.run_sync(main())) is True

    def test_other_calls_go_on(self, bridge: sidecar.Sidecar, where: Where) -> None:
        def call_from_another_thread() -> Any:
            return bridge.submit(lambda: bridge.run_sync(asyncio.sleep(0.001, "other"))).result(LONG)

        assert where(lambda: bridge.run_sync(to_caller(call_from_another_thread))) == "other"

    def test_nested(self, bridge: sidecar.Sidecar, where: Where) -> None:
        async def level(depth: int) -> list[int]:
            await asyncio.sleep(0)
            if depth == 0:
                return [await to_caller(ident)]
            inner: list[int] = await to_caller(lambda: bridge.run_sync(level(depth - 1)))
            return [await to_caller(ident), *inner]

        def run() -> bool:
            found = bridge.run_sync(level(20))
            return len(found) == 21 and set(found) == {ident()}

        assert where(run)

    def test_many_at_once_run_one_by_one(self, bridge: sidecar.Sidecar, where: Where) -> None:
        inside, most, seen = 0, 0, []

        def count(i: int) -> int:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            seen.append(i)
            inside -= 1
            return ident()

        async def main() -> list[int]:
            return list(await asyncio.gather(*(to_caller(count, i) for i in range(200))))

        assert where(lambda: set(bridge.run_sync(main())) == {ident()})
        assert most == 1 and sorted(seen) == list(range(200))

    def test_from_many_threads(self, bridge: sidecar.Sidecar) -> None:
        wrong: list[object] = []

        async def main() -> set[int]:
            return {*(await asyncio.gather(*(whose() for _ in range(5)))), await to_caller(ident)}

        def call() -> None:
            for _ in range(20):
                found = bridge.run_sync(main())
                if found != {ident()}:
                    wrong.append(found)

        threads = [threading.Thread(target=call) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong and not any(thread.is_alive() for thread in threads)


class TestErrorsAndContexts:
    @pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError, MemoryError])
    def test_come_back_as_raised(self, bridge: sidecar.Sidecar, where: Where, kind: type[BaseException]) -> None:
        error = kind("as it is")

        def fail() -> None:
            raise error

        async def main() -> object:
            with pytest.raises(kind) as caught:
                await to_caller(fail)
            names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
            assert names == ["main", "fail"]
            return caught.value

        assert where(lambda: bridge.run_sync(main())) is error
        with pytest.raises(kind):
            bridge.run_sync(to_caller(fail))
        assert bridge.run_sync(asyncio.sleep(0, 1)) == 1

    def test_stop_iteration_cannot(self, bridge: sidecar.Sidecar) -> None:
        def stop() -> None:
            raise StopIteration(3)

        with pytest.raises(RuntimeError) as caught:
            bridge.run_sync(to_caller(stop))
        assert isinstance(caught.value.__cause__, StopIteration)

    def test_what_is_not_callable(self) -> None:
        for arguments in ((), (3,), (None, 1)):
            with pytest.raises(TypeError, match="takes a function and its arguments"):
                to_caller(*arguments)

    def test_it_sees_the_coroutines_context_and_changes_it(self, bridge: sidecar.Sidecar, where: Where) -> None:
        def change() -> str:
            seen = variable.get()
            variable.set("by the function")
            return seen

        async def child() -> tuple[str, str]:
            variable.set("by the child")
            return await to_caller(change), variable.get()

        async def main() -> tuple[object, ...]:
            variable.set("by the coroutine")
            return await to_caller(change), variable.get(), await asyncio.create_task(child()), variable.get()

        def run() -> tuple[object, ...]:
            return bridge.run_sync(main()), variable.get()

        found = where(lambda: contextvars.copy_context().run(run))
        inner = ("by the child", "by the function")
        assert found == (("by the coroutine", "by the function", inner, "by the function"), "unset")

    def test_changes_come_back_with_an_error_too(self, bridge: sidecar.Sidecar) -> None:
        def change() -> None:
            variable.set("before it failed")
            raise ValueError

        async def main() -> str:
            with pytest.raises(ValueError):
                await to_caller(change)
            return variable.get()

        assert bridge.run_sync(main()) == "before it failed"

    def test_no_loop_runs_there_and_the_foreign_one_still_does(self, bridge: sidecar.Sidecar, where: Where) -> None:
        def look() -> bool:
            return bridge.run_sync(to_caller(asyncio._get_running_loop)) is asyncio._get_running_loop()

        assert where(look)

    def test_whose_task_it_is_stays_known(self, bridge: sidecar.Sidecar) -> None:
        """Calls inside the function that write their changes back do not make it their own."""

        async def inner() -> None:
            await asyncio.create_task(asyncio.sleep(0))
            variable.set("by the inner one")

        async def child() -> tuple[int, str, int]:
            await to_caller(lambda: bridge.run_sync(inner(), propagate=True))
            seen = variable.get()
            return await to_caller(ident), seen, await asyncio.create_task(whose())

        async def main() -> tuple[int, str, int]:
            return await asyncio.create_task(child())

        assert bridge.run_sync(main()) == (ident(), "by the inner one", ident())
