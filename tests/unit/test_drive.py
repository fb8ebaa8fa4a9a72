"""The driving protocol seen from Python: many callers, hand-over, the pump, the main thread's restraint."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import random
import socket
import sys
import threading

import pytest
from harness import wait_for

import sidecar


async def nap(seconds=0.0):
    await asyncio.sleep(seconds)
    return threading.get_ident()


def watched(task):
    """The task, and what is set when it has ended: to ask the task from another thread would be a race."""
    ended = threading.Event()
    task.add_done_callback(lambda _: ended.set())
    return task, ended


def run_threads(count, work):
    """``work(number)`` on ``count`` threads that start together; raises what one of them raised."""
    barrier = threading.Barrier(count)

    def begin(number):
        barrier.wait(20)
        return work(number)

    with concurrent.futures.ThreadPoolExecutor(count) as executor:
        return list(executor.map(begin, range(count)))


class TestContention:
    @pytest.mark.parametrize("threads", [1, 8, 64])
    def test_every_call_gets_its_own_answer(self, threads):
        rng = random.Random(threads)
        plans = [[rng.choice([0, 0, 0.0005, 0.002]) for _ in range(1000 // threads + 5)] for _ in range(threads)]

        async def work(number, step, seconds):
            await asyncio.sleep(seconds)
            if step % 3 == 0:
                await asyncio.sleep(0)
            return number, step

        def caller(number):
            for step, seconds in enumerate(plans[number]):
                assert sidecar.run_sync(work(number, step, seconds)) == (number, step)
            return len(plans[number])

        assert sum(run_threads(threads, caller)) == sum(map(len, plans))

    @pytest.mark.parametrize("threads", [8, 64])
    def test_never_two_at_once_on_the_loop(self, threads):
        inside = 0

        async def work():
            nonlocal inside
            for _ in range(3):
                inside += 1
                assert inside == 1
                inside -= 1
                await asyncio.sleep(0)

        def caller(number):
            for _ in range(500 // threads):
                sidecar.run_sync(work())

        run_threads(threads, caller)

    def test_calls_that_never_wait(self):
        async def give(value):
            return value

        def caller(number):
            return [sidecar.run_sync(give(step)) for step in range(300)] == list(range(300))

        assert all(run_threads(8, caller))

    def test_a_caller_leaves_though_others_keep_the_loop_busy(self):
        """It lingers for work that is ready, but not for good."""
        stop, begun, left = threading.Event(), threading.Event(), threading.Event()
        spinning = []

        async def spin(number):
            spinning.append(number)
            while not stop.is_set():
                await asyncio.sleep(0)

        async def until_others_spin():
            begun.set()
            while len(spinning) < 2:
                await asyncio.sleep(0)

        def first():
            sidecar.run_sync(until_others_spin())  # the owner, as the others come later
            left.set()

        threads = [threading.Thread(target=first)]
        threads += [threading.Thread(target=lambda n=n: sidecar.run_sync(spin(n))) for n in range(2)]
        try:
            threads[0].start()
            assert begun.wait(20)
            for thread in threads[1:]:
                thread.start()
            assert left.wait(10)
        finally:
            stop.set()
            for thread in threads:
                thread.join(20)

    def test_short_calls_do_not_wait_for_long_ones(self):
        begun = threading.Event()
        ended = threading.Event()

        async def long():
            begun.set()
            await hold
            return "long"

        async def make():
            return asyncio.get_running_loop().create_future()

        hold = sidecar.run_sync(make())
        thread = threading.Thread(target=lambda: (sidecar.run_sync(long()), ended.set()))
        thread.start()
        assert begun.wait(20)

        def caller(number):
            for _ in range(50):
                sidecar.run_sync(nap())

        run_threads(4, caller)
        assert not ended.is_set()
        hold.get_loop().call_soon_threadsafe(hold.set_result, None)
        thread.join(20)
        assert ended.is_set()

    def test_an_owner_that_leaves_hands_over_to_the_oldest_waiter(self):
        order = []
        gates = {}

        async def wait(number):
            gates[number] = asyncio.get_running_loop().create_future()
            await gates[number]
            order.append((number, threading.get_ident()))

        async def open_gate(number):
            gates[number].set_result(None)

        idents = {}

        def caller(number):
            idents[number] = threading.get_ident()
            sidecar.run_sync(wait(number))

        threads = []
        for number in range(3):
            threads.append(threading.Thread(target=caller, args=(number,)))
            threads[-1].start()
            wait_for(lambda: number in gates, f"call {number} has begun")
        # 0 drives; it is done first, and 1 must take over and serve itself and 2.
        loop = sidecar.get_bridge().get_loop()
        for number in range(3):
            loop.call_soon_threadsafe(gates[number].set_result, None)
            threads[number].join(20)
            assert not threads[number].is_alive()
        assert [number for number, _ in order] == [0, 1, 2]
        assert [ident for _, ident in order] == [idents[0], idents[1], idents[2]]


class TestPump:
    def test_tasks_go_on_between_calls(self):
        ticks = []

        async def tick():
            while True:
                ticks.append(threading.get_ident())
                await asyncio.sleep(0.001)

        async def spawn():
            return watched(asyncio.create_task(tick()))

        task, ended = sidecar.run_sync(spawn())
        wait_for(lambda: len(ticks) > 20, "twenty ticks")
        assert threading.get_ident() not in ticks[5:]
        task.get_loop().call_soon_threadsafe(task.cancel)
        wait_for(ended.is_set, "the task is cancelled")

    def test_timers_run_in_order(self):
        ran = []

        async def plan():
            loop = asyncio.get_running_loop()
            for delay in (0.03, 0.01, 0.02):
                loop.call_later(delay, ran.append, delay)

        sidecar.run_sync(plan())
        wait_for(lambda: len(ran) == 3, "three timers")
        assert ran == [0.01, 0.02, 0.03]

    def test_a_descriptor_that_becomes_ready(self):
        ours, theirs = socket.socketpair()
        got = []
        try:
            ours.setblocking(False)

            async def watch():
                asyncio.get_running_loop().add_reader(ours, lambda: got.append(ours.recv(10)))

            async def unwatch():
                assert asyncio.get_running_loop().remove_reader(ours)

            sidecar.run_sync(watch())
            for _ in range(3):
                count = len(got) + 1
                theirs.send(b"x")
                wait_for(lambda: len(got) >= count, "the pump has read it")
                # A call in between drives past the same descriptor.
                sidecar.run_sync(nap())
            sidecar.run_sync(unwatch())
            assert b"".join(got) == b"xxx"
        finally:
            ours.close()
            theirs.close()

    def test_what_other_threads_send_a_free_loop_is_run(self):
        loop = sidecar.get_bridge().get_loop()
        ran = threading.Event()

        def send(number):
            for _ in range(200):
                ran.clear()
                loop.call_soon_threadsafe(ran.set)
                assert ran.wait(20)

        send(0)

    def test_a_storm_from_many_threads_loses_nothing(self):
        loop = sidecar.get_bridge().get_loop()
        ran = []

        def send(number):
            for step in range(500):
                loop.call_soon_threadsafe(ran.append, (number, step))
                if step % 100 == 0:
                    sidecar.run_sync(nap())

        run_threads(8, send)
        wait_for(lambda: len(ran) == 8 * 500, "all 4,000 callbacks")
        for number in range(8):
            assert [step for who, step in ran if who == number] == list(range(500))

    def test_call_soon_and_call_later_off_the_owners_thread(self):
        loop = sidecar.get_bridge().get_loop()
        ran = []
        loop.call_soon(ran.append, "soon")
        loop.call_later(0.01, ran.append, "later")
        cancelled = loop.call_later(0.005, ran.append, "never")
        cancelled.cancel()
        wait_for(lambda: "later" in ran, "the timer")
        assert ran == ["soon", "later"]

    def test_a_far_timer_cancelled_off_thread_lets_its_callback_go(self):
        loop = sidecar.get_bridge().get_loop()
        handles = [loop.call_later(3600, lambda: None) for _ in range(100)]
        sidecar.run_sync(nap())
        for handle in handles:
            handle.cancel()
        sidecar.run_sync(nap())
        wait_for(lambda: not any(handle._scheduled for handle in handles), "all out of the heap")

    def test_its_thread_has_a_name(self):
        with sidecar.Sidecar(name="named") as bridge:
            bridge.run_sync(nap())
            names = set()
            for task in os.listdir("/proc/self/task"):
                with open(f"/proc/self/task/{task}/comm") as file:
                    names.add(file.read().strip())
            assert "named-pump" in names

    def test_a_busy_pump_gives_way_to_a_caller(self):
        async def spin(stop):
            while not stop.done():
                await asyncio.sleep(0)

        async def begin():
            stop = asyncio.get_running_loop().create_future()
            return stop, asyncio.create_task(spin(stop))

        async def end():
            stop.set_result(None)
            await task

        stop, task = sidecar.run_sync(begin())

        def caller(number):
            return [sidecar.run_sync(nap()) for _ in range(20)]

        run_threads(4, caller)
        sidecar.run_sync(end())
        assert task.done()


class TestRestrained:
    """The main thread, deep stacks and traced threads drive their own call only."""

    def test_the_main_thread_drives_its_own_call(self):
        assert sidecar.run_sync(nap(0.001)) == threading.get_ident()

    def test_not_while_anothers_task_is_alive(self):
        async def spawn():
            stop = asyncio.get_running_loop().create_future()
            return stop, asyncio.create_task(hold(stop))

        async def hold(stop):
            await stop

        async def end():
            stop.set_result(None)
            await task

        stop, task = sidecar.run_sync(spawn())
        assert sidecar.run_sync(nap(0.001)) != threading.get_ident()
        sidecar.run_sync(end())
        wait_for(
            lambda: sidecar.run_sync(nap(0.001)) == threading.get_ident(), "the main thread drives again"
        )

    def test_it_hands_over_when_a_call_arrives(self):
        begun = threading.Event()
        who = []

        async def long():
            begun.set()
            who.append(threading.get_ident())
            while len(who) < 2 or not newcomer_done.is_set():
                await asyncio.sleep(0.001)
            who.append(threading.get_ident())

        newcomer_done = threading.Event()
        seen = []

        def newcomer():
            assert begun.wait(20)
            seen.append(sidecar.run_sync(nap(0.01)))
            who.append("newcomer")
            newcomer_done.set()

        thread = threading.Thread(target=newcomer)
        thread.start()
        sidecar.run_sync(long())
        thread.join(20)
        assert seen == [thread.ident]
        assert who[0] == threading.get_ident()
        assert who[-1] != threading.get_ident()

    def test_a_deep_owner_does_not_starve_a_shallow_victim(self):
        """A coroutine of another thread must not run on a stack that is nearly used up."""
        limit = sys.getrecursionlimit()
        begun = threading.Event()
        release = threading.Event()

        async def wait_long():
            begun.set()
            while not release.is_set():
                await asyncio.sleep(0.001)

        def descend(depth):
            if depth:
                return descend(depth - 1)
            return sidecar.run_sync(wait_long())

        async def recurse(depth):
            if depth:
                return await recurse(depth - 1)
            await asyncio.sleep(0)
            return "bottom"

        owner = threading.Thread(target=descend, args=(int(limit * 0.9),))
        owner.start()
        assert begun.wait(20)
        try:
            with concurrent.futures.ThreadPoolExecutor(4) as executor:
                answers = [executor.submit(sidecar.run_sync, recurse(100)) for _ in range(20)]
                assert [answer.result(20) for answer in answers] == ["bottom"] * 20
        finally:
            release.set()
            owner.join(20)

    def test_a_traced_thread(self):
        async def where():
            await asyncio.sleep(0)
            return threading.get_ident()

        stop = sidecar.run_sync(self.make_future())
        _, ended = sidecar.run_sync(self.make_task(stop))

        def caller():
            sys.settrace(lambda *args: None)
            try:
                return sidecar.run_sync(where()), threading.get_ident()
            finally:
                sys.settrace(None)

        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            ran_on, caller_ident = executor.submit(caller).result(20)
        assert ran_on != caller_ident
        stop.get_loop().call_soon_threadsafe(stop.set_result, None)
        wait_for(ended.is_set, "the task has ended")

    @staticmethod
    async def make_future():
        return asyncio.get_running_loop().create_future()

    @staticmethod
    async def make_task(stop):
        async def hold():
            await stop

        return watched(asyncio.create_task(hold()))

    def test_a_thread_with_a_small_stack(self):
        stop = sidecar.run_sync(self.make_future())
        _, ended = sidecar.run_sync(self.make_task(stop))
        before = threading.stack_size(128 * 1024)
        try:
            with concurrent.futures.ThreadPoolExecutor(1) as executor:
                ran_on = executor.submit(lambda: (sidecar.run_sync(nap()), threading.get_ident())).result(20)
        finally:
            threading.stack_size(before)
        assert ran_on[0] != ran_on[1]
        stop.get_loop().call_soon_threadsafe(stop.set_result, None)
        wait_for(ended.is_set, "the task has ended")
