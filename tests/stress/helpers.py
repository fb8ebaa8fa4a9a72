"""The storm's other threads: producers, the canceller, the dropper, bridges beside, and the echo server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from harness import wait_for
from stress import actions
from stress.plan import Side

import sidecar

if TYPE_CHECKING:
    from stress.storm import Storm


class Helpers:
    """The part of ``Storm`` that makes no call of the plan's lists."""

    # -- threads -----------------------------------------------------------------

    def helper_threads(self: Storm) -> list[threading.Thread]:
        made = [
            threading.Thread(target=self.produce, args=(i,), name=f"producer-{i}")
            for i in range(len(self.sent))
        ]
        self.kept_beside: list[asyncio.Task[None]] = []
        made.append(threading.Thread(target=self.make_sides, name="sides"))
        made.append(threading.Thread(target=self.cancel_others, name="canceller"))
        made.append(threading.Thread(target=self.drop_others, name="dropper"))
        return made

    def end_helpers(self: Storm, threads: list[threading.Thread]) -> None:
        *workers, canceller, dropper = threads
        for thread in workers:
            thread.join()
        self.to_cancel.put(None)
        self.to_drop.put(None)
        canceller.join()
        dropper.join()

    def account_of_helpers(self: Storm, totals: Counter[tuple[str, ...]]) -> list[str]:
        wrong = []
        if self.received != self.sent:
            wrong.append(f"call_soon_threadsafe: sent {self.sent}, ran {self.received}")
        made, over = totals["connections", "made"], totals["connections", "ended"]
        if made != over:
            wrong.append(f"connections: made {made}, ended at the server {over}")
        return wrong

    # -- call_soon_threadsafe ------------------------------------------------------

    def produce(self: Storm, number: int) -> None:
        while not self.is_over():
            for burst in self.plan.bursts[number]:
                for _ in range(burst):
                    self.loop.call_soon_threadsafe(self.receive, number, self.sent[number])
                    self.sent[number] += 1
                # The next burst when this one has arrived: else they pile up, and nothing else is run.
                wait_for(lambda: self.received[number] == self.sent[number], "what was sent has run", 60)
                if self.is_over():
                    break

    def receive(self: Storm, producer: int, number: int) -> None:
        if self.received[producer] != number:
            self.ledger.report(f"producer {producer}: {number} came when {self.received[producer]} was due")
        self.received[producer] += 1

    # -- others' tasks and writers --------------------------------------------------

    def cancel_others(self: Storm) -> None:
        while (task := self.to_cancel.get()) is not None:
            self.loop.call_soon_threadsafe(task.cancel)
            del task

    def drop_others(self: Storm) -> None:
        while (job := self.to_drop.get()) is not None:
            actions.drop(*job)
            del job

    # -- bridges beside --------------------------------------------------------------

    def make_sides(self: Storm) -> None:
        while not self.is_over():
            for side in self.plan.sides:
                if self.is_over():
                    break
                try:
                    self.make_side(side)
                except BaseException as error:
                    self.ledger.report(f"{side}", error)
                    self.over.set()

    def make_side(self: Storm, side: Side) -> None:
        bridge = sidecar.get_bridge() if side.default else sidecar.Sidecar(workers=1, name="beside")
        self.ledger.count("bridges", "made")
        for number in range(side.tasks):
            bridge.run_sync(self.leave_beside(number))
            self.ledger.count("task", "left")
        users = [
            threading.Thread(target=self.use, args=(bridge,), name=f"user-{i}") for i in range(side.users)
        ]
        for user in users:
            user.start()
        time.sleep(side.seconds)  # no wait for anything: how long it is used
        close = sidecar.shutdown if side.default else bridge.shutdown
        closers = [threading.Thread(target=close, args=(30,), name="closer") for _ in range(side.closers)]
        for closer in closers:
            closer.start()
        for thread in (*closers, *users):
            thread.join()
        self.kept_beside.clear()
        if bridge.is_running():
            self.ledger.report(f"{bridge!r} runs after its shutdown")

    async def leave_beside(self: Storm, number: int) -> None:
        async def task() -> None:
            with self.ledger.body("task beside"):
                try:
                    await asyncio.sleep(actions.FAR if number % 2 else 0.001)
                except asyncio.CancelledError:
                    self.ledger.count("task", "cancelled")
                    raise
                self.ledger.count("task", "finished")

        made = asyncio.get_running_loop().create_task(task())
        await asyncio.sleep(0)
        self.kept_beside.append(made)  # the loop itself keeps tasks weakly

    def use(self: Storm, bridge: sidecar.Sidecar) -> None:
        """Until it is closed: each call is answered, cancelled by the shutdown, or refused."""
        number = 0
        while True:
            number += 1
            self.ledger.count("issued", "beside")
            try:
                outcome = "answered" if bridge.run_sync(self.work_beside(number)) == number else "wrong"
            except asyncio.CancelledError:
                outcome = "cancelled by shutdown"
            except sidecar.BridgeClosedError:
                outcome = "refused"
            except BaseException as error:
                outcome = "wrong"
                self.ledger.report("a call beside", error)
            self.ledger.count("outcome", "beside", outcome)
            if outcome in ("refused", "wrong"):
                break

    async def work_beside(self: Storm, number: int) -> int:
        with self.ledger.body("beside"):
            await asyncio.sleep((0, 0.0005, 0.003)[number % 3])
            return number

    # -- the echo server ---------------------------------------------------------------

    def start_echo_server(self: Storm) -> None:
        """On a plain ``sidecar.Loop`` that a thread of its own runs for good."""
        self.echo_loop: Any = sidecar.Loop()
        self.echo_loop.set_exception_handler(self._report_of_the_loop)
        self.echo_connections: set[asyncio.Task[Any]] = set()
        self._echo_server = self.echo_loop.run_until_complete(
            asyncio.start_unix_server(self.echo, self.echo_address, backlog=200)
        )
        self._echo_thread = threading.Thread(target=self.echo_loop.run_forever, name="echo")
        self._echo_thread.start()

    async def echo(self: Storm, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        finally:
            self.ledger.count("connections", "ended")
            writer.close()

    def stop_echo_server(self: Storm) -> None:
        async def end() -> None:
            self._echo_server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                # Its client's end is closed already: it reads that, and ends.
                await asyncio.wait_for(task, 30)

        asyncio.run_coroutine_threadsafe(end(), self.echo_loop).result(60)
        self.echo_loop.call_soon_threadsafe(self.echo_loop.stop)
        self._echo_thread.join()
        self.echo_loop.close()
