"""asyncio.all_tasks() and current_task() on a loop that changes threads while its tasks live."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from harness import wait_for

import sidecar

Views = Callable[[], "dict[str, set[asyncio.Task[Any]]]"]

since_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are 3.12's")
since_3_14 = pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio lists tasks by thread from 3.14 on")


@pytest.fixture
def bridge() -> Iterator[sidecar.Sidecar]:
    with sidecar.Sidecar() as bridge:
        yield bridge


@pytest.fixture
def living_thread() -> Iterator[concurrent.futures.Executor]:
    """One thread, that outlives what it drives."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        executor.submit(threading.get_ident).result()
        yield executor


@pytest.fixture
def views(bridge: sidecar.Sidecar, living_thread: concurrent.futures.Executor) -> Views:
    """What ``all_tasks()`` shows to each kind of driver, and from outside."""

    async def look() -> set[asyncio.Task[Any]]:
        seen = asyncio.all_tasks()
        assert asyncio.current_task() in seen
        return seen

    def all_views() -> dict[str, set[asyncio.Task[Any]]]:
        return {
            "the main thread": bridge.run_sync(look()),
            "a thread that has driven before": living_thread.submit(bridge.run_sync, look()).result(),
            "a new thread": in_thread(bridge.run_sync, look()),
            "the pump": on_pump(bridge, look),
            "nobody": asyncio.all_tasks(bridge.get_loop()),
        }

    return all_views


def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """On a thread that has ended when this returns."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(function, *args).result()


def on_pump(bridge: sidecar.Sidecar, function: Callable[[], Any]) -> Any:
    """The coroutine that ``function`` makes, as a task that only the pump can run to its end."""
    done: list[Any] = []

    async def work(left: threading.Event) -> None:
        while not left.is_set():
            await asyncio.sleep(0.001)
        done.append((threading.get_ident(), await function()))

    async def leave_behind(left: threading.Event) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work(left))
        # To ask the task itself while the pump runs it would be a race.
        task.add_done_callback(lambda _: ended.set())
        return task

    left, ended = threading.Event(), threading.Event()
    task = bridge.run_sync(leave_behind(left))
    left.set()
    wait_for(ended.is_set, "the pump has run the task")
    task.result()
    thread, result = done[0]
    assert thread != threading.get_ident()
    return result


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def spawn() -> asyncio.Task[None]:
    task = asyncio.get_running_loop().create_task(forever())
    await asyncio.sleep(0)
    return task


def missing(views: Views, tasks: list[asyncio.Task[Any]]) -> dict[str, list[asyncio.Task[Any]]]:
    seen = {view: [task for task in tasks if task not in found] for view, found in views().items()}
    return {view: tasks for view, tasks in seen.items() if tasks}


class TestAllTasks:
    def test_has_the_root(self, bridge, views):
        assert missing(views, [bridge.start().get_loop()._root]) == {}

    def test_has_those_of_calls_from_many_threads(self, bridge, views, living_thread):
        tasks = [in_thread(bridge.run_sync, spawn()) for _ in range(3)]
        tasks.append(living_thread.submit(bridge.run_sync, spawn()).result())
        tasks.append(bridge.run_sync(spawn()))
        assert missing(views, tasks) == {}
        assert missing(views, tasks) == {}, "still, after others have driven"

    def test_has_those_that_the_pump_has_made(self, bridge, views):
        assert missing(views, [on_pump(bridge, spawn)]) == {}

    def test_has_calls_that_wait_while_another_thread_drives(self, bridge, living_thread):
        begun, look = threading.Event(), threading.Event()

        async def wait_here() -> asyncio.Task[Any]:
            begun.set()
            while not look.is_set():
                await asyncio.sleep(0.001)
            return asyncio.current_task()

        async def spawn_and_look():
            task = await spawn()
            return task, asyncio.all_tasks()

        waiting = living_thread.submit(bridge.run_sync, wait_here())
        assert begun.wait(20)
        task, seen = bridge.run_sync(spawn_and_look())
        look.set()
        assert {waiting.result(20), task} <= seen

    def test_has_one_that_a_thread_makes_while_another_drives(self, bridge, views, living_thread):
        """Only for a moment: ``create_task`` belongs on the owner's thread, but nothing stops one."""
        drives, made = threading.Event(), threading.Event()

        async def drive():
            drives.set()
            while not made.is_set():
                await asyncio.sleep(0.001)
            return asyncio.all_tasks()

        seen = living_thread.submit(bridge.run_sync, drive())
        assert drives.wait(20)
        task = bridge.get_loop().create_task(forever())
        made.set()
        assert task in seen.result(20)
        assert missing(views, [task]) == {}

    class Subclass(asyncio.Task):  # type: ignore[type-arg]
        pass

    class Foreign(asyncio.tasks._PyTask):  # type: ignore[name-defined,misc]
        """Not asyncio's own kind: it has to register itself, as libraries' tasks do."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            asyncio._register_task(self)

    @pytest.mark.parametrize("kind", [asyncio.Task, Subclass, Foreign])
    def test_has_those_of_a_task_factory(self, bridge, views, kind):
        bridge.get_loop().set_task_factory(lambda loop, coro, **kwargs: kind(coro, loop=loop, **kwargs))
        tasks = [in_thread(bridge.run_sync, spawn()), bridge.run_sync(spawn())]
        bridge.get_loop().set_task_factory(None)
        assert [type(task) for task in tasks] == [kind, kind]
        assert missing(views, tasks) == {}

    @since_3_12
    def test_has_eager_tasks(self, bridge, views):
        seen = []

        async def look_then_wait():
            seen.append((asyncio.current_task(), asyncio.all_tasks()))
            await forever()

        async def spawn_eagerly():
            return asyncio.create_task(look_then_wait())

        bridge.get_loop().set_task_factory(asyncio.eager_task_factory)
        tasks = [in_thread(bridge.run_sync, spawn_eagerly()), bridge.run_sync(spawn_eagerly())]
        bridge.get_loop().set_task_factory(None)
        assert [task for task, _ in seen] == tasks
        assert all(task in at_its_start for task, at_its_start in seen)
        assert missing(views, tasks) == {}

    def test_has_one_whose_turn_ended_others_of_earlier_turns(self, bridge, views):
        """Those must not be taken for this turn's own, which are counted."""
        old = [bridge.run_sync(spawn()) for _ in range(3)]

        async def end_the_old_ones():
            new = await spawn()
            for task in old:
                task.cancel()
            await asyncio.wait(old)
            return new

        assert missing(views, [in_thread(bridge.run_sync, end_the_old_ones())]) == {}

    def test_has_one_made_after_a_nested_call(self, bridge, views):
        """The turn of another bridge comes and goes inside this one's."""
        with sidecar.Sidecar() as other:

            async def spawn_around():
                before = await spawn()
                inner = other.run_sync(spawn(), timeout=10)
                assert inner in asyncio.all_tasks(other.get_loop())
                assert inner not in asyncio.all_tasks()
                return [before, await spawn()]

            tasks = in_thread(bridge.run_sync, spawn_around())
            assert missing(views, tasks) == {}

    def test_has_none_that_are_finished(self, bridge, views):
        async def end(tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

        tasks = [bridge.run_sync(spawn()), in_thread(bridge.run_sync, spawn()), on_pump(bridge, spawn)]
        assert missing(views, tasks) == {}
        bridge.run_sync(end(tasks[:1]))
        on_pump(bridge, lambda: end(tasks[1:]))
        root = {bridge.get_loop()._root}
        for view, seen in views().items():
            assert not seen & set(tasks), view
            assert len(seen - root) <= 1, view

    def test_keeps_nothing_alive(self, bridge):
        reports = []
        bridge.get_loop().set_exception_handler(lambda _, context: reports.append(context["message"]))
        finished, lost = bridge.run_sync(spawn()), in_thread(bridge.run_sync, spawn())

        async def end(task):
            task.cancel()
            await asyncio.wait({task})

        bridge.run_sync(end(finished))
        references = [weakref.ref(finished), weakref.ref(lost)]
        # Nobody holds the future that the second one waits for.
        del finished, lost
        gc.collect()
        assert [reference() for reference in references] == [None, None]
        assert reports == ["Task was destroyed but it is pending!"]


@since_3_14
class TestSharedSet:
    """Where asyncio keeps what hangs on no thread: a set with no name."""

    @staticmethod
    def shared() -> Any:
        import _asyncio

        (found,) = [each for each in gc.get_referents(_asyncio) if type(each) is weakref.WeakSet]
        return found

    def test_a_call_that_ends_in_its_turn_leaves_it_alone(self, bridge):
        bridge.start()
        gc.collect()

        async def with_children():
            children = [asyncio.ensure_future(asyncio.sleep(0)) for _ in range(3)]
            await asyncio.wait(children)
            return [asyncio.current_task(), *children]

        before = set(self.shared())
        kept = [bridge.run_sync(with_children()), in_thread(bridge.run_sync, with_children())]
        assert set(self.shared()) == before
        assert len(kept) == 2

    def test_a_call_that_ends_in_its_turn_does_not_even_look(self, run_script):
        done = run_script("""
            import asyncio

            looks, real = [], asyncio.all_tasks

            def counted(*args):
                looks.append(args)
                return real(*args)

            asyncio.all_tasks = asyncio.tasks.all_tasks = counted
            import sidecar

            async def leave(seconds):
                return asyncio.create_task(asyncio.sleep(seconds))

            async def with_child(seconds):
                await (await leave(seconds))

            sidecar.run_sync(with_child(0))
            looks.clear()
            for _ in range(10):
                sidecar.run_sync(with_child(0))
                sidecar.run_sync(with_child(0.0001))
            print(len(looks))
            task = sidecar.run_sync(leave(3600))
            print(len(looks))
            sidecar.run_sync(with_child(0))
            print(len(looks))
            """)
        assert (done.stdout, done.stderr) == ("0\n1\n1\n", "")

    def test_what_a_signal_handler_raises_in_there_arrives(self, run_script):
        """``all_tasks`` is Python code in part, so a handler may run, and raise, inside it."""
        done = run_script("""
            import asyncio, signal

            real, tries = asyncio.all_tasks, []

            def interrupted(*args):
                tries.append(args)
                if len(tries) == 1:
                    signal.raise_signal(signal.SIGINT)
                return real(*args)

            asyncio.all_tasks = asyncio.tasks.all_tasks = interrupted
            import sidecar

            async def leave():
                return asyncio.create_task(asyncio.sleep(3600), name="left")

            async def names():
                return {task.get_name() for task in real()}

            try:
                print(sidecar.run_sync(leave()))
            except KeyboardInterrupt:
                print("interrupted", len(tries))
            print("left" in sidecar.run_sync(names()))
            """)
        assert (done.stdout, done.stderr) == ("interrupted 2\nTrue\n", "")

    def test_the_dead_leave_it(self, bridge):
        bridge.start()
        gc.collect()
        before = len(self.shared().data)
        task = bridge.run_sync(spawn())
        assert task in self.shared()
        assert len(self.shared().data) == before + 1
        task.cancel()
        wait_for(task.done, "the pump has ended the task")
        del task
        wait_for(lambda: gc.collect() is not None and len(self.shared().data) == before, "the set is as before")


class TestCurrentTask:
    @pytest.fixture(params=[asyncio.SelectorEventLoop, sidecar.Loop], ids=["asyncio", "sidecar"])
    def outer_loop(self, request):
        loop = request.param()
        yield loop
        loop.close()

    async def surround(self, nested: Callable[[], object], steps: list[Any]) -> str:
        """Marks before and after ``nested``; and the task must be able to go on."""
        before = asyncio.current_task(), asyncio.get_running_loop()
        for _ in range(2):
            nested()
            steps.append((asyncio.current_task(), asyncio.get_running_loop()) == before)
            await asyncio.sleep(0.001)
            steps.append((asyncio.current_task(), asyncio.get_running_loop()) == before)
        steps.append(before[0] in asyncio.all_tasks())
        return "went on"

    @staticmethod
    async def look(fail: bool) -> Any:
        await asyncio.sleep(0.001)
        if fail:
            raise LookupError
        return asyncio.current_task().get_name(), asyncio.current_task() in asyncio.all_tasks()

    @pytest.mark.parametrize("fail", [False, True])
    def test_is_back_after_a_call_nested_in_a_foreign_loop(self, bridge, outer_loop, fail):
        reports, steps, answers = [], [], []
        for loop in (outer_loop, bridge.get_loop()):
            loop.set_exception_handler(lambda _, context: reports.append(context))

        def nested():
            try:
                answers.append(bridge.run_sync(self.look(fail), timeout=10))
            except LookupError:
                answers.append("failed")

        task = outer_loop.create_task(self.surround(nested, steps), name="outer")
        assert outer_loop.run_until_complete(asyncio.wait_for(task, 60)) == "went on"
        assert steps == [True] * 5 and reports == []
        assert answers == ["failed"] * 2 if fail else all(name != "outer" and listed for name, listed in answers)
        assert asyncio._get_running_loop() is None

    def test_is_back_after_a_call_nested_in_another_bridges(self, bridge):
        reports, steps, answers = [], [], []
        with sidecar.Sidecar() as other:
            for each in (bridge, other):
                each.get_loop().set_exception_handler(lambda _, context: reports.append(context))

            def nested():
                answers.append(other.run_sync(self.look(False), timeout=10))

            assert bridge.run_sync(self.surround(nested, steps), timeout=60) == "went on"
            assert in_thread(bridge.run_sync, self.surround(nested, steps)) == "went on"
        assert steps == [True] * 10 and reports == []
        assert len(answers) == 4 and all(listed for _, listed in answers)

    def test_is_none_in_a_callback(self, bridge, outer_loop):
        """Also where the loop is driven inside another one's task."""
        seen = []

        async def call_back():
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: seen.append((asyncio.current_task(), asyncio.get_running_loop() is loop)))
            await asyncio.sleep(0.001)

        async def outer():
            bridge.run_sync(call_back(), timeout=10)

        bridge.run_sync(call_back(), timeout=10)
        outer_loop.run_until_complete(outer())
        assert seen == [(None, True)] * 2
