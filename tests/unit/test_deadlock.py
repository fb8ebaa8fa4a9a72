"""Calls that wait for one another: those that move go on, those that cannot are refused with their chain."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import wait_for

import sidecar
from sidecar import DeadlockError, to_caller

LONG = 30.0


@pytest.fixture
def make() -> Iterator[Callable[..., sidecar.Sidecar]]:
    made: list[sidecar.Sidecar] = []

    def make_bridge(name: str, **options: Any) -> sidecar.Sidecar:
        made.append(sidecar.Sidecar(name=name, **options).start())
        return made[-1]

    yield make_bridge
    for bridge in made:
        assert bridge.shutdown()


class Caller(threading.Thread):
    """A call in a thread of its own."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.function = function
        self.result: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error

    def outcome(self) -> Any:
        self.join(LONG)
        assert not self.is_alive(), "it hangs"
        return self.result if self.error is None else self.error


async def give(value: Any = 1) -> Any:
    await asyncio.sleep(0)
    return value


class TestPool:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_nested_through_the_pool(self, make: Any, workers: int) -> None:
        """Each level blocks one of the pool's threads."""
        bridge = make("nested", workers=workers)

        async def level(depth: int) -> int:
            if depth == 0:
                return 0
            return 1 + await bridge._on_pool(None, lambda: bridge.run_sync(level(depth - 1)))

        assert bridge.run_sync(level(50)) == 50
        assert Caller(lambda: bridge.run_sync(level(50))).outcome() == 50

    def test_nested_by_run_in_executor_and_by_submit(self, make: Any) -> None:
        bridge = make("nested", workers=2)

        async def by_executor(depth: int) -> int:
            loop = asyncio.get_running_loop()
            return depth and 1 + await loop.run_in_executor(None, lambda: bridge.run_sync(by_executor(depth - 1)))

        async def by_submit(depth: int) -> int:
            future = bridge.submit(lambda: bridge.run_sync(by_submit(depth - 1))) if depth else None
            return 1 + await asyncio.wrap_future(future) if future else 0

        assert bridge.run_sync(by_executor(50)) == 50
        assert bridge.run_sync(by_submit(50)) == 50

    def test_nested_streams(self, make: Any) -> None:
        bridge = make("nested", workers=2)

        async def level(depth: int) -> Any:
            yield depth
            if depth:
                for item in await bridge._on_pool(None, lambda: list(bridge.stream(level, depth - 1))):
                    yield item

        assert list(bridge.stream(level, 20)) == list(range(20, -1, -1))

    def test_blocked_threads_leave_the_pool_to_others(self, make: Any) -> None:
        bridge = make("blocked", workers=2)
        go: list[asyncio.Event] = []

        async def wait_long() -> None:
            go.append(asyncio.Event())
            await go[-1].wait()

        blocked = [bridge.submit(lambda: bridge.run_sync(wait_long())) for _ in range(6)]
        wait_for(lambda: len(go) == 6, "six jobs block, three times as many as there are workers")
        assert bridge.submit(len, "four").result(LONG) == 4
        for event in go:
            bridge.get_loop().call_soon_threadsafe(event.set)
        assert [job.result(LONG) for job in blocked] == [None] * 6

    def test_afterwards_no_more_than_the_workers_run(self, make: Any) -> None:
        bridge = make("after", workers=2)

        async def level(depth: int) -> int:
            return depth and await bridge._on_pool(None, lambda: bridge.run_sync(level(depth - 1)))

        bridge.run_sync(level(10))
        inside, most = 0, 0
        lock, full = threading.Lock(), threading.Barrier(2)

        def count() -> None:
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            full.wait(LONG)
            with lock:
                inside -= 1
            full.wait(LONG)

        for job in [bridge.submit(count) for _ in range(20)]:
            job.result(LONG)
        assert most == 2


class TestSameBridge:
    @pytest.mark.parametrize("call", ["run_sync", "stream"])
    def test_the_message_names_both(self, make: Any, call: str) -> None:
        bridge = make("own")

        async def items() -> Any:
            yield 1

        async def outer() -> None:
            list(bridge.stream(items)) if call == "stream" else bridge.run_sync(give())

        text = r"called inside .*outer\(\) at .*would wait for itself.*\[SC0001\]"
        with pytest.raises(DeadlockError, match=text) as caught:
            bridge.run_sync(outer())
        assert ("items" if call == "stream" else "give() at") in str(caught.value)
        gc.collect()
        assert bridge.run_sync(give()) == 1

    def test_in_a_callback(self, make: Any) -> None:
        bridge = make("own")

        async def main() -> BaseException:
            future = asyncio.get_running_loop().create_future()

            def callback() -> None:
                try:
                    bridge.run_sync(give())
                except DeadlockError as error:
                    future.set_result(error)

            asyncio.get_running_loop().call_soon(callback)
            return await future

        assert "inside a callback of the loop" in str(bridge.run_sync(main()))

    def test_the_pump_drives(self, make: Any) -> None:
        """Work that was submitted runs on the background thread."""
        bridge = make("own")

        async def outer() -> None:
            bridge.run_sync(give())

        assert isinstance(bridge.submit(outer).exception(LONG), DeadlockError)
        assert bridge.submit(give).result(LONG) == 1

    def test_inside_to_caller_it_may(self, make: Any) -> None:
        bridge = make("own")

        async def main() -> Any:
            return await to_caller(lambda: bridge.run_sync(give(3)))

        assert bridge.run_sync(main()) == 3
        assert Caller(lambda: bridge.run_sync(main())).outcome() == 3


class TestBridges:
    def test_calls_without_a_cycle(self, make: Any) -> None:
        """Each calls the next, from every kind of thread, and many at once."""
        a, b, c = (make(name) for name in "abc")

        async def first() -> Any:
            return a_value() + await give(0)

        def a_value() -> Any:
            return b.run_sync(second())

        async def second() -> Any:
            return c.run_sync(give(5)) + c.run_sync(give(1))

        assert a.run_sync(first()) == 6
        callers = [Caller(lambda: [a.run_sync(first()) for _ in range(30)]) for _ in range(4)]
        callers += [Caller(lambda: [b.run_sync(second()) for _ in range(30)]) for _ in range(2)]
        callers += [Caller(lambda: [a.submit(first).result(LONG) for _ in range(30)])]
        assert all(set(caller.outcome()) == {6} for caller in callers)

    def test_streams_without_a_cycle(self, make: Any) -> None:
        a, b = make("a"), make("b")

        async def inner() -> Any:
            for i in range(3):
                yield i

        async def outer() -> Any:
            for i in b.stream(inner):
                yield i

        assert list(a.stream(outer)) == [0, 1, 2]

    def test_back_on_the_same_thread(self, make: Any) -> None:
        a, b = make("a"), make("b")

        async def first() -> Any:
            return b.run_sync(second())

        async def second() -> Any:
            return a.run_sync(give())

        for call in (lambda: a.run_sync(first()), lambda: Caller(lambda: a.run_sync(first())).outcome()):
            try:
                error = call()
            except DeadlockError as raised:
                error = raised
            assert isinstance(error, DeadlockError) and "would wait for itself" in str(error)
        assert (a.run_sync(give()), b.run_sync(give())) == (1, 1)

    @pytest.mark.parametrize("count", [2, 3, 5])
    @pytest.mark.parametrize("by", ["threads", "pumps"])
    def test_in_a_ring(self, make: Any, count: int, by: str) -> None:
        """Each holds its own loop and calls the next one: the last to call is refused, and so all go on."""
        ring = [make(f"ring{i}") for i in range(count)]
        together = threading.Barrier(count)

        async def hold(i: int) -> Any:
            together.wait(LONG)
            return ring[(i + 1) % count].run_sync(give(i))

        for _ in range(5):
            if by == "threads":
                callers = [Caller(lambda i=i: ring[i].run_sync(hold(i))) for i in range(count)]
                outcomes = [caller.outcome() for caller in callers]
            else:
                futures = [ring[i].submit(hold, i) for i in range(count)]
                outcomes = [future.exception(LONG) or future.result() for future in futures]
            errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            assert len(errors) == 1 and isinstance(errors[0], DeadlockError)
            assert str(errors[0]).count("run_sync(give() at") == count
            assert "would wait for itself" in str(errors[0]) and str(errors[0]).endswith("[SC0001]")
            assert [bridge.run_sync(give()) for bridge in ring] == [1] * count
        gc.collect()

    @pytest.mark.parametrize("first", [0, 1])
    def test_both_orders(self, make: Any, first: int) -> None:
        """Whichever of them waits already, the one that closes the cycle is refused."""
        pair = [make("zero"), make("one")]
        inside = threading.Event(), threading.Event()
        threads: dict[int, int] = {}

        async def hold(i: int) -> Any:
            threads[i] = threading.get_ident()
            inside[i].set()
            assert inside[1 - i].wait(LONG)
            if i != first:
                wait_for(first_is_in_its_call, "the first one waits")
            return call(i)

        def call(i: int) -> Any:
            return pair[1 - i].run_sync(give(i))

        def first_is_in_its_call() -> bool:
            frame = sys._current_frames().get(threads[first])
            return frame is not None and frame.f_code is call.__code__

        callers = [Caller(lambda i=i: pair[i].run_sync(hold(i))) for i in range(2)]
        outcomes = [caller.outcome() for caller in callers]
        errors = [i for i in range(2) if isinstance(outcomes[i], DeadlockError)]
        assert len(errors) == 1, outcomes
        assert outcomes[1 - errors[0]] == 1 - errors[0]
        assert [bridge.run_sync(give()) for bridge in pair] == [1, 1]

    def test_the_chain_has_the_request_ids(self, make: Any) -> None:
        a, b = make("a"), make("b")
        together = threading.Barrier(2)
        ids: list[str] = []

        def serve(bridge: Any, other: Any) -> BaseException | None:
            errors: list[BaseException] = []

            async def hold() -> None:
                together.wait(LONG)
                other.run_sync(give())

            def app(environ: Any, start_response: Any) -> list[bytes]:
                request = sidecar.current()
                assert request is not None
                ids.append(request.id)
                try:
                    bridge.run_sync(hold())
                except DeadlockError as error:
                    errors.append(error)
                start_response("204 No Content", [])
                return []

            environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.url_scheme": "http"}
            list(sidecar.WSGIMiddleware(app)(environ, lambda *_: None))
            return errors[0] if errors else None

        callers = [Caller(lambda: serve(a, b)), Caller(lambda: serve(b, a))]
        (error,) = (caller.outcome() for caller in callers if caller.outcome() is not None)
        assert len(ids) == 2 and all(f"of request {name}" in str(error) for name in ids)

    def test_streams_in_a_ring(self, make: Any) -> None:
        pair = [make("zero"), make("one")]
        together = threading.Barrier(2)

        async def items() -> Any:
            yield 7

        async def hold(i: int) -> Any:
            together.wait(LONG)
            return list(pair[1 - i].stream(items))

        callers = [Caller(lambda i=i: pair[i].run_sync(hold(i))) for i in range(2)]
        outcomes = [caller.outcome() for caller in callers]
        (error,) = (outcome for outcome in outcomes if isinstance(outcome, DeadlockError))
        assert "items" in str(error)
        assert [7] in outcomes

    def test_a_thread_that_drives_what_it_waits_for_is_no_cycle(self, make: Any) -> None:
        """It holds its first loop, and drives the second one itself: it goes on in time, so others may wait."""
        a, b, c = (make(name) for name in "abc")
        go: list[asyncio.Event] = []

        async def inner() -> str:
            go.append(asyncio.Event())
            await go[0].wait()
            return "inner"

        async def outer() -> Any:
            return b.run_sync(inner())

        async def other() -> Any:
            asked.set()
            return a.run_sync(give("other"))

        asked = threading.Event()
        first = Caller(lambda: a.run_sync(outer()))
        wait_for(lambda: go, "the first one waits inside")
        second = Caller(lambda: c.run_sync(other()))
        assert asked.wait(LONG)
        third = Caller(lambda: a.run_sync(give("third")))
        b.get_loop().call_soon_threadsafe(go[0].set)
        assert (first.outcome(), second.outcome(), third.outcome()) == ("inner", "other", "third")

    def test_a_call_that_is_over_is_no_cycle(self, make: Any) -> None:
        """Its thread has the answer, and only has not woken up yet."""
        a, b = make("a"), make("b")
        entered = threading.Event()

        async def inner() -> str:
            entered.set()
            await go[0].wait()
            return "inner"

        async def outer() -> Any:
            assert holding.wait(LONG)
            return b.run_sync(inner())

        async def holder() -> Any:
            go.append(asyncio.Event())
            holding.set()
            while not entered.is_set():
                await asyncio.sleep(0)
            before = sys.getswitchinterval()
            sys.setswitchinterval(LONG)
            try:
                go[0].set()
                for _ in range(5):
                    await asyncio.sleep(0)
                return a.run_sync(give("through"))
            finally:
                sys.setswitchinterval(before)

        for _ in range(20):
            go: list[asyncio.Event] = []
            holding = threading.Event()
            entered.clear()
            callers = [Caller(lambda: a.run_sync(outer())), Caller(lambda: b.run_sync(holder()))]
            assert [caller.outcome() for caller in callers] == ["inner", "through"]

    def test_in_a_storm(self, make: Any) -> None:
        """Calls in every direction: each has its answer or a DeadlockError, and none hangs."""
        ring = [make(f"storm{i}") for i in range(3)]

        async def hop(i: int, left: int) -> int:
            await asyncio.sleep(0)
            return 1 + ring[i].run_sync(hop((i + left) % 3, left - 1)) if left else 0

        def call(seed: int) -> set[str]:
            seen = set()
            for i in range(40):
                try:
                    ring[(seed + i) % 3].run_sync(hop((seed * i) % 3, 3))
                    seen.add("answer")
                except DeadlockError:
                    seen.add("refused")
            return seen

        callers = [Caller(lambda seed=seed: call(seed)) for seed in range(5)]
        seen = set().union(*(caller.outcome() for caller in callers))
        assert seen <= {"answer", "refused"} and seen
        assert [bridge.run_sync(give()) for bridge in ring] == [1, 1, 1]
        gc.collect()


class TestThroughThePool:
    """A job that a coroutine awaits works for that coroutine's call: it must not wait for who waits for it."""

    @pytest.mark.parametrize("by", ["await", "child task", "stream", "deep"])
    def test_a_job_that_calls_back(self, make: Any, by: str) -> None:
        one, two, three = make("one"), make("two"), make("three")

        def job() -> Any:
            return one.run_sync(give(), timeout=LONG)

        async def await_job() -> Any:
            return await two.to_async(job)()

        async def in_a_child() -> Any:
            return (await asyncio.gather(asyncio.ensure_future(await_job()), return_exceptions=False))[0]

        async def items() -> Any:
            yield await two.to_async(job)()

        async def through_three() -> Any:
            return three.run_sync(in_three())

        async def in_three() -> Any:
            return await three.to_async(job)()

        calls = {
            "await": lambda: two.run_sync(await_job()),
            "child task": lambda: two.run_sync(in_a_child()),
            "stream": lambda: list(two.stream(items)),
            "deep": lambda: two.run_sync(through_three()),
        }

        async def outer() -> Any:
            return calls[by]()

        error = Caller(lambda: one.run_sync(outer())).outcome()
        assert isinstance(error, DeadlockError), error
        assert "run_sync(give()" in str(error) and "for which this thread works just now" in str(error)
        assert one.run_sync(give(3)) == 3 and two.run_sync(give(4)) == 4

    def test_a_job_that_works_for_another_waits(self, make: Any) -> None:
        """The loop is held, but not by who waits for this job."""
        one, two, other = make("one"), make("two"), make("other")
        held, go = threading.Event(), threading.Event()

        async def hold() -> Any:
            return two.run_sync(wait_outside())

        async def wait_outside() -> str:
            held.set()
            await asyncio.get_running_loop().run_in_executor(None, go.wait, LONG)
            return "went on"

        holder = Caller(lambda: one.run_sync(hold()))
        assert held.wait(LONG)

        async def await_job() -> Any:
            return await other.to_async(one.run_sync)(give(5), timeout=LONG)

        caller = Caller(lambda: other.run_sync(await_job()))
        wait_for(lambda: one.stats()["calls"] == 2, "the job waits for the loop that is held")
        go.set()
        assert (holder.outcome(), caller.outcome()) == ("went on", 5)
