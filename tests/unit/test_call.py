"""run_sync: results, errors, contexts, time-outs, what it refuses."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import logging
import sys
import threading
import traceback
import types
import weakref

import pytest
from harness import wait_for

import sidecar
from sidecar import _core

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


async def give(value):
    return value


async def give_later(value):
    await asyncio.sleep(0.001)
    return value


def in_thread(function, *args):
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(function, *args).result()


@pytest.fixture(params=["main", "thread"])
def where(request):
    """The same from the main thread, which drives its own calls only, and from any other."""
    return (lambda function, *args: function(*args)) if request.param == "main" else in_thread


class TestResults:
    def test_a_coroutine_that_never_waits(self, where):
        marker = object()
        assert where(lambda: sidecar.run_sync(give(marker))) is marker

    def test_a_coroutine_that_waits(self, where):
        assert where(lambda: sidecar.run_sync(give_later(7))) == 7

    def test_an_object_with_await(self, where):
        class Answer:
            def __await__(self):
                yield from asyncio.sleep(0).__await__()
                return 42

        assert where(lambda: sidecar.run_sync(Answer())) == 42

    def test_a_generator_based_coroutine(self):
        @types.coroutine
        def old():
            yield
            return "old"

        assert sidecar.run_sync(old()) == "old"

    def test_a_future_of_the_bridge(self):
        async def make():
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.005, future.set_result, "there")
            return future

        assert sidecar.run_sync(sidecar.run_sync(make())) == "there"

    def test_a_task_of_an_earlier_call(self):
        async def make():
            return asyncio.ensure_future(give_later("task"))

        assert sidecar.run_sync(sidecar.run_sync(make())) == "task"

    def test_many_in_turn_share_one_loop(self):
        async def which():
            return asyncio.get_running_loop()

        assert len({id(sidecar.run_sync(which())) for _ in range(5)}) == 1
        assert sidecar.run_sync(which()) is sidecar.get_bridge().get_loop()

    def test_the_running_loop_and_task_are_the_calls_own(self):
        async def look():
            task = asyncio.current_task()
            return task.get_loop() is asyncio.get_running_loop(), task.get_coro().__name__

        assert sidecar.run_sync(look()) == (True, "look")
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()


class TestErrors:
    def test_arrives_as_raised_with_both_tracebacks(self, where):
        error = ValueError("as it is")

        async def fail():
            await asyncio.sleep(0)
            raise error

        def caller():
            sidecar.run_sync(fail())

        with pytest.raises(ValueError) as caught:
            where(caller)
        assert caught.value is error
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert names.index("caller") < names.index("fail")
        files = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
        assert not any("sidecar/_" in name for name in files)

    def test_cause_and_context_are_kept(self):
        async def fail():
            try:
                raise KeyError("inner")
            except KeyError as inner:
                raise ValueError("outer") from inner

        with pytest.raises(ValueError) as caught:
            sidecar.run_sync(fail())
        assert isinstance(caught.value.__cause__, KeyError)

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, BaseException])
    @pytest.mark.parametrize("late", [False, True])
    def test_base_exceptions_reach_the_caller_and_the_bridge_lives_on(self, where, kind, late, caplog):
        async def fail():
            if late:
                await asyncio.sleep(0)
            raise kind("on its way")

        bridge = sidecar.get_bridge()
        with pytest.raises(kind, match="on its way"):
            where(lambda: sidecar.run_sync(fail()))
        assert sidecar.run_sync(give(1)) == 1
        assert sidecar.get_bridge() is bridge
        gc.collect()
        assert not caplog.records

    def test_a_task_that_cancels_itself(self):
        async def cancel():
            asyncio.current_task().cancel()
            await asyncio.sleep(1)

        with pytest.raises(asyncio.CancelledError):
            sidecar.run_sync(cancel())

    def test_exceptions_are_retrieved(self, caplog):
        async def fail():
            await asyncio.sleep(0)
            raise ValueError

        with pytest.raises(ValueError):
            sidecar.run_sync(fail())
        gc.collect()
        assert not caplog.records

    def test_a_background_task_that_exits_does_not_end_the_loop(self, caplog):
        async def spawn():
            task = asyncio.create_task(fail())
            # To ask the task itself, which may run right then, would be a race.
            task.add_done_callback(lambda _: ended.set())
            return task

        async def fail():
            await asyncio.sleep(0)
            raise SystemExit(3)

        ended = threading.Event()
        task = in_thread(lambda: sidecar.run_sync(spawn()))
        wait_for(ended.is_set, "the task has ended")
        assert sidecar.run_sync(give(1)) == 1
        assert isinstance(task.exception(), SystemExit)


class TestRefusals:
    @pytest.mark.parametrize("value", [3, None, "text", object, [give]])
    def test_what_is_no_awaitable(self, value):
        with pytest.raises(TypeError, match="takes an awaitable, not") as caught:
            sidecar.run_sync(value)
        assert repr(value) in str(caught.value)

    def test_a_coroutine_function_is_to_be_called(self):
        with pytest.raises(TypeError, match=r"call it first: run_sync\(give\(\.\.\.\)\)"):
            sidecar.run_sync(give)

    def test_an_async_generator(self):
        async def items():
            yield 1

        with pytest.raises(TypeError, match="async iterable"):
            sidecar.run_sync(items())

    def test_arguments_it_does_not_have(self):
        coro = give(1)
        with pytest.raises(TypeError, match="no argument 'tiemout'"):
            sidecar.run_sync(coro, tiemout=1)
        with pytest.raises(TypeError, match="one awaitable, not 2"):
            sidecar.run_sync(give, 1)
        with pytest.raises(TypeError, match="one awaitable, not 0"):
            sidecar.run_sync()

    @pytest.mark.parametrize("timeout", [-1, float("nan"), -0.001])
    def test_a_timeout_that_is_none(self, timeout):
        with pytest.raises(ValueError, match="timeout must be a number of seconds"):
            sidecar.run_sync(give(1), timeout=timeout)

    def test_a_timeout_of_another_type(self):
        with pytest.raises(TypeError):
            sidecar.run_sync(give(1), timeout="soon")

    def test_a_context_of_another_type(self):
        with pytest.raises(TypeError, match="contextvars.Context"):
            sidecar.run_sync(give(1), context={})

    def test_a_context_that_is_entered_is_an_error_not_a_hang(self):
        context = contextvars.copy_context()
        with pytest.raises(RuntimeError, match="already entered"):
            context.run(lambda: sidecar.run_sync(give_later(1), context=context))

    def test_from_the_loops_own_thread(self, where):
        async def inner():
            return 1

        async def outer():
            await asyncio.sleep(0)
            return sidecar.run_sync(inner())

        with pytest.raises(sidecar.DeadlockError) as caught:
            where(lambda: sidecar.run_sync(outer()))
        assert "inner()" in str(caught.value) and "outer()" in str(caught.value)
        assert caught.value.code == "SC0001"

    def test_from_a_callback_of_the_loop(self):
        async def inner():
            return 1

        async def outer():
            loop = asyncio.get_running_loop()
            future = loop.create_future()

            def callback():
                try:
                    sidecar.run_sync(inner())
                except BaseException as error:
                    future.set_result(error)

            loop.call_soon(callback)
            return await future

        assert "a callback of the loop" in str(sidecar.run_sync(outer()))


class TestContext:
    def test_the_coroutine_sees_a_copy_of_the_callers(self, where):
        async def look():
            before = var.get()
            var.set("inside")
            await asyncio.sleep(0.001)
            return before, var.get()

        def caller():
            var.set("outside")
            return sidecar.run_sync(look()), var.get()

        assert where(contextvars.copy_context().run, caller) == (("outside", "inside"), "outside")

    def test_each_caller_its_own(self):
        async def look():
            await asyncio.sleep(0.002)
            return var.get()

        def caller(number):
            var.set(str(number))
            return [sidecar.run_sync(look()) for _ in range(20)]

        with concurrent.futures.ThreadPoolExecutor(8) as executor:
            for number, seen in enumerate(executor.map(caller, range(8))):
                assert seen == [str(number)] * 20

    def test_the_one_given(self):
        async def look():
            await asyncio.sleep(0)
            return var.get()

        context = contextvars.copy_context()
        context.run(var.set, "given")
        assert sidecar.run_sync(look(), context=context) == "given"

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="tasks take no context before 3.11")
    def test_the_one_given_is_run_in_itself(self):
        async def change():
            await asyncio.sleep(0)
            var.set("changed")

        context = contextvars.copy_context()
        sidecar.run_sync(change(), context=context)
        assert context[var] == "changed"

    def test_nothing_of_the_first_caller_stays_with_the_pump(self):
        seen = []

        async def ask_later():
            asyncio.get_running_loop().call_later(
                0.01, lambda: seen.append(var.get()), context=contextvars.Context()
            )

        token = var.set("first caller")
        try:
            sidecar.run_sync(ask_later())
            wait_for(lambda: seen, "the callback has run")
        finally:
            var.reset(token)
        assert seen == ["unset"]

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks show their context from 3.12 on")
    def test_the_root_task_is_in_an_empty_context(self):
        token = var.set("starter")
        try:
            loop = sidecar.get_bridge().get_loop()
        finally:
            var.reset(token)
        assert list(loop._root.get_context()) == []


class TestTimeout:
    def test_cancels_waits_for_the_cleanup_and_raises_one_exception(self, where):
        steps = []

        async def slow():
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)
                steps.append("cleaned up")

        with pytest.raises(sidecar.CallTimeoutError, match=r"slow\(\)") as caught:
            where(lambda: sidecar.run_sync(slow(), timeout=0.02))
        assert steps == ["cleaned up"]
        for kind in (TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError, sidecar.SidecarError):
            assert isinstance(caught.value, kind)
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)

    def test_zero_runs_the_first_step(self):
        steps = []

        async def slow():
            steps.append("begun")
            await asyncio.sleep(60)

        with pytest.raises(TimeoutError):
            sidecar.run_sync(slow(), timeout=0)
        assert steps == ["begun"]

    def test_zero_lets_through_what_never_waits(self):
        assert sidecar.run_sync(give(1), timeout=0) == 1

    def test_infinity_is_no_limit(self):
        assert sidecar.run_sync(give_later(1), timeout=float("inf")) == 1

    def test_a_timeout_of_the_users_own_passes_untouched(self):
        async def fail():
            raise asyncio.TimeoutError("mine")

        with pytest.raises(asyncio.TimeoutError, match="mine") as caught:
            sidecar.run_sync(fail(), timeout=5)
        assert not isinstance(caught.value, sidecar.CallTimeoutError)

    def test_a_result_in_spite_of_the_cancel_is_kept(self):
        async def stubborn():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "saved"

        assert sidecar.run_sync(stubborn(), timeout=0.01) == "saved"

    def test_an_error_of_the_cleanup_is_the_cause(self):
        async def slow():
            try:
                await asyncio.sleep(60)
            finally:
                raise KeyError("cleanup")

        with pytest.raises(sidecar.CallTimeoutError) as caught:
            sidecar.run_sync(slow(), timeout=0.01)
        assert isinstance(caught.value.__cause__, KeyError)

    def test_a_cleanup_that_does_not_end_is_a_named_orphan(self, where, caplog):
        caplog.set_level(logging.INFO, "sidecar")
        release = threading.Event()

        async def clingy():
            while not release.is_set():
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    pass
            return "let go"

        with sidecar.Sidecar(name="orphans", cleanup_timeout=0.05) as bridge:
            with pytest.raises(sidecar.CallTimeoutError, match=r"clingy\(\).*orphan"):
                where(lambda: bridge.run_sync(clingy(), timeout=0.02))
            assert bridge.run_sync(give(1)) == 1
            assert any("orphan" in record.message and "clingy" in record.message for record in caplog.records)
            release.set()
            wait_for(lambda: "clingy() " in caplog.text and "has ended" in caplog.text, "the orphan has ended")

    def test_a_loop_that_is_stuck_does_not_hold_a_waiting_caller(self):
        entered, release = threading.Event(), threading.Event()

        async def block():
            entered.set()
            release.wait(20)

        with sidecar.Sidecar(name="stuck", cleanup_timeout=0.05) as bridge:
            thread = threading.Thread(target=lambda: bridge.run_sync(block()))
            thread.start()
            assert entered.wait(20)
            with pytest.raises(sidecar.CallTimeoutError, match="orphan"):
                bridge.run_sync(give(1), timeout=0.02)
            release.set()
            thread.join()
            assert bridge.run_sync(give(2)) == 2

    def test_the_bridges_own(self):
        with sidecar.Sidecar(timeout=0.01) as bridge:
            with pytest.raises(TimeoutError):
                bridge.run_sync(asyncio.sleep(60))
            assert bridge.run_sync(give_later(1), timeout=5) == 1


class TestForeignLoops:
    def test_inside_another_running_loop(self):
        async def cell():
            before = asyncio.current_task(), asyncio.get_running_loop()
            value = sidecar.run_sync(give_later("from a cell"))
            assert (asyncio.current_task(), asyncio.get_running_loop()) == before
            await asyncio.sleep(0)
            return value

        assert asyncio.run(cell()) == "from a cell"

    def test_async_generator_hooks_come_back(self):
        async def cell():
            before = sys.get_asyncgen_hooks()
            sidecar.run_sync(give_later(1))
            assert sys.get_asyncgen_hooks() == before

        asyncio.run(cell())
        assert sys.get_asyncgen_hooks() == (None, None)

    def test_an_async_generator_left_early_is_closed_on_the_loop(self):
        closed = threading.Event()

        async def items():
            try:
                while True:
                    yield 1
            finally:
                await asyncio.sleep(0)
                closed.set()

        async def leave_early():
            async for _ in items():
                return

        sidecar.run_sync(leave_early())
        gc.collect()
        assert closed.wait(20)

    def test_two_bridges_nested(self):
        with sidecar.Sidecar(name="other") as other:

            async def outer():
                return other.run_sync(give_later("inner"))

            assert sidecar.run_sync(outer()) == "inner"

    def test_two_bridges_in_a_circle_are_refused(self):
        with sidecar.Sidecar(name="other") as other:

            async def back():
                return sidecar.run_sync(give(1))

            async def there():
                return other.run_sync(back())

            with pytest.raises(sidecar.DeadlockError):
                sidecar.run_sync(there())


class TestTaskFactory:
    def test_is_honoured(self):
        class Task(asyncio.Task):
            pass

        async def look():
            await asyncio.sleep(0)
            return type(asyncio.current_task()), var.get()

        with sidecar.Sidecar() as bridge:
            bridge.get_loop().set_task_factory(lambda loop, coro, **options: Task(coro, loop=loop, **options))
            token = var.set("caller")
            try:
                assert bridge.run_sync(look()) == (Task, "caller")
            finally:
                var.reset(token)


class TestTypes:
    @pytest.mark.parametrize("name", ["_core.Handle", "_core.TimerHandle", "_core.Call", "_core.TaskMark", "Request"])
    def test_what_only_the_core_makes(self, name):
        kinds = {repr(kind): kind for kind in object.__subclasses__() + _core.Handle.__subclasses__()}
        with pytest.raises(TypeError, match="cannot create"):
            kinds[f"<class 'sidecar.{name}'>"]()


class TestReferences:
    def test_results_arguments_and_errors_are_let_go(self):
        class Thing:
            pass

        async def pass_through(thing):
            await asyncio.sleep(0)
            return thing

        thing = Thing()
        reference = weakref.ref(thing)
        assert sidecar.run_sync(pass_through(thing)) is thing
        del thing
        gc.collect()
        assert reference() is None

    def test_the_callers_context_is_let_go(self):
        class Thing:
            pass

        context = contextvars.copy_context()
        context.run(var.set, Thing())
        reference = weakref.ref(context[var])
        assert sidecar.run_sync(give_later(1), context=context) == 1
        del context
        gc.collect()
        assert reference() is None
