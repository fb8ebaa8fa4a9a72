"""The storm on a bridge: ``python -m stress.storm SEED SECONDS`` runs one, and prints its account.

Runs in a process of its own: its timer's signals raise, it forks, and it may hang.
"""

from __future__ import annotations

import _weakrefset
import asyncio
import faulthandler
import gc
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from types import FrameType
from typing import Any, NoReturn

from harness import native_threads, open_descriptors, wait_for
from stress import actions
from stress import ledger as ledgers
from stress.helpers import Helpers
from stress.ledger import Ledger, compare
from stress.plan import Action, Plan, plan

import sidecar

# A callback that helpers.py posts is not among them.
FINALIZERS = ("__del__", "_asyncgen_finalizer_hook")
# What other threads send to the loop, and so have its driver run: an exception cuts it short, as in asyncio.
SENT = (Helpers.receive.__code__,)


class Storm(Helpers):
    # Seconds that a call that has timed out gets to clean up.
    CLEANUP = 0.03

    def __init__(self, made: Plan, seconds: float) -> None:
        self.plan = made
        self.pid = os.getpid()
        self.ledger = Ledger()
        self.until = time.monotonic() + seconds
        self.over = threading.Event()
        self.sent = [0] * len(made.bursts)
        self.received = [0] * len(made.bursts)
        self.keeps_tasks = bool(made.seed % 2)
        self.bridge = sidecar.Sidecar(workers=6, name="storm", cleanup_timeout=self.CLEANUP)
        self.inner_bridge = sidecar.Sidecar(workers=1, name="inner")
        self.loop = self.bridge.get_loop()
        self.loop.set_exception_handler(self._report_of_the_loop)
        self.echo_address = f"\0sidecar-storm-{os.getpid()}"
        self.to_cancel: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.to_drop: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.tasks: set[asyncio.Task[None]] = set()
        self.armed: BaseException | None = None
        self.raised: BaseException | None = None
        self.signals = 0

    # -- calls -------------------------------------------------------------------

    def perform(self, action: Action) -> None:
        self.ledger.count("issued", action.kind)
        try:
            outcome = actions.KINDS[action.kind](self, action)
        except BaseException as error:
            if os.getpid() != self.pid:
                # What a child finds itself in when a coroutine that this thread drove has forked.
                self.end_child(error)
            self.ledger.count("outcome", action.kind, "wrong")
            self.ledger.report(f"{action.kind} {action}", error)
            self.over.set()
        else:
            if os.getpid() != self.pid:
                os._exit(7)
            self.ledger.count("outcome", action.kind, outcome)

    def repeat(self, round_of_actions: tuple[Action, ...]) -> None:
        while not self.is_over():
            for action in round_of_actions:
                if self.is_over():
                    break
                self.perform(action)

    def is_over(self) -> bool:
        return self.over.is_set() or time.monotonic() >= self.until

    def keep(self, task: asyncio.Task[None]) -> None:
        """On the loop only."""
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def caller(self, number: int) -> None:
        if number in self.plan.profiled:
            sys.setprofile(_watch_nothing)
        try:
            self.repeat(self.plan.callers[number])
        finally:
            sys.setprofile(None)

    # -- signals -----------------------------------------------------------------

    def arm(self, error: BaseException) -> None:
        self.raised = None
        self.armed = error

    def disarm(self) -> BaseException | None:
        self.armed = None
        return self.raised

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.signals += 1
        error = self.armed
        if error is not None and not _is_no_place_to_raise(frame):
            self.armed, self.raised = None, error
            raise error

    # -- children ----------------------------------------------------------------

    def become_child(self) -> None:
        self.armed = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        except ValueError:
            pass  # the thread that forked is the pump or the pool's: it ends, and the process with it
        else:
            faulthandler.register(signal.SIGALRM, chain=True)
        signal.alarm(60)

    def child(self) -> NoReturn:
        """A child just works: the storm's bridge is as new here, and so is the process's own."""
        code = 9
        try:
            self.become_child()
            for bridge in (self.bridge, sidecar.get_bridge()):
                for number in range(3):
                    assert bridge.run_sync(_work_in_child(number)) == number
            try:
                self.bridge.run_sync(asyncio.sleep(actions.FAR), timeout=0.001)
            except sidecar.CallTimeoutError:
                pass
            assert self.loop.is_closed() and not self.loop.is_running()
            assert self.bridge.shutdown() and sidecar.shutdown()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def end_child(self, error: BaseException) -> NoReturn:
        if type(error) is sidecar.errors.ForkedError:
            self.child()
        sys.excepthook(type(error), error, error.__traceback__)
        os._exit(6)

    def wait_for_child(self, pid: int) -> None:
        _, status = os.waitpid(pid, 0)
        self.ledger.count("children", "ended")
        if status != 0:
            self.ledger.report(f"child {pid} ended with {status}")

    def tell(self, signum: int, frame: FrameType | None) -> None:
        """Asked where it hangs: what the loop knows, for the stacks say only where the threads are."""
        say = sys.stderr.write
        say(f"armed {self.armed!r}, raised {self.raised!r}, {self.signals} signals, over {self.is_over()}\n")
        say(
            f"{self.loop._calls} calls, owner {self.loop._thread_id}, sent {self.sent}, ran {self.received}\n"
        )
        for task in asyncio.all_tasks(self.loop):
            say(f"{task!r}\n")
            task.print_stack(file=sys.stderr)
        sys.stderr.flush()

    # -- what must not be said -----------------------------------------------------

    def _report_of_the_loop(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.ledger.report(f"loop: {context}", context.get("exception"))

    def watch_hooks(self) -> None:
        def unraisable(what: Any) -> None:
            # StreamWriter.__del__ closes its transport and says so; off the loop's thread the transport may be
            # gone before its repr is made.
            trace = what.exc_traceback
            writers = getattr(asyncio.StreamWriter, "__del__", None)
            if writers is None or trace is None or trace.tb_frame.f_code is not writers.__code__:
                self.ledger.report(f"unraisable in {what.object!r}: {what.err_msg}", what.exc_value)

        def thread_died(what: Any) -> None:
            self.ledger.report(f"thread {what.thread}", what.exc_value)

        sys.unraisablehook = unraisable
        threading.excepthook = thread_died
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*use of fork", DeprecationWarning)
        # What is dropped unclosed is so on purpose.
        warnings.simplefilter("ignore", ResourceWarning)
        notes = Notes(self.ledger)
        logging.getLogger("sidecar").addHandler(notes)
        logging.getLogger("sidecar").setLevel(logging.INFO)
        logging.getLogger("asyncio").addHandler(notes)

    # -- the whole -----------------------------------------------------------------

    def run(self) -> None:
        self.watch_hooks()
        sys.setswitchinterval(self.plan.switch_interval)
        signal.signal(signal.SIGALRM, self.on_signal)
        signal.signal(signal.SIGUSR1, self.tell)
        self.start_echo_server()
        signal.setitimer(signal.ITIMER_REAL, self.plan.signals_every, self.plan.signals_every)
        callers = [
            threading.Thread(target=self.caller, args=(i,), name=f"caller-{i}")
            for i in range(len(self.plan.callers))
        ]
        helpers = self.helper_threads()
        for thread in (*callers, *helpers):
            thread.start()
        self.repeat(self.plan.main)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.over.set()
        for thread in callers:
            thread.join()
        self.end_helpers(helpers)
        self.settle()

    def settle(self) -> None:
        """The calls are over: nothing is left of them but what was left on purpose."""
        wait_for(lambda: self.loop._calls == 0, "no call is counted any more", 60)
        for number in range(3):
            # Generators that were left early go with their last reference, and end on the loop.
            gc.collect()
            assert self.bridge.run_sync(_work_in_child(number)) == number
        for bridge in (self.bridge, self.inner_bridge):
            if not bridge.shutdown(30):
                self.ledger.report(f"{bridge!r} was not shut down cleanly")
        if not sidecar.shutdown(30):
            self.ledger.report("the process's own bridge was not shut down cleanly")
        if self.loop._calls != 0 or self.tasks:
            self.ledger.report(f"after the shutdown: {self.loop._calls} calls, tasks {self.tasks}")
        self.stop_echo_server()

    def account(self) -> Counter[tuple[str, ...]]:
        """Compare what was begun with what has ended."""
        totals = self.ledger.totals()
        wrong = self.ledger.wrong
        wrong += compare(totals, "issued", "outcome")
        wrong += compare(totals, "begun", "ended")
        wrong += self.account_of_helpers(totals)
        left, over = totals["task", "left"], totals["task", "finished"] + totals["task", "cancelled"]
        if left != over:
            wrong.append(f"tasks left by calls: {left}; finished or cancelled: {over}")
        wrong += _account_of_orphans(totals)
        try:
            os.waitpid(-1, os.WNOHANG)
            wrong.append("a child is left")
        except ChildProcessError:
            pass
        return totals


class Notes(logging.Handler):
    """What Sidecar and asyncio log: orphans are counted, all else must not be said."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith("orphan: "):
            end = "goes on" if "goes on" in text else "has ended" if "has ended" in text else "has failed"
            self._ledger.count("note", f"orphan {end}")
            if end == "has failed":
                self._ledger.report(text)
        else:
            self._ledger.report(f"{record.name}: {text}")


def _account_of_orphans(totals: Counter[tuple[str, ...]]) -> list[str]:
    """Each one is noted twice, but for those whose turn to start came only after their caller had gone."""
    noted, ended = totals["note", "orphan goes on"], totals["note", "orphan has ended"]
    unstarted = sum(
        totals["issued", kind] - totals["begun", kind]
        for kind in ("times out", "times out, cleans up", "orphan")
    )
    orphans = totals["outcome", "orphan", "orphaned"]
    if noted == ended + unstarted and noted >= orphans:
        return []
    return [f"{orphans} orphans at least: {noted} noted, {ended} ended, {unstarted} never started"]


async def _work_in_child(number: int) -> int:
    await asyncio.sleep(0.0005)
    return number


def _watch_nothing(frame: FrameType, event: str, argument: object) -> None:
    pass


def _is_no_place_to_raise(frame: FrameType | None) -> bool:
    """Where an exception is not the call's: in the storm's bookkeeping, in what other threads have sent, and in
    a finalizer or a weak reference's callback, where CPython drops it.
    """
    while frame is not None:
        code = frame.f_code
        if code.co_filename in (ledgers.__file__, _weakrefset.__file__) or code.co_name in FINALIZERS:
            return True
        if code in SENT:
            return True
        if code is actions.interruptible.__code__:
            return False
        frame = frame.f_back
    return True


def main(seed: int, seconds: float) -> int:
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    # The main thread's signal descriptors are made once and kept.
    sidecar.run_sync(_work_in_child(0))
    sidecar.shutdown()
    descriptors, threads = len(open_descriptors()), native_threads()
    storm = Storm(plan(seed), seconds)
    storm.run()
    totals = storm.account()
    wrong = storm.ledger.wrong
    del storm.to_drop, storm.to_cancel
    gc.collect()
    try:
        wait_for(lambda: native_threads() <= threads, "all threads have ended")
        wait_for(lambda: len(open_descriptors()) <= descriptors, "all descriptors are closed", 5)
    except AssertionError as error:
        wrong.append(f"{error}: {threading.enumerate()} {open_descriptors()}")
    outcomes: Counter[str] = Counter()
    for key, n in totals.items():
        if key[0] == "outcome":
            outcomes[key[2]] += n
    account = {
        "plan": str(storm.plan),
        "calls": sum(n for key, n in totals.items() if key[0] == "issued"),
        "outcomes": dict(sorted(outcomes.items())),
        "kinds": {" ".join(key): n for key, n in sorted(totals.items())},
        "forks": totals["children", "ended"],
        "signals": storm.signals,
        "wrong": wrong[:20],
    }
    print(json.dumps(account))
    return 1 if wrong else 0


if __name__ == "__main__":
    # Under the name the other modules know it by.
    from stress import storm as this

    sys.exit(this.main(int(sys.argv[1]), float(sys.argv[2])))
