"""The tests of CPython's suites that do not apply to our loop, each with the reason. Nothing else is left out.

They are run all the same, in a process of their own, and must fail: one that passes, or is no longer there, fails
ours. Except for those with ``runs=False``, which would hang, or whose outcome depends on who drives at that moment.
"""

from __future__ import annotations

import fnmatch
import sysconfig
from dataclasses import dataclass

RUN, DRIVEN, BY_A_THREAD = "run", "driven", "driven-by-a-thread"
EACH = (RUN, DRIVEN, BY_A_THREAD)
CALLERS = (DRIVEN, BY_A_THREAD)


@dataclass(frozen=True)
class Entry:
    """``tests``: module, class and test, of which class and test may have shell's wildcards.

    ``since`` and ``until``: of CPython's version; ``(3, 13)`` as the last one is all of 3.13. ``may_lack``: came
    with one of its bug fix releases. ``without_gil``: applies where there is one.
    """

    reason: str
    tests: tuple[str, ...]
    modes: tuple[str, ...] = EACH
    since: tuple[int, ...] = (3, 9)
    until: tuple[int, ...] = (3, 99)
    runs: bool = True
    may_lack: bool = False
    without_gil: bool = False

    def is_for_version(self, version: tuple[int, int, int]) -> bool:
        if self.without_gil and not sysconfig.get_config_var("Py_GIL_DISABLED"):
            return False
        return self.since <= version and version[: len(self.until)] <= self.until

    def is_for(self, mode: str, module: str, version: tuple[int, int, int]) -> bool:
        return mode in self.modes and self.is_for_version(version) and bool(self.tests_of(module))

    def tests_of(self, module: str) -> list[str]:
        """Patterns for ``Class.test``."""
        prefix = module.rsplit(".", 1)[1] + "."
        return [test[len(prefix) :] for test in self.tests if test.startswith(prefix)]

    def modules(self) -> set[str]:
        return {test.split(".", 1)[0] for test in self.tests}


def _check() -> None:
    for entry in ENTRIES:
        for test in entry.tests:
            assert test.count(".") == 2 and not fnmatch.fnmatch("", test), test


ENTRIES = (
    # -- asyncio's own insides, which ours replaces -----------------------------
    Entry(
        "looks into asyncio's queue of handles; ours is in C",
        (
            "test_base_events.BaseEventLoopTests.test__add_callback_handle",
            "test_base_events.BaseEventLoopTests.test_call_later",
            "test_base_events.BaseEventLoopTests.test_call_soon",
        ),
    ),
    Entry(
        "counts the cancelled timers in asyncio's heap; ours takes one out as it is cancelled",
        ("test_base_events.BaseEventLoopTests.test__run_once_cancelled_event_cleanup",),
    ),
    Entry(
        "the abstract base has no transports; ours has",
        ("test_base_events.BaseEventLoopTests.test_not_implemented",),
    ),
    Entry(
        "asks what was said to the loop's selector, a mock; ours has none",
        (
            "test_base_events.BaseEventLoopTests.test_run_forever_pre_stopped",
            "test_base_events.BaseEventLoopTests.test_single_selecter_event_callback_after_stopping",
            "test_unix_events.SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_blocking_error",
        ),
    ),
    Entry(
        "waits on the loop's selector, a mock that answers at once; ours waits for its timers and descriptors",
        (
            "test_base_events.BaseEventLoopTests.test__run_once",
            "test_base_events.BaseEventLoopTests.test__run_once_schedule_handle",
        ),
        runs=False,
    ),
    Entry(
        "as those above",
        ("test_base_events.BaseEventLoopTests.test_custom_run_forever_integration",),
        since=(3, 13),
        runs=False,
    ),
    Entry(
        "puts the pure Python twins of asyncio's C functions in their place; ours makes C tasks, and marks them in C",
        (
            "test_free_threading.TestEagerPyFreeThreading.test_all_tasks_from_other_thread_includes_eager_tasks",
            "test_free_threading.TestPyFreeThreading.test_all_tasks_from_other_thread_includes_eager_tasks",
            "test_graph.TestCallStackPy.test_call_graph_finished_task",
            "test_graph.TestCallStackPy.test_capture_call_graph_generator_keeps_caller_frames",
            "test_graph.TestCallStackPy.test_stack_as_completed",
            "test_graph.TestCallStackPy.test_stack_as_completed_timeout",
            "test_graph.TestCallStackPy.test_stack_async_gen",
            "test_graph.TestCallStackPy.test_stack_future",
            "test_graph.TestCallStackPy.test_stack_gather",
            "test_graph.TestCallStackPy.test_stack_gather_survivor",
            "test_graph.TestCallStackPy.test_stack_shield",
            "test_graph.TestCallStackPy.test_stack_task",
            "test_graph.TestCallStackPy.test_stack_tgroup",
            "test_graph.TestCallStackPy.test_stack_timeout",
            "test_graph.TestCallStackPy.test_stack_wait",
            "test_graph.TestCallStackPy.test_stack_wait_for_non_positive_timeout",
        ),
        since=(3, 14),
    ),
    Entry(
        "as those above: a C task finds that its thread runs no loop",
        (
            "test_events.TestPyGetEventLoop.test_get_event_loop_new_process",
            "test_events.TestPyGetEventLoop.test_get_event_loop_returns_running_loop",
            "test_events.TestPyGetEventLoop.test_get_event_loop_returns_running_loop2",
            "test_events.TestPyGetEventLoop.test_get_running_loop_already_running",
        ),
        since=(3, 14),
        runs=False,
    ),
    # -- a loop that callers drive -----------------------------------------------
    Entry(
        "runs single rounds by hand; a bridge's loop belongs to its bridge",
        (
            "test_base_events.BaseEventLoopTests.test_default_exc_handler_broken",
            "test_base_events.BaseEventLoopTests.test_set_exc_handler_broken",
            "test_base_events.BaseEventLoopTests.test_set_exc_handler_custom",
        ),
        modes=CALLERS,
        runs=False,
    ),
    Entry(
        "stops the loop within a coroutine's own call, which ends with that coroutine and not before",
        ("test_events.*EventLoopTests.test_run_until_complete_stopped",),
        modes=CALLERS,
    ),
    Entry(
        "as the one above, and waits for the loop to be closed meanwhile",
        ("test_streams.StreamTests.test_loop_is_closed_resource_warnings",),
        modes=CALLERS,
        since=(3, 11),
        runs=False,
    ),
    Entry(
        "a thread that runs a loop may drive another meanwhile, and here does so for good",
        ("test_base_events.RunningLoopTests.test_running_loop_within_a_loop",),
        modes=CALLERS,
        runs=False,
    ),
    Entry(
        "as the one above",
        ("test_events.TestCGetEventLoop.test_get_running_loop_already_running",),
        modes=CALLERS,
        since=(3, 13, 1),
        runs=False,
        may_lack=True,
    ),
    Entry(
        "as the one above; from 3.14 on it is listed for each mode",
        ("test_events.TestPyGetEventLoop.test_get_running_loop_already_running",),
        modes=CALLERS,
        since=(3, 13, 1),
        until=(3, 13),
        runs=False,
        may_lack=True,
    ),
    Entry(
        "a coroutine that another thread has dropped goes, and warns, when the one that made it looks up",
        ("test_runners.RunnerTests.test_recursive_run",),
        modes=CALLERS,
        since=(3, 13),
        runs=False,
        without_gil=True,
    ),
    Entry(
        "a task factory without a context; a call hands its task the caller's, as asyncio.Runner does",
        ("test_base_events.BaseEventLoopTests.test_set_task_factory",),
        modes=CALLERS,
        since=(3, 11),
    ),
    Entry(
        "counts reports to call_exception_handler(), a mock; the real one drops a first step's, whose caller gets it",
        ("test_base_events.BaseEventLoopTests.test_run_forever_keyboard_interrupt",),
        modes=CALLERS,
        since=(3, 12),
    ),
    Entry(
        "looks at the last slow step there was, of at least 0 s: the last one is the call's own",
        ("test_base_events.BaseEventLoopWithSelectorTests.test_log_slow_callbacks",),
        modes=CALLERS,
    ),
    Entry(
        "a task adds a signal handler, which only the main thread may; who drives runs the task, here the pump",
        ("test_unix_events.TestFork.test_fork_signal_handling",),
        modes=CALLERS,
        since=(3, 12),
    ),
    Entry(
        "a callback that is nobody's raises SystemExit: that ends a loop's run, but none of a bridge's calls",
        ("test_base_events.BaseEventLoopTests.test_run_until_complete_loop_orphan_future_close_loop",),
        modes=CALLERS,
        runs=False,
    ),
    Entry(
        "a task factory without a context, as above; from 3.14 on the test's takes one",
        ("test_base_events.BaseEventLoopTests.test_create_named_task_with_custom_factory",),
        modes=CALLERS,
        since=(3, 11),
        until=(3, 12),
    ),
    Entry(
        "as the one above; a bug fix release of 3.13 has the later test",
        ("test_base_events.BaseEventLoopTests.test_create_named_task_with_custom_factory",),
        modes=CALLERS,
        since=(3, 13),
        until=(3, 13),
        runs=False,
    ),
    Entry(
        "its task factory always fails, and with it the call that is to wait for the test's result",
        ("test_tasks.RunCoroutineThreadsafeTests.test_run_coroutine_threadsafe_task_factory_exception",),
        modes=CALLERS,
    ),
    Entry(
        "counts on stop() in the first round; up to 3.11 a call takes its first step in the second",
        ("test_events.*EventLoopTests.test_writer_callback",),
        modes=CALLERS,
        until=(3, 11),
        runs=False,
    ),
    Entry(
        "a new loop has no executor; a bridge's has its worker pool",
        ("test_base_events.BaseEventLoopTests.test_set_default_executor_error",),
        modes=CALLERS,
        since=(3, 11),
    ),
    Entry(
        "debug mode refuses other threads while a thread runs the loop; this one is at times run by none",
        ("test_base_events.BaseEventLoopTests.test_check_thread",),
        modes=CALLERS,
        runs=False,
    ),
    Entry(
        "puts the pure Python twins of asyncio's C functions in their place; who drives marks its thread in C",
        (
            "test_events.TestPyGetEventLoop.test_get_event_loop_new_process",
            "test_events.TestPyGetEventLoop.test_get_event_loop_returns_running_loop",
        ),
        modes=CALLERS,
        until=(3, 13),
    ),
    Entry(
        "as those above",
        ("test_events.TestPyGetEventLoop.test_get_event_loop_returns_running_loop2",),
        modes=CALLERS,
        since=(3, 10),
        until=(3, 13),
    ),
    Entry(
        "as those above",
        (
            "test_eager_task_factory.EagerPyTaskTests.test_awaitables_chain",
            "test_eager_task_factory.EagerPyTaskTests.test_recursive_gather",
            "test_eager_task_factory.EagerPyTaskTests.test_recursive_taskgroups",
            "test_eager_task_factory.NonEagerPyTaskTests.test_awaitables_chain",
            "test_eager_task_factory.NonEagerPyTaskTests.test_recursive_gather",
            "test_eager_task_factory.NonEagerPyTaskTests.test_recursive_taskgroups",
            "test_eager_task_factory.PyEagerTaskFactoryLoopTests.test_all_tasks_with_blocking",
            "test_eager_task_factory.PyEagerTaskFactoryLoopTests.test_all_tasks_with_eager_completion",
            "test_eager_task_factory.PyEagerTaskFactoryLoopTests.test_await_future_during_eager_step",
            "test_eager_task_factory.PyEagerTaskFactoryLoopTests.test_block_after_eager_step",
            "test_eager_task_factory.PyEagerTaskFactoryLoopTests.test_cancellation_after_eager_completion",
            "test_eager_task_factory.PyEagerTaskFactoryLoopTests.test_cancellation_after_eager_step_blocks",
            "test_eager_task_factory.PyEagerTaskFactoryLoopTests.test_context_vars",
            "test_eager_task_factory.PyEagerTaskFactoryLoopTests.test_current_task",
            "test_eager_task_factory.PyEagerTaskFactoryLoopTests.test_eager_completion",
            "test_eager_task_factory.PyEagerTaskFactoryLoopTests.test_eager_start_false",
            "test_eager_task_factory.PyEagerTaskFactoryLoopTests.test_eager_task_factory_set",
            "test_eager_task_factory.PyEagerTaskFactoryLoopTests.test_staggered_race_with_eager_tasks",
            "test_eager_task_factory.PyEagerTaskFactoryLoopTests.test_staggered_race_with_eager_tasks_no_delay",
        ),
        modes=CALLERS,
        since=(3, 14),
    ),
    Entry(
        "expects that a signal handler runs before the task's next step; here another thread goes on with that task",
        ("test_runners.RunnerTests.test_interrupt_cancelled_task",),
        modes=CALLERS,
        since=(3, 11),
        runs=False,
    ),
    Entry(
        "expects the loop to stand still in the round after its coroutine's end; a call takes one more to end",
        ("test_asyncgen.AsyncGenAsyncioTest.test_async_gen_asyncio_shutdown_exception_02",),
        modes=CALLERS,
    ),
    Entry(
        "expects the exception that its own thread just handles as the context; another thread ran the coroutine",
        (
            "test_contextlib_async.TestAsyncExitStack.test_exit_exception_chaining",
            "test_contextlib_async.TestAsyncExitStack.test_exit_exception_with_existing_context",
        ),
        modes=CALLERS,
        until=(3, 13),
    ),
    Entry(
        "as those above",
        ("test_contextlib_async.TestAsyncExitStack.test_exit_exception_traceback",),
        modes=CALLERS,
        since=(3, 10),
        until=(3, 13),
    ),
)

_check()
