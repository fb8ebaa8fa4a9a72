"""The rules for context variables, on every way into a bridge."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from harness import wait_for

import sidecar
from sidecar import to_caller

LONG = 30.0
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
other: contextvars.ContextVar[str] = contextvars.ContextVar("other", default="unset")


@pytest.fixture
def bridge() -> Iterator[sidecar.Sidecar]:
    with sidecar.Sidecar(workers=2, name="contexts") as bridge:
        yield bridge


@pytest.fixture(autouse=True)
def own_context() -> None:
    """Each test has set what it sees itself."""
    for var in (variable, other):
        var.set("unset")


def look() -> str:
    """In a function: what it sees, and a change of it."""
    seen = variable.get()
    variable.set("changed")
    return seen


async def look_later() -> str:
    await asyncio.sleep(0)
    return look()


async def look_and_yield() -> AsyncIterator[str]:
    yield look()


Entry = Callable[[sidecar.Sidecar], str]

ENTRIES: dict[str, Entry] = {
    "run_sync": lambda bridge: bridge.run_sync(look_later()),
    "stream": lambda bridge: next(bridge.stream(look_and_yield)),
    "stream, prefetch": lambda bridge: next(bridge.stream(look_and_yield, prefetch=2)),
    "submit a function": lambda bridge: bridge.submit(look).result(LONG),
    "submit a coroutine": lambda bridge: bridge.submit(look_later).result(LONG),
    "submit an awaitable": lambda bridge: bridge.submit(look_later()).result(LONG),
    "gather": lambda bridge: bridge.gather(look_later())[0],
    "_on_pool": lambda bridge: bridge.run_sync(bridge._on_pool(None, look)),
    "to_caller": lambda bridge: bridge.run_sync(to_caller(look)),
}

every_entry = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES.keys())


class TestACopyOfTheCallers:
    """The first rule."""

    @every_entry
    def test_it_is_seen_and_not_changed(self, bridge: sidecar.Sidecar, entry: Entry) -> None:
        variable.set("mine")
        assert entry(bridge) == "mine"
        assert variable.get() == "mine"

    @every_entry
    def test_of_the_moment_of_the_call(self, bridge: sidecar.Sidecar, entry: Entry) -> None:
        for value in ("first", "second"):
            variable.set(value)
            assert entry(bridge) == value

    @every_entry
    def test_each_thread_has_its_own(self, bridge: sidecar.Sidecar, entry: Entry) -> None:
        wrong: list[str] = []

        def call(name: str) -> None:
            variable.set(name)
            for _ in range(10):
                if entry(bridge) != name or variable.get() != name:
                    wrong.append(name)

        threads = [threading.Thread(target=call, args=(f"thread {i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
        assert not wrong and not any(thread.is_alive() for thread in threads)

    def test_inside_a_loop(self, bridge: sidecar.Sidecar) -> None:
        async def main() -> list[Any]:
            variable.set("the coroutine's")
            found = [
                await bridge._on_pool(None, look),
                await bridge.gather(look_later(), look_later()),
                await asyncio.wrap_future(bridge.submit(look)),
                await asyncio.wrap_future(bridge.submit(look_later)),
                variable.get(),
            ]
            return found

        expected = ["the coroutine's", ["the coroutine's"] * 2, *["the coroutine's"] * 3]
        assert bridge.run_sync(main()) == expected
        assert asyncio.run(main()) == expected

    def test_the_context_given(self, bridge: sidecar.Sidecar) -> None:
        context = contextvars.copy_context()
        context.run(variable.set, "given")
        variable.set("mine")
        assert bridge.run_sync(look_later(), context=context) == "given"
        assert next(bridge.stream(look_and_yield, context=contextvars.copy_context())) == "mine"

        async def main() -> tuple[str, str]:
            return await bridge._on_pool(context, look), variable.get()

        context.run(variable.set, "given")
        assert bridge.run_sync(main()) == ("given", "mine")
        assert context[variable] == "changed" and variable.get() == "mine"


class TestChangesComeBack:
    """``propagate=True``."""

    async def change(self, error: BaseException | None = None) -> str:
        await asyncio.sleep(0)
        seen = variable.get()
        variable.set("changed")
        if error is not None:
            raise error
        return seen

    def test_from_run_sync(self, bridge: sidecar.Sidecar) -> None:
        variable.set("mine")
        other.set("mine, too")
        assert bridge.run_sync(self.change(), propagate=True) == "mine"
        assert (variable.get(), other.get()) == ("changed", "mine, too")
        variable.set("mine")
        assert bridge.run_sync(self.change(), propagate=False) == "mine"
        assert variable.get() == "mine"

    def test_from_any_awaitable(self, bridge: sidecar.Sidecar) -> None:
        case = self

        class Awaitable:
            def __await__(self) -> Any:
                return case.change().__await__()

        bridge.run_sync(Awaitable(), propagate=True)
        assert variable.get() == "changed"

    def test_with_an_error_and_a_time_out(self, bridge: sidecar.Sidecar) -> None:
        with pytest.raises(ValueError):
            bridge.run_sync(self.change(ValueError()), propagate=True)
        assert variable.get() == "changed"

        async def change_and_wait() -> None:
            other.set("before the time-out")
            await asyncio.sleep(LONG)

        with pytest.raises(sidecar.CallTimeoutError):
            bridge.run_sync(change_and_wait(), propagate=True, timeout=0.01)
        assert other.get() == "before the time-out"

    def test_with_a_context_given(self, bridge: sidecar.Sidecar) -> None:
        context = contextvars.copy_context()
        context.run(variable.set, "given")
        assert bridge.run_sync(self.change(), propagate=True, context=context) == "given"
        assert (variable.get(), context[variable]) == ("changed", "changed")

    def test_from_a_thread_while_others_drive(self, bridge: sidecar.Sidecar) -> None:
        background = bridge.submit(asyncio.sleep, LONG)
        seen: list[str] = []

        def call() -> None:
            variable.set("the thread's")
            seen.append(bridge.run_sync(self.change(), propagate=True))
            seen.append(variable.get())

        thread = threading.Thread(target=call)
        thread.start()
        thread.join(LONG)
        bridge.run_sync(self.change(), propagate=True)
        assert (seen, variable.get()) == (["the thread's", "changed"], "changed")
        background.cancel()

    def test_inner_ones_pass_through(self, bridge: sidecar.Sidecar) -> None:
        async def outer() -> None:
            await to_caller(lambda: bridge.run_sync(self.change(), propagate=True))

        bridge.run_sync(outer(), propagate=True)
        assert variable.get() == "changed"

    @pytest.mark.parametrize("prefetch", [0, 2])
    def test_from_a_stream(self, bridge: sidecar.Sidecar, prefetch: int) -> None:
        async def items() -> AsyncIterator[str]:
            for i in range(3):
                variable.set(f"item {i}")
                yield variable.get()

        found = [(item, variable.get()) for item in bridge.stream(items, propagate=True, prefetch=prefetch)]
        assert [item for item, _ in found] == ["item 0", "item 1", "item 2"]
        if prefetch == 0:
            assert [seen for _, seen in found] == ["item 0", "item 1", "item 2"]
        assert variable.get() == "item 2"

    def test_nothing_of_ours_comes_back(self, bridge: sidecar.Sidecar) -> None:
        async def with_tasks() -> None:
            await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))
            variable.set("changed")

        def call() -> set[str]:
            before = set(contextvars.copy_context())
            bridge.run_sync(with_tasks(), propagate=True)
            return {var.name for var in set(contextvars.copy_context()) - before}

        assert contextvars.Context().run(call) == {"variable"}


class TestOneContextOfAStream:
    """The second rule."""

    @pytest.mark.parametrize("prefetch", [0, 2])
    def test_every_step(self, bridge: sidecar.Sidecar, prefetch: int) -> None:
        async def items() -> AsyncIterator[str]:
            token = variable.set("first")
            yield "begun"
            for i in range(3):
                yield variable.get()
                variable.set(f"step {i}")
            variable.reset(token)
            yield variable.get()

        variable.set("mine")
        stream = bridge.stream(items, prefetch=prefetch)
        assert next(stream) == "begun"
        variable.set("changed between the steps")
        assert list(stream) == ["first", "step 0", "step 1", "mine"]

    def test_whoever_takes_them(self, bridge: sidecar.Sidecar) -> None:
        async def items() -> AsyncIterator[str]:
            while True:
                yield variable.get()

        variable.set("mine")
        with bridge.stream(items) as stream:
            assert next(stream) == "mine"

            def take() -> str:
                variable.set("another's")
                return next(stream)

            assert bridge.submit(take).result(LONG) == "mine"


class TestEmptyOnes:
    """The third rule: threads of ours begin with nothing of who happened to start them."""

    def test_callbacks_on_the_loop_and_the_pump(self) -> None:
        variable.set("of the one who started it")
        with sidecar.Sidecar(name="empty") as bridge:
            seen: list[tuple[str, str]] = []

            def note(when: str) -> None:
                seen.append((when, variable.get()))

            context = contextvars.Context()
            bridge.get_loop().call_soon_threadsafe(lambda: note("callback"), context=context)
            wait_for(lambda: seen, "the pump has run it")
            assert seen == [("callback", "unset")]

    def test_pool_threads(self) -> None:
        variable.set("of the one who started it")
        with sidecar.Sidecar(workers=1, name="empty") as bridge:
            bridge.submit(len, ()).result(LONG)
            assert contextvars.Context().run(lambda: bridge.submit(variable.get).result(LONG)) == "unset"

            def count() -> int:
                return len(contextvars.copy_context())

            assert contextvars.Context().run(lambda: bridge.submit(count).result(LONG)) == 0

    def test_what_a_job_or_an_errand_sets_is_gone_after_it(self, bridge: sidecar.Sidecar) -> None:
        bridge.run_sync(to_caller(variable.set, "by an errand"))
        assert variable.get() == "unset"
        for _ in range(4):
            assert bridge.submit(look).result(LONG) == "unset"


class TestPoolJobs:
    """The fourth rule: a copy of the submitter's, as it was then."""

    def test_not_as_it_is_when_it_begins(self) -> None:
        with sidecar.Sidecar(workers=1, name="busy") as bridge:
            go = threading.Event()
            busy = bridge.submit(go.wait, LONG)
            variable.set("when submitted")
            job = bridge.submit(look)
            variable.set("later")
            go.set()
            assert busy.result(LONG) and job.result(LONG) == "when submitted"

    def test_on_the_way_through_a_job_and_back_onto_the_loop(self, bridge: sidecar.Sidecar) -> None:
        async def main() -> str:
            variable.set("the coroutine's")
            found: str = await bridge._on_pool(None, lambda: bridge.run_sync(look_later()))
            return found

        assert bridge.run_sync(main()) == "the coroutine's"


class TestRequests:
    """The fifth rule: a request's scope holds for the whole request, wherever its work runs, and is gone after it."""

    @staticmethod
    def serve(app: Any) -> list[bytes]:
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.url_scheme": "http"}
        body = sidecar.WSGIMiddleware(app)(environ, lambda *_: None)
        try:
            return list(body)
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()

    def test_on_every_entry_and_in_the_body(self, bridge: sidecar.Sidecar) -> None:
        found: dict[str, str] = {}
        mine: list[str] = []

        def request_id() -> str:
            request = sidecar.current()
            return request.id if request is not None else "none"

        async def request_id_later() -> str:
            await asyncio.sleep(0)
            return request_id()

        async def ids() -> AsyncIterator[str]:
            while True:
                yield request_id()

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
            mine.append(request_id())
            found["run_sync"] = bridge.run_sync(request_id_later())
            found["function"] = bridge.submit(request_id).result(LONG)
            found["coroutine"] = bridge.submit(request_id_later).result(LONG)
            found["gather"] = bridge.gather(request_id_later())[0]
            found["pool"] = bridge.run_sync(bridge._on_pool(None, request_id))
            found["caller"] = bridge.run_sync(to_caller(request_id))
            start_response("200 OK", [])
            with bridge.stream(ids) as stream:
                for part in ("first", "second"):
                    found[part] = next(stream)
                    found[f"run_sync of the {part}"] = bridge.run_sync(request_id_later())
                    yield part.encode()

        assert self.serve(app) == [b"first", b"second"]
        assert len(found) == 10 and set(found.values()) == {mine[0]}
        assert sidecar.current() is None
        assert bridge.run_sync(request_id_later()) == "none"
        assert bridge.submit(request_id).result(LONG) == "none"
