"""``sidecar.limit()``: never more than so many at a time, in turn, from threads and event loops at once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import pickle
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import wait_for
from streaming import in_thread

import sidecar
from sidecar import Overloaded, limit

LONG = 30.0
_names = (f"test-{number}" for number in itertools.count())


@pytest.fixture
def name() -> Iterator[str]:
    """A limit's name of the test's own; nobody is inside of it, or waits, when the test is over."""
    own = next(_names)
    yield own
    used = limit(own)
    assert (used.in_use, used.waiting) == (0, 0)


def run(coro: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coro, LONG))


class Inside(threading.Thread):
    """A thread that is inside a limit until it is told to leave."""

    def __init__(self, used: Any) -> None:
        super().__init__(daemon=True)
        self.used, self.entered, self.leave = used, threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            with self.used:
                self.entered.set()
                assert self.leave.wait(LONG)
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        self.leave.set()
        self.join(LONG)
        assert not self.is_alive()


# -- the same for all ---------------------------------------------------------------


def test_so_many_and_no_more(name: str) -> None:
    two = limit(name, 2)
    with two as entered, two:
        assert entered is two
        with pytest.raises(Overloaded, match=f"limit '{name}': all of its 2 places are taken .SC0009.$") as caught, two:
            pytest.fail("entered")
        assert (two.in_use, two.waiting, two.refused) == (2, 0, 1)
    assert (caught.value.limit, caught.value.retry_after, caught.value.code) == (name, 1.0, "SC0009")
    assert repr(two) == f"<sidecar.Limit '{name}': 0 of 2 in use, 0 wait>"
    with two:
        assert two.in_use == 1


def test_so_many_coroutines_and_no_more(name: str) -> None:
    async def main() -> None:
        async with limit(name, 2) as entered, limit(name):
            assert (entered.name, entered.max, entered.in_use) == (name, 2, 2)
            with pytest.raises(Overloaded):
                async with limit(name):
                    pytest.fail("entered")
        assert limit(name).refused == 1

    run(main())


def test_the_name_is_the_limit(name: str) -> None:
    with limit(name, 1), pytest.raises(Overloaded), limit(name):
        pytest.fail("entered")
    assert limit(name, 1).max == limit(name).max == 1
    with pytest.raises(ValueError, match=f"limit '{name}' has 1 places, by an earlier use, and cannot have 2"):
        limit(name, 2)


@pytest.mark.parametrize(
    ("args", "options", "words"),
    [
        (("not there",), {}, "no limit 'not there' yet; the first use gives its number"),
        (("", 1), {}, "name of a limit must be a string that is not empty, not ''"),
        ((5, 1), {}, "must be a string"),
        (("x", 0), {}, "limit 'x': max must be a whole number from 1 on, not 0"),
        (("x", True), {}, "not True"),
        (("x", 1.5), {}, "not 1.5"),
        (("x", 1), {"wait": -1}, "limit 'x': wait must be a number of seconds from 0 on, not -1"),
        (("x", 1), {"wait": float("inf")}, "not inf"),
        (("x", 1), {"wait": float("nan")}, "not nan"),
    ],
)
def test_wrong_arguments(args: tuple[Any, ...], options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        limit(*args, **options)
    with pytest.raises(ValueError, match="no limit 'x' yet"):
        limit("x")


def test_an_error_inside_gives_the_place_back(name: str) -> None:
    async def fails() -> None:
        async with limit(name, 1):
            raise KeyError

    with pytest.raises(KeyError), limit(name, 1):
        raise KeyError
    with pytest.raises(KeyError):
        run(fails())


# -- the decorator -------------------------------------------------------------------


def test_it_decorates_functions(name: str) -> None:
    @limit(name, 1)
    def pay(amount: int, *, again: bool = False) -> int:
        """Pays."""
        assert limit(name).in_use == 1
        return pay(amount) if again else amount

    assert (pay(5), pay.__name__, pay.__doc__) == (5, "pay", "Pays.")
    with pytest.raises(Overloaded):
        pay(5, again=True)


def test_it_decorates_methods_and_coroutine_functions(name: str) -> None:
    class Client:
        @limit(name, 1)
        def get(self) -> Client:
            return self

        @limit(name)
        async def fetch(self, inner: bool = False) -> Client:
            assert limit(name).in_use == 1
            return await self.fetch() if inner else self

    client = Client()
    assert asyncio.iscoroutinefunction(Client.fetch) if sys.version_info < (3, 14) else True
    assert client.get() is client
    assert run(client.fetch()) is client
    with pytest.raises(Overloaded):
        run(client.fetch(inner=True))
    assert sidecar.run_sync(client.fetch()) is client


def test_it_decorates_no_generators(name: str) -> None:
    def lines() -> Iterator[int]:
        yield 1

    async def chunks() -> Any:
        yield 1

    for function in (lines, chunks):
        with pytest.raises(TypeError, match="is a generator function; use the limit inside of it"):
            limit(name, 1)(function)
    with pytest.raises(TypeError, match="a decorator of functions, not of 5"):
        limit(name)(5)  # type: ignore[type-var]


def test_no_frame_of_the_packages_in_a_refusal(name: str) -> None:
    decorated = limit(name, 1)(int)
    folder = os.path.dirname(sidecar.__file__)
    with limit(name):
        for enter in (limit(name).__enter__, decorated):
            with pytest.raises(Overloaded) as caught:
                enter()
            assert not [entry for entry in caught.traceback if str(entry.path).startswith(folder)]


# -- waiting -------------------------------------------------------------------------


def test_a_thread_waits_for_a_place(name: str) -> None:
    first = Inside(limit(name, 1))
    assert first.entered.wait(LONG)
    second = Inside(limit(name, wait=LONG))
    wait_for(lambda: limit(name).waiting == 1, "the second one waits")
    assert not second.entered.is_set()
    first.end()
    assert second.entered.wait(LONG)
    assert (limit(name).in_use, limit(name).refused) == (1, 0)
    second.end()


def test_a_wait_has_an_end(name: str) -> None:
    async def late() -> None:
        async with limit(name, wait=0.02):
            pytest.fail("entered")

    with limit(name, 1):
        begun = time.monotonic()
        for enter in (lambda: limit(name, wait=0.02).__enter__(), lambda: run(late())):
            with pytest.raises(Overloaded, match=r"all of its 1 places are taken, and none came free within 0.02 s"):
                enter()
        assert time.monotonic() - begun >= 0.04
        assert limit(name).refused == 2


def test_who_waits_longest_is_next(name: str) -> None:
    """Threads and coroutines of two loops in one line; who comes just then, and would not wait, gets nothing."""
    order: list[int] = []
    used = limit(name, 1, wait=LONG)

    async def stand(number: int) -> None:
        async with used:
            order.append(number)

    def stand_here(number: int) -> None:
        with used:
            order.append(number)

    with sidecar.Sidecar(name="line") as bridge:
        ways: list[Callable[[int], Any]] = [
            stand_here,
            lambda number: bridge.run_sync(stand(number)),
            lambda number: asyncio.run(stand(number)),
        ]
        threads = []
        with used:
            for number in range(12):
                threads.append(threading.Thread(target=ways[number % 3], args=(number,)))
                threads[-1].start()
                wait_for(lambda: used.waiting == len(threads), "it stands in line")
            with pytest.raises(Overloaded), limit(name):
                pytest.fail("entered out of turn")
        for thread in threads:
            thread.join(LONG)
    assert order == list(range(12))


def test_a_cancelled_one_leaves_no_hole(name: str) -> None:
    async def main() -> None:
        entered = []

        async def stand(number: int) -> None:
            async with limit(name, wait=LONG):
                entered.append(number)

        async with limit(name, 1):
            tasks = [asyncio.ensure_future(stand(number)) for number in range(4)]
            await asyncio.sleep(0)
            assert limit(name).waiting == 4
            tasks[0].cancel()
            tasks[2].cancel()
            await asyncio.wait([tasks[0], tasks[2]])
            assert limit(name).waiting == 2
        await asyncio.gather(tasks[1], tasks[3])
        assert entered == [1, 3]

    run(main())


def test_one_cancelled_with_the_place_in_its_hands_passes_it_on(name: str) -> None:
    """Granted, and cancelled before it could see it."""

    async def main() -> None:
        async def stand() -> None:
            async with limit(name, wait=LONG):
                pass

        async with limit(name, 1):
            first, second = (asyncio.ensure_future(stand()) for _ in range(2))
            await asyncio.sleep(0)
        assert (limit(name).in_use, limit(name).waiting) == (1, 1)
        first.cancel()
        await second
        assert first.cancelled()

    run(main())


def test_a_coroutine_that_is_dropped_while_it_waits(name: str) -> None:
    async def stand() -> None:
        async with limit(name, wait=LONG):
            pass

    loop = asyncio.new_event_loop()
    with limit(name, 1):
        task = loop.create_task(stand())
        loop.run_until_complete(asyncio.sleep(0))
        assert limit(name).waiting == 1
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        del task
        loop.close()
        del loop
        gc.collect()
        assert limit(name).waiting == 0


def test_one_whose_loop_was_closed_is_passed_over(name: str) -> None:
    async def stand() -> None:
        async with limit(name, wait=LONG):
            pass

    loop = asyncio.new_event_loop()
    used = limit(name, 1)
    with used:
        task = loop.create_task(stand())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        behind = Inside(limit(name, wait=LONG))
        wait_for(lambda: used.waiting == 2, "both stand in line")
    assert behind.entered.wait(LONG)
    behind.end()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    # It was granted its place in vain, which it must not give back a second time.
    with used:
        del task
        gc.collect()
        assert used.in_use == 1


def test_a_thread_that_runs_a_loop_does_not_sleep(name: str) -> None:
    async def main() -> None:
        begun = time.monotonic()
        with pytest.raises(Overloaded), limit(name, wait=LONG):
            pytest.fail("entered")
        assert time.monotonic() - begun < LONG / 2

    with limit(name, 1):
        run(main())
        sidecar.run_sync(main())


def test_a_signal_ends_the_wait(name: str) -> None:
    class Alarm(Exception):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    first = Inside(limit(name, 1))
    assert first.entered.wait(LONG)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Alarm), limit(name, wait=LONG):
            pytest.fail("entered")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert (limit(name).waiting, limit(name).in_use) == (0, 1)
    first.end()


@pytest.mark.skipif(
    not (3, 11) <= sys.version_info < (3, 14),
    reason="CPython's own `with` lets a signal's handler raise between the two: also of threading.Lock",
)
def test_no_signal_comes_between_a_place_and_its_block(name: str) -> None:
    """Alarms that raise, at every point of entering and leaving: no place is lost."""

    class Alarm(Exception):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    used, rung = limit(name, 1), 0
    before = signal.signal(signal.SIGALRM, ring)
    try:
        while rung < 300:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001)
                while True:
                    with used:
                        pass
            except Alarm:
                rung += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert used.in_use == 0


# -- requests ------------------------------------------------------------------------


def in_request(work: Callable[[], Any], **options: Any) -> None:
    """In the scope of a request under WSGI."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        work()
        start_response("200 OK", [])
        return []

    statuses: list[str] = []
    answered = sidecar.WSGIMiddleware(app, **options)({}, lambda status, *_: statuses.append(status))
    getattr(answered, "close", lambda: None)()
    assert statuses == ["200 OK"]


def test_no_wait_goes_beyond_the_deadline(name: str) -> None:
    async def stand() -> None:
        async with limit(name, wait=LONG):
            pytest.fail("entered")

    def work() -> None:
        request = sidecar.current()
        assert request is not None
        begun = time.monotonic()
        with pytest.raises(Overloaded, match="none came free within"), limit(name, wait=LONG):
            pytest.fail("entered")
        assert 0.05 < time.monotonic() - begun < LONG / 2
        left = request.time_left()
        assert left is not None
        assert left <= 0
        with pytest.raises(Overloaded, match=r"taken .SC0009"):  # at once: no time is left
            asyncio.run(stand())

    with limit(name, 1):
        in_request(work, deadline=0.1)
        assert limit(name).refused == 2


def test_one_slow_upstream_leaves_the_pool_to_others(name: str) -> None:
    """Six requests for what does not answer: two wait, four get their answer at once, and so does all the rest."""
    answers = threading.Event()
    with sidecar.Sidecar(workers=3, name="upstreams") as bridge:

        @limit(name, 2)
        async def payments() -> bool:
            return await bridge.to_async(answers.wait)(LONG)

        async def catalogue(number: int) -> int:
            return await bridge.to_async(abs)(number)

        stuck = [bridge.submit(payments) for _ in range(6)]
        wait_for(lambda: sum(future.done() for future in stuck) == 4, "four are refused")
        assert limit(name).refused == 4
        assert [bridge.run_sync(catalogue(-number), timeout=LONG) for number in range(20)] == list(range(20))
        answers.set()
        results = [future.exception(LONG) or future.result() for future in stuck]
        assert sorted(isinstance(result, Overloaded) for result in results) == [False] * 2 + [True] * 4


# -- forks ---------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_begins_with_all_places_free(run_script: Any) -> None:
    done = run_script(
        """
        import os, threading, time, sidecar, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        used = sidecar.limit("forked", 2, wait=20)

        def hold():
            with used:
                time.sleep(60)

        def stand():
            with used:
                pass

        threads = [threading.Thread(target=hold, daemon=True), threading.Thread(target=stand, daemon=True)]
        threads[0].start()
        while used.in_use < 1:
            time.sleep(0.001)
        with used:
            threads[1].start()
            while used.waiting < 1:
                time.sleep(0.001)
            child = os.fork()
            if child == 0:
                assert (used.in_use, used.waiting, used.refused) == (0, 0, 0), used
                with used, sidecar.limit("forked"):
                    assert used.in_use == 2
        if child == 0:
            assert used.in_use == 0, used
            os._exit(7)
        _, status = os.waitpid(child, 0)
        threads[1].join()
        assert used.in_use == 1
        print(os.waitstatus_to_exitcode(status), flush=True)
        os._exit(0)
        """
    )
    assert (done.stdout, done.stderr) == ("7\n", "")


# -- under load ----------------------------------------------------------------------


class Counted:
    """Whether there were ever more inside than may be, by another count than the limit's own."""

    def __init__(self, most: int) -> None:
        self.most, self.inside, self.entries, self.lock = most, 0, 0, threading.Lock()
        self.wrong: list[str] = []

    @contextlib.contextmanager
    def __call__(self, used: Any) -> Iterator[None]:
        with self.lock:
            self.inside += 1
            self.entries += 1
            if self.inside > self.most or used.in_use > self.most:
                self.wrong.append(f"{self.inside} inside, {used!r}")
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1


@pytest.mark.parametrize("seed", range(4))
def test_threads_and_coroutines_with_cancels(name: str, seed: int) -> None:
    """Every way in at once, on three loops and plain threads: each attempt ends in exactly one of three ways."""
    most = 3
    counted = Counted(most)
    limit(name, most)
    outcomes = {"in": 0, "refused": 0, "cancelled": 0}
    lock = threading.Lock()

    def note(what: str) -> None:
        with lock:
            outcomes[what] += 1

    def by_thread(number: int) -> None:
        dice = random.Random(f"{seed}-thread-{number}")
        for _ in range(120):
            used = limit(name, wait=dice.choice([0.0, 0.0005, 0.02, LONG]))
            try:
                with used, counted(used):
                    time.sleep(dice.choice([0, 0, 0.0003]))
                note("in")
            except Overloaded:
                note("refused")

    async def attempt(wait: float, stay: float) -> None:
        used = limit(name, wait=wait)
        try:
            async with used:
                with counted(used):
                    await asyncio.sleep(stay)
            note("in")
        except Overloaded:
            note("refused")
        except asyncio.CancelledError:
            note("cancelled")
            raise

    async def by_loop(dice: random.Random) -> None:
        for _ in range(10):
            tasks = [
                asyncio.ensure_future(attempt(dice.choice([0.0, 0.0005, 0.02, LONG]), dice.choice([0, 0, 0.0003])))
                for _ in range(12)
            ]
            await asyncio.sleep(0)  # each has begun, and so will note its end
            for task in tasks:
                if dice.random() < 0.3:
                    asyncio.get_running_loop().call_later(dice.choice([0, 0.0003, 0.002]), task.cancel)
            await asyncio.gather(*tasks, return_exceptions=True)

    with sidecar.Sidecar(name="storm") as bridge:
        jobs: list[Callable[[], Any]] = [lambda n=n: by_thread(n) for n in range(4)]  # type: ignore[misc]
        jobs += [lambda n=n: bridge.run_sync(by_loop(random.Random(f"{seed}-bridge-{n}"))) for n in range(2)]  # type: ignore[misc]
        jobs += [lambda n=n: asyncio.run(by_loop(random.Random(f"{seed}-loop-{n}"))) for n in range(2)]  # type: ignore[misc]
        threads = [threading.Thread(target=job) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * LONG)
            assert not thread.is_alive()
    assert not counted.wrong
    assert sum(outcomes.values()) == 4 * 120 + 4 * 120
    assert all(outcomes.values()), outcomes
    used = limit(name)
    # Cancelled inside it was in as well.
    assert outcomes["in"] <= counted.entries <= outcomes["in"] + outcomes["cancelled"]
    assert (used.in_use, used.waiting, used.refused) == (0, 0, outcomes["refused"])


# -- the error -----------------------------------------------------------------------


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(Overloaded("busy", limit="payments", retry_after=2.5)))
    assert (str(error), error.limit, error.retry_after) == ("busy", "payments", 2.5)
    assert isinstance(error, (sidecar.SidecarError, RuntimeError))


def test_it_is_the_same_everywhere(name: str) -> None:
    with limit(name, 1), pytest.raises(Overloaded):
        in_thread(limit(name).__enter__)
