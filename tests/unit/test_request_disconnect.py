"""The client goes while the request waits: its thread hears of it, its work ends, and nothing is written."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from harness import open_descriptors, wait_for
from requested import HEADERS, Answer, Stubborn, Work, call, client, serve, view

import sidecar

LONG = 30.0
# Of the 50 ms that are promised; the machine of a test may be busy.
SOON = 5.0


def gone(function: Callable[[], Any]) -> sidecar.ClientDisconnected:
    with pytest.raises(sidecar.ClientDisconnected) as caught:
        function()
    return caught.value


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    return ours, theirs


def close(theirs: socket.socket) -> None:
    theirs.close()


def half_close(theirs: socket.socket) -> None:
    theirs.shutdown(socket.SHUT_WR)


def reset(theirs: socket.socket) -> None:
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()


def hang_up_when_begun(work: Work, theirs: socket.socket, how: Callable[[socket.socket], None] = close) -> Any:
    """On a thread: the client goes once the work has begun. Its moment is in the list."""
    moments: list[float] = []

    def wait_and_go() -> None:
        assert work.begun.wait(LONG)
        moments.append(time.monotonic())
        how(theirs)

    thread = threading.Thread(target=wait_and_go)
    thread.start()
    return thread, moments


class TestHowItGoes:
    @pytest.mark.parametrize("how", [close, half_close, reset])
    def test_over_tcp(self, how: Callable[[socket.socket], None], where: Callable[..., Any]) -> None:
        work = Work(cleanup=0.001)
        ours, theirs = tcp_pair()

        def wait() -> float:
            error = gone(lambda: sidecar.run_sync(work.run()))
            heard = time.monotonic()
            assert error.code == "SC0008" and isinstance(error, ConnectionResetError)
            assert "the client of the request has gone; Work.run() at" in str(error)
            assert isinstance(error.__cause__, asyncio.CancelledError)
            assert sidecar.current().cancelled  # type: ignore[union-attr]
            raise LookupError(heard)

        with ours, theirs:
            thread, moments = hang_up_when_begun(work, theirs, how)
            with pytest.raises(LookupError) as caught:
                where(serve, view(wait), {"gunicorn.socket": ours})
            thread.join(LONG)
        assert 0 <= caught.value.args[0] - moments[0] < SOON
        assert work.ends == ["cancelled"]

    @pytest.mark.parametrize("how", [close, reset])
    def test_reset_waits_for_more_than_a_closed_side(self, how: Callable[[socket.socket], None]) -> None:
        work = Work()
        ours, theirs = tcp_pair()

        def wait() -> None:
            half_close(theirs)
            assert sidecar.run_sync(asyncio.sleep(0.05, "half")) == "half"
            if how is reset:
                sidecar.run_sync(work.run())

        with ours, theirs:
            thread, _ = hang_up_when_begun(work, theirs, reset)
            if how is reset:
                gone(lambda: serve(view(wait), {"gunicorn.socket": ours}, disconnect="reset"))
            else:
                assert serve(view(wait), {"gunicorn.socket": ours}, disconnect="reset").text == "served"
            work.begun.set()
            thread.join(LONG)

    def test_reset_over_a_unix_socket_that_is_closed(self) -> None:
        work = Work()
        with client() as (environ, theirs):
            thread, _ = hang_up_when_begun(work, theirs)
            gone(lambda: serve(view(lambda: sidecar.run_sync(work.run())), environ, disconnect="reset"))
            thread.join(LONG)

    def test_off(self) -> None:
        with client() as (environ, theirs):
            theirs.close()
            answer = serve(view(lambda: sidecar.run_sync(asyncio.sleep(0.05))), environ, disconnect="off")
        assert answer.status == "200 OK"

    @pytest.mark.parametrize("value", ["", "CLOSE", None, 1, b"close"])
    def test_other_words(self, value: Any) -> None:
        with pytest.raises(ValueError, match="disconnect must be"):
            sidecar.WSGIMiddleware(view(int), disconnect=value)

    @pytest.mark.parametrize("key", ["gunicorn.socket", "werkzeug.socket"])
    @pytest.mark.parametrize("kind", [lambda ours: ours, lambda ours: ours.fileno()], ids=["socket", "number"])
    def test_where_a_server_shows_it(self, key: str, kind: Callable[[socket.socket], Any]) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.close()
            gone(lambda: serve(view(lambda: sidecar.run_sync(asyncio.sleep(LONG))), {key: kind(ours)}))

    @pytest.mark.parametrize("shown", [None, -1, 10**9, "socket", object(), 1 << 80])
    def test_what_is_no_connection_is_not_watched(self, shown: Any) -> None:
        assert call(lambda: sidecar.run_sync(asyncio.sleep(0.005, 1)), {"gunicorn.socket": shown}) == 1

    def test_one_that_is_closed_already_on_our_side(self) -> None:
        ours, theirs = socket.socketpair()
        theirs.close()
        ours.close()
        assert call(lambda: sidecar.run_sync(asyncio.sleep(0.005, 1)), {"gunicorn.socket": ours}) == 1

    def test_a_client_that_sends_on_stays(self) -> None:
        """The next request, pipelined, or the body of this one."""
        with client() as (environ, theirs):
            theirs.sendall(b"x" * 10_000)
            assert call(lambda: sidecar.run_sync(asyncio.sleep(0.03, 1)), environ) == 1


class TestWhomItReaches:
    def test_a_step_of_a_stream(self) -> None:
        work, got = Work(cleanup=0.01), []

        async def items() -> AsyncIterator[str]:
            yield "one"
            yield await work.run()

        with client() as (environ, theirs):
            thread, _ = hang_up_when_begun(work, theirs)
            gone(lambda: serve(view(lambda: [got.append(item) for item in sidecar.stream(items)]), environ))
            thread.join(LONG)
        assert got == ["one"] and work.ends == ["cancelled"]

    def test_gather_and_another_bridge(self, bridge: sidecar.Sidecar) -> None:
        for waits in (bridge.gather, sidecar.gather):
            work = Work()
            with client() as (environ, theirs):
                thread, _ = hang_up_when_begun(work, theirs)
                gone(lambda: serve(view(lambda: waits(work.run(), asyncio.sleep(LONG))), environ))  # noqa: B023
                thread.join(LONG)
            assert work.ends == ["cancelled"]

    def test_all_that_the_request_has_begun(self) -> None:
        works = [Work(cleanup=0.01) for _ in range(4)]

        def wait() -> None:
            context = contextvars.copy_context()
            sidecar.run_sync(works[0].leave())
            future = sidecar.submit(works[1].run)
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                other = pool.submit(context.run, sidecar.run_sync, works[2].run())
                assert works[1].begun.wait(LONG) and works[2].begun.wait(LONG)
                gone(lambda: sidecar.run_sync(works[3].run()))
                gone(lambda: other.result(LONG))
            assert future.cancelled()
            wait_for(lambda: all(work.ends for work in works), "all end")

        with client() as (environ, theirs):
            thread, _ = hang_up_when_begun(works[3], theirs)
            gone(lambda: serve(view(wait), environ))
            thread.join(LONG)
        assert [work.ends for work in works] == [["cancelled"]] * 4

    def test_a_call_that_is_begun_later(self) -> None:
        """Gone while the thread computed: told as soon as it waits."""
        with client() as (environ, theirs):

            def wait() -> None:
                theirs.close()
                assert sidecar.run_sync(Work().run(0)) == "done"  # needs no wait
                gone(lambda: sidecar.run_sync(asyncio.sleep(LONG)))
                assert sidecar.run_sync(asyncio.sleep(0.001, "cleanup")) == "cleanup"
                raise LookupError

            with pytest.raises(LookupError):
                serve(view(wait), environ)

    def test_a_coroutine_that_swallows_it_is_left_behind(self) -> None:
        stubborn = Stubborn()

        def wait() -> None:
            with sidecar.Sidecar(cleanup_timeout=0.05) as bridge:
                try:
                    error = gone(lambda: bridge.run_sync(stubborn.run()))
                finally:
                    stubborn.let_go.set()
                assert "left behind as an orphan" in str(error.__cause__)
                bridge.run_sync(asyncio.sleep(0))

        with client() as (environ, theirs):
            theirs.close()
            gone(lambda: serve(view(wait), environ))

    def test_while_nobody_drives(self) -> None:
        """A greenlet's call waits where no thread waits for it: the loop's own one must begin the watch."""
        pytest.importorskip("greenlet", reason="greenlet is not installed")
        from greenlet import greenlet

        work = Work()
        heard: list[Any] = []

        with client() as (environ, theirs):

            def request() -> None:
                heard.append(gone(lambda: serve(view(lambda: sidecar.run_sync(work.run())), environ)))

            thread, _ = hang_up_when_begun(work, theirs)
            greenlet(request).switch()
            thread.join(LONG)
        assert heard and work.ends == ["cancelled"]

    def test_after_another_caller_has_left_the_loop(self) -> None:
        """The main thread drives its own call only, and so leaves the loop to the other one."""
        work = Work()

        def pass_by() -> None:
            assert work.begun.wait(LONG)
            sidecar.run_sync(asyncio.sleep(0))
            theirs.close()

        with client() as (environ, theirs):
            thread = threading.Thread(target=pass_by)
            thread.start()
            gone(lambda: serve(view(lambda: sidecar.run_sync(work.run())), environ))
            thread.join(LONG)
        assert work.ends == ["cancelled"]

    def test_the_neighbours_hear_nothing(self) -> None:
        """Requests at once on one loop, of which every other one's client goes."""
        begun = threading.Barrier(8)

        def request(number: int) -> str:
            async def wait() -> str:
                await asyncio.sleep(0.3)
                return "served"

            with client() as (environ, theirs):

                def run() -> Any:
                    begun.wait(LONG)
                    if number % 2:
                        theirs.close()
                    return sidecar.run_sync(wait())

                try:
                    return str(call(run, environ))
                except sidecar.ClientDisconnected:
                    return "gone"

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(request, range(8)))
        assert found == ["served", "gone"] * 4


class TestNothingIsWritten:
    def test_start_response_raises_it_again_each_time(self) -> None:
        answer = Answer()

        def app(environ: Any, start_response: Any) -> list[bytes]:
            gone(lambda: sidecar.run_sync(asyncio.sleep(LONG)))
            for exc_info in ((), ((ValueError, ValueError(), None),)):
                error = gone(lambda: start_response("200 OK", HEADERS, *exc_info))  # noqa: B023
                assert str(error) == "the client of the request has gone [SC0008]"
            start_response("200 OK", HEADERS)
            return [b"never"]

        with client() as (environ, theirs):
            theirs.close()
            middleware = sidecar.WSGIMiddleware(app)
            gone(lambda: middleware(environ, answer.start_response))
        assert answer.starts == []

    def test_in_a_generator(self) -> None:
        answer = Answer()

        def app(environ: Any, start_response: Any) -> Iterator[bytes]:
            try:
                sidecar.run_sync(asyncio.sleep(LONG))
            finally:
                start_response("200 OK", HEADERS)
            yield b"never"

        with client() as (environ, theirs):
            theirs.close()
            body: Any = sidecar.WSGIMiddleware(app)(environ, answer.start_response)
            gone(lambda: next(body))
            body.close()
        assert answer.starts == []

    def test_servers_take_it_for_a_broken_connection(self) -> None:
        with client() as (environ, theirs):
            theirs.close()
            error = gone(lambda: serve(view(lambda: sidecar.run_sync(asyncio.sleep(LONG))), environ))
        assert isinstance(error, OSError) and error.errno == 104

    def test_it_is_no_deadline(self) -> None:
        """No 504 for somebody who is not there."""
        with client() as (environ, theirs):
            theirs.close()
            gone(lambda: serve(view(lambda: sidecar.run_sync(asyncio.sleep(LONG))), environ, deadline=LONG))


class TestTheWatch:
    def test_a_thousand_calls_leave_no_descriptor(self) -> None:
        async def nap() -> None:
            await asyncio.sleep(0.0001)

        def wait() -> None:
            sidecar.run_sync(nap())
            before = len(open_descriptors())
            for _ in range(1000):
                sidecar.run_sync(nap())
            assert len(open_descriptors()) == before

        with client() as (environ, _):
            call(wait, environ)

    @pytest.mark.parametrize("end", ["time-out", "error", "cancelled", "gone"])
    def test_nor_do_those_that_end_otherwise(self, end: str) -> None:
        async def fail() -> None:
            await asyncio.sleep(0.001)
            raise asyncio.CancelledError if end == "cancelled" else LookupError

        def once() -> None:
            with client() as (environ, theirs):
                if end == "gone":
                    theirs.close()
                    gone(lambda: serve(view(lambda: sidecar.run_sync(asyncio.sleep(LONG))), environ))
                    return

                def wait() -> None:
                    with pytest.raises((TimeoutError, LookupError, asyncio.CancelledError)):
                        sidecar.run_sync(asyncio.sleep(LONG) if end == "time-out" else fail(), timeout=0.005)

                call(wait, environ)

        once()
        gc.collect()
        before = open_descriptors()
        for _ in range(100):
            once()
        assert len(open_descriptors()) == len(before)

    def test_while_it_waits_there_is_one_and_the_request_lets_the_socket_go(self) -> None:
        work = Work()
        ours, theirs = socket.socketpair()
        environ = {"gunicorn.socket": ours}
        sidecar.get_bridge().start()
        before = len(open_descriptors())
        counts = []

        def look() -> None:
            assert work.begun.wait(LONG)
            wait_for(lambda: len(open_descriptors()) == before + 1, "the watch is armed")
            counts.append(sys.getrefcount(ours))
            theirs.close()

        with ours, theirs:
            thread = threading.Thread(target=look)
            references = sys.getrefcount(ours)
            thread.start()
            gone(lambda: serve(view(lambda: sidecar.run_sync(work.run())), environ))
            thread.join(LONG)
            del environ["sidecar.request"]
            assert counts == [references] and sys.getrefcount(ours) == references

    def test_the_server_may_close_its_own_meanwhile(self) -> None:
        """The watch is a descriptor of its own: another connection that gets the number is not taken for it."""
        work = Work()
        ours, theirs = socket.socketpair()

        def swap() -> None:
            assert work.begun.wait(LONG)
            number = ours.fileno()
            wait_for(lambda: len(open_descriptors()) > before, "the watch is armed")
            other, their_other = socket.socketpair()
            os.dup2(other.fileno(), number)
            their_other.close()
            time.sleep(0.05)  # what must not happen would have happened
            other.close()
            work_ends.extend(work.ends)
            theirs.close()

        work_ends: list[str] = []
        sidecar.get_bridge().start()
        with ours, theirs:
            before = len(open_descriptors())
            thread = threading.Thread(target=swap)
            thread.start()
            gone(lambda: serve(view(lambda: sidecar.run_sync(work.run())), {"gunicorn.socket": ours}))
            thread.join(LONG)
        assert work_ends == []

    def test_under_load(self) -> None:
        """Eight threads, each with a connection: who waits when its client goes hears of it, and nobody else."""

        async def nap(seconds: float) -> str:
            await asyncio.sleep(seconds)
            return "served"

        def one(seed: int) -> tuple[bool, bool]:
            goes = seed % 3 == 0
            with client() as (environ, theirs):

                def run() -> str:
                    for _ in range(seed % 5):
                        sidecar.run_sync(nap(0.0002))
                    if goes:
                        theirs.close()
                    return sidecar.run_sync(nap(LONG if goes else 0.002))

                try:
                    return goes, call(run, environ) != "served"
                except sidecar.ClientDisconnected:
                    return goes, True

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(one, range(600)))
        assert all(goes == heard for goes, heard in found)

    def test_a_task_left_behind_is_watched_by_nobody(self) -> None:
        """Only a call that waits has a watch; what is left behind ends with the response."""
        work = Work()

        def leave() -> None:
            sidecar.run_sync(work.leave())
            theirs.close()
            time.sleep(0.05)
            assert work.ends == []

        with client() as (environ, theirs):
            call(leave, environ)
        assert work.ends == ["cancelled"]

    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
    def test_a_child_of_a_fork_holds_no_watch(self) -> None:
        """A child that goes on must not keep the client's connection open."""
        parent = os.getpid()

        async def fork() -> int:
            await asyncio.sleep(0.02)
            return os.fork()

        def run() -> int:
            try:
                child = sidecar.run_sync(fork())
                assert child
            except sidecar.errors.ForkedError:
                gc.collect()
                links = [what for what in open_descriptors().values() if what == connection]
                os._exit(len(links))
            finally:
                if os.getpid() != parent:
                    os._exit(100)
            return child

        with client() as (environ, _):
            connection = os.readlink(f"/proc/self/fd/{environ['gunicorn.socket'].fileno()}")
            child = call(run, environ)
            _, status = os.waitpid(child, 0)
        assert os.WEXITSTATUS(status) == 1  # the socket itself

    def test_on_a_loop_that_never_sleeps(self) -> None:
        async def busy() -> None:
            while True:
                await asyncio.sleep(0)

        background = sidecar.submit(busy, detach=True)
        try:
            with client() as (environ, theirs):
                theirs.close()
                begun = time.monotonic()
                gone(lambda: serve(view(lambda: sidecar.run_sync(asyncio.sleep(LONG))), environ))
                assert time.monotonic() - begun < SOON
        finally:
            background.cancel()
