"""What a signal handler raises while the main thread drives, and a fork or a shutdown that comes in between."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import sys
import threading
from asyncio.futures import _set_result_unless_cancelled  # type: ignore[attr-defined]
from collections.abc import Iterator
from typing import Any

import pytest

import sidecar


class Limit(Exception):
    pass


@pytest.fixture
def bridge() -> Iterator[sidecar.Sidecar]:
    with sidecar.Sidecar() as bridge:
        yield bridge


@pytest.fixture
def reports(bridge: sidecar.Sidecar) -> list[dict[str, Any]]:
    """What the bridge's loop was told by its exception handler."""
    return collect_reports(bridge.get_loop())


@pytest.fixture
def handle_usr1() -> Iterator[Any]:
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda handler: signal.signal(signal.SIGUSR1, handler)
    signal.signal(signal.SIGUSR1, before)


def collect_reports(loop: asyncio.AbstractEventLoop) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: seen.append(context))
    return seen


def function(signum: int, frame: Any) -> None:
    raise Limit("soft")


def star(*args: Any) -> None:
    raise Limit("soft")


class Thing:
    def star_method(*args: Any) -> None:
        raise Limit("soft")

    def method(self, signum: int, frame: Any) -> None:
        raise Limit("soft")

    def __call__(self, *args: Any) -> None:
        function(*args)


def with_a_word(word: str, signum: int, frame: Any) -> None:
    raise Limit(word)


HANDLERS = {
    "function": function,
    "lambda": lambda *args: function(*args),
    "bound method": Thing().method,
    "callable object": Thing(),
    "partial": functools.partial(with_a_word, "soft"),
    "method of *args": Thing().star_method,
    "partial of *args": functools.partial(star, "a word"),
}


def be_interrupted() -> None:
    """The handler runs in here: in ``raise_signal`` itself or at the next look of the interpreter."""
    signal.raise_signal(signal.SIGUSR1)
    for _ in range(1000):
        pass
    raise AssertionError("the handler has not raised")


class TestAHandlerThatRaisesInACallback:
    @pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS.keys())
    def test_cancels_the_main_threads_call_and_is_raised_there(self, bridge, reports, handle_usr1, handler):
        handle_usr1(handler)
        cleaned = []

        async def work():
            asyncio.get_running_loop().call_soon(be_interrupted)
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                await asyncio.sleep(0.001)
                cleaned.append(True)
                raise

        with pytest.raises(Limit, match="soft"):
            bridge.run_sync(work(), timeout=5)
        assert cleaned == [True] and reports == []
        assert bridge.run_sync(asyncio.sleep(0.001, "goes on"), timeout=5) == "goes on"

    @pytest.mark.parametrize("later", [False, True])
    def test_in_a_callback_in_c(self, bridge, reports, handle_usr1, later):
        handle_usr1(function)

        async def work():
            loop = asyncio.get_running_loop()
            schedule = functools.partial(loop.call_later, 0.001) if later else loop.call_soon
            schedule(signal.raise_signal, signal.SIGUSR1)
            await asyncio.sleep(3600)

        with pytest.raises(Limit, match="soft"):
            bridge.run_sync(work(), timeout=5)
        assert reports == []

    def test_keyboard_interrupt(self, bridge, reports, handle_usr1):
        handle_usr1(signal.default_int_handler)

        async def work():
            asyncio.get_running_loop().call_soon(be_interrupted)
            await asyncio.sleep(3600)

        with pytest.raises(KeyboardInterrupt):
            bridge.run_sync(work(), timeout=5)
        assert reports == []

    def test_after_the_callback_has_set_what_the_call_waits_for(self, bridge, reports, handle_usr1):
        handle_usr1(function)

        async def work():
            future = asyncio.get_running_loop().create_future()

            def set_and_be_interrupted():
                future.set_result("in time")
                be_interrupted()

            asyncio.get_running_loop().call_soon(set_and_be_interrupted)
            await future

        with pytest.raises(Limit, match="soft"):
            bridge.run_sync(work(), timeout=5)
        assert reports == []

    def test_in_the_step_that_has_ended_the_call(self, bridge, reports, handle_usr1):
        """A task in Python lets one in after its end, when the call is on the list of those that have finished."""
        handle_usr1(function)

        class InterruptedAtItsEnd(asyncio.tasks._PyTask):  # type: ignore[name-defined,misc]
            def _Future__schedule_callbacks(self):
                super()._Future__schedule_callbacks()
                be_interrupted()

        bridge.get_loop().set_task_factory(lambda loop, coro, **kwargs: InterruptedAtItsEnd(coro, loop=loop, **kwargs))
        try:
            with pytest.raises(Limit, match="soft"):
                bridge.run_sync(asyncio.sleep(0.001), timeout=5)
        finally:
            bridge.get_loop().set_task_factory(None)
        assert reports == []

    def test_a_callback_that_fails_on_its_own_account_ends_nothing(self, bridge, reports, handle_usr1):
        calm = []
        handle_usr1(lambda *_: calm.append(True))

        def fail() -> None:
            signal.raise_signal(signal.SIGUSR1)
            raise Limit("own fault")

        async def work():
            loop = asyncio.get_running_loop()
            loop.call_soon(fail)
            loop.call_later(0.001, int, "no number")
            await asyncio.sleep(0.01)
            return "unharmed"

        assert bridge.run_sync(work(), timeout=5) == "unharmed"
        assert [repr(context["exception"])[:10] for context in reports] == ["Limit('own", "ValueError"]
        assert calm == [True]

    def test_on_a_plain_loop_the_exception_handler_gets_it(self, handle_usr1):
        handle_usr1(function)
        loop = sidecar.Loop()
        seen = collect_reports(loop)

        async def work():
            loop.call_soon(be_interrupted)
            await asyncio.sleep(0.001)
            return "unharmed"

        with contextlib.closing(loop):
            assert loop.run_until_complete(work()) == "unharmed"
        assert [type(context["exception"]) for context in seen] == [Limit]
        assert "be_interrupted" in seen[0]["message"]


class TestTheEndOfASleep:
    def test_runs_no_python(self, bridge):
        """There a handler could raise, and the sleeper would wait for good."""
        called = set()

        async def nap():
            await asyncio.sleep(0.001)

        before = sys.getprofile()
        sys.setprofile(lambda frame, event, _: called.add(frame.f_code) if event == "call" else None)
        try:
            bridge.run_sync(nap(), timeout=5)
        finally:
            sys.setprofile(before)
        assert nap.__code__ in called
        assert _set_result_unless_cancelled.__code__ not in called

    class Subclass(asyncio.Future):  # type: ignore[type-arg]
        """Its own methods are the ones that count."""

        log: list[str] = []

        def cancelled(self) -> bool:
            self.log.append("cancelled")
            return super().cancelled()

        def set_result(self, result: Any) -> None:
            self.log.append("set_result")
            super().set_result(("by the subclass", result))

    STATES = {
        "pending": lambda future: None,
        "cancelled": lambda future: future.cancel(),
        "done": lambda future: future.set_result("before"),
        "failed": lambda future: (future.set_exception(KeyError("before")), future.exception()),
    }

    def outcome(self, make_loop: Any, kind: Any, state: str, arguments: tuple[str, ...]) -> Any:
        self.Subclass.log.clear()
        with contextlib.closing(make_loop()) as loop:
            seen = collect_reports(loop)
            future = kind(loop=loop)
            self.STATES[state](future)
            loop.call_soon(_set_result_unless_cancelled, future, *arguments)
            loop.call_soon(loop.stop)
            loop.run_forever()
        reports = [(context["message"], repr(context["exception"]), len(context)) for context in seen]
        return repr(future), reports, self.Subclass.log[:]

    @pytest.mark.parametrize("arguments", [("new",), (), ("new", "more")], ids=["one", "none", "two"])
    @pytest.mark.parametrize("state", STATES)
    @pytest.mark.parametrize("kind", [asyncio.Future, Subclass, asyncio.futures._PyFuture])  # type: ignore[attr-defined]
    def test_is_asyncios(self, kind, state, arguments):
        expected = self.outcome(asyncio.SelectorEventLoop, kind, state, arguments)
        assert self.outcome(sidecar.Loop, kind, state, arguments) == expected
        refused = state in ("done", "failed") or arguments != ("new",)
        assert len(expected[1]) == refused


def test_what_threads_send_keeps_its_order_while_a_cancel_is_taken(run_script):
    """A cancel runs Python, which may send the owner to its inbox again before it has listed the rest."""
    done = run_script("""
        import asyncio, os, signal, threading
        import sidecar

        bridge = sidecar.Sidecar()
        loop = bridge.get_loop()
        got = []
        begun, waits, blocked, raised, release, cancelling, sent = (threading.Event() for _ in range(7))

        def wait(event):
            assert event.wait(20)

        def send(*numbers):
            for number in numbers:
                loop.call_soon_threadsafe(got.append, number)

        class SlowToCancel(asyncio.Future):
            def cancel(self, *args):
                cancelling.set()
                wait(sent)
                loop.call_soon(int)
                return super().cancel(*args)

        async def own_the_loop():
            begun.set()
            while not waits.is_set():
                await asyncio.sleep(0)
            blocked.set()
            wait(release)
            while len(got) < 6:
                await asyncio.sleep(0)

        async def be_cancelled():
            waits.set()
            await SlowToCancel(loop=loop)

        def give_up(*_):  # the main thread's wait posts the cancel
            raised.set()
            raise TimeoutError

        def send_behind_it(*_):  # the same wait, after that
            send(0, 1, 2)
            release.set()

        def conduct():
            wait(blocked)
            os.kill(os.getpid(), signal.SIGUSR1)
            wait(raised)
            os.kill(os.getpid(), signal.SIGUSR2)
            wait(cancelling)
            send(3, 4, 5)
            sent.set()

        signal.signal(signal.SIGUSR1, give_up)
        signal.signal(signal.SIGUSR2, send_behind_it)
        threads = [threading.Thread(target=bridge.run_sync, args=(own_the_loop(),)), threading.Thread(target=conduct)]
        for thread in threads:
            thread.start()
        wait(begun)
        try:
            bridge.run_sync(be_cancelled())
        except TimeoutError:
            print("limit")
        for thread in threads:
            thread.join()
        print(got)
        """)
    assert (done.stdout, done.stderr) == ("limit\n[0, 1, 2, 3, 4, 5]\n", "")


@pytest.mark.parametrize("then", ["return", "raise ValueError", "await asyncio.sleep(3600)", "sys.exit(3)"])
def test_a_coroutine_that_the_pump_runs_forks(run_script, then):
    """The child has the pump's thread alone: it ends, and with it the process; the parent's loop goes on."""
    done = run_script(f"""
        import asyncio, os, signal, sys, time, warnings
        warnings.simplefilter("ignore")
        import sidecar

        parent, children, turns = os.getpid(), [], []

        def ready():
            if os.getpid() != parent:
                print("the child runs what is the parent's", flush=True)

        async def fork():
            await asyncio.sleep(0.001)
            asyncio.get_running_loop().call_soon(ready)
            child = os.fork()
            if child == 0:
                {then}
            children.append(child)
            while True:
                turns.append(None)
                await asyncio.sleep(0.001)

        async def leave_a_task():
            return asyncio.ensure_future(fork())

        def wait_for(condition, what):
            deadline = time.monotonic() + 15
            while not condition():
                if time.monotonic() > deadline:
                    print("not in time:", what)
                    return
                time.sleep(0.002)

        ended = []
        task = sidecar.run_sync(leave_a_task())
        wait_for(lambda: children, "the pump runs the task")
        wait_for(lambda: ended.append(os.waitpid(children[0], os.WNOHANG)) or ended[-1][0], "the child ends")
        if not ended[-1][0]:
            os.kill(children[0], signal.SIGKILL)
            os.waitpid(children[0], 0)
        count = len(turns)
        wait_for(lambda: len(turns) > count + 3, "the parent's pump goes on")
        print(ended[-1][1], sidecar.run_sync(asyncio.sleep(0.001, "goes on"), timeout=15))
        """)
    assert (done.stdout, done.stderr) == ("0 goes on\n", "")


class Overtaken(sidecar.Sidecar):
    """Whatever ``overtake`` is set to happens once, right before ``shutdown()`` asks for the loop."""

    overtake: Any = None

    def get_loop(self):
        overtake, self.overtake = self.overtake, None
        if overtake:
            overtake()
        return super().get_loop()


def test_a_shutdown_that_another_overtakes():
    bridge = Overtaken().start()
    answers = []

    def shut_down_elsewhere():
        thread = threading.Thread(target=lambda: answers.append(bridge.shutdown()))
        thread.start()
        thread.join()

    bridge.overtake = shut_down_elsewhere
    assert bridge.shutdown() is True
    assert answers == [True] and bridge.overtake is None
    assert "closed" in repr(bridge)
