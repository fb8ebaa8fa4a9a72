"""gevent, with its monkey patches: greenlets wait in calls, the hub runs on; how such a wait ends."""

from __future__ import annotations

import pytest

pytest.importorskip("gevent", reason="gevent is not installed (it has no wheel for free-threaded CPython)")


# -- waiting ---------------------------------------------------------------------


def test_three_calls_of_a_second_take_a_second(script):
    script(
        """
        ticks = []
        def tick():
            while True:
                gevent.sleep(0.05)
                ticks.append(1)
        ticking = gevent.spawn(tick)
        begin = time.monotonic()
        calls = [gevent.spawn(run_sync, asyncio.sleep(1, number)) for number in range(3)]
        gevent.joinall(calls)
        took = time.monotonic() - begin
        assert [call.value for call in calls] == [0, 1, 2]
        assert 1 <= took < 2, took
        assert len(ticks) >= 10, len(ticks)
        ticking.kill()
        """
    )


def test_hundreds_at_once(script):
    script(
        """
        from sidecar import _gevent
        begin = time.monotonic()
        calls = [gevent.spawn(run_sync, asyncio.sleep(0.5, number)) for number in range(400)]
        gevent.joinall(calls, raise_error=True)
        assert [call.value for call in calls] == list(range(400))
        assert time.monotonic() - begin < 10
        assert len(_gevent._waits) == 0
        """
    )


def test_coroutines_run_on_a_native_thread_without_a_hub(script):
    script(
        """
        async def where():
            await asyncio.sleep(0.01)
            return threading.get_native_id(), get_hub_if_exists()
        for _ in range(5):
            thread, hub = run_sync(where())
            assert thread != threading.get_native_id()
            assert hub is None
        """
    )


def test_exceptions_and_context_variables(script):
    script(
        """
        var = contextvars.ContextVar("var", default="none")
        async def show():
            seen = var.get()
            var.set("changed")
            await asyncio.sleep(0.05)
            return seen
        def greenlet(value):
            var.set(value)
            return run_sync(show()), var.get()
        calls = [gevent.spawn(greenlet, number) for number in range(5)]
        gevent.joinall(calls, raise_error=True)
        assert [call.value for call in calls] == [(number, number) for number in range(5)]
        assert var.get() == "none"

        context = contextvars.Context()
        assert run_sync(show(), context=context) == "none"

        async def fail():
            await asyncio.sleep(0.01)
            raise KeyError("mine")
        try:
            run_sync(fail())
        except KeyError as error:
            names = []
            entry = error.__traceback__
            while entry:
                names.append(entry.tb_frame.f_code.co_name)
                entry = entry.tb_next
            assert names == ["<module>", "fail"], names
        else:
            raise SystemExit("nothing raised")
        """
    )


def test_stream_steps_let_the_hub_run(script):
    script(
        """
        async def numbers():
            for number in range(3):
                await asyncio.sleep(0.2)
                yield number
        begin = time.monotonic()
        calls = [gevent.spawn(lambda: list(sidecar.get_bridge().stream(numbers))) for _ in range(5)]
        gevent.joinall(calls, raise_error=True)
        assert [call.value for call in calls] == [[0, 1, 2]] * 5
        assert time.monotonic() - begin < 2
        """
    )


def test_a_coroutine_talks_to_a_greenlet_of_the_same_process(script):
    script(
        """
        from gevent.server import StreamServer

        def answer(connection, address):
            lines = connection.makefile("rb")
            for line in lines:
                connection.sendall(line.upper())
            lines.close()
            connection.close()

        async def ask(port):
            reader, writer = await asyncio.open_connection("localhost", port)
            writer.write(b"hello\\n")
            line = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return line

        server = StreamServer(("127.0.0.1", 0), answer)
        server.start()
        assert run_sync(ask(server.server_port), timeout=10) == b"HELLO\\n"
        server.stop()
        """
    )


# -- ends ------------------------------------------------------------------------


def test_time_out(script):
    script(
        """
        ticks = []
        ticking = gevent.spawn(lambda: [(gevent.sleep(0.02), ticks.append(1)) for _ in range(5)])
        try:
            run_sync(tracked(), timeout=0.2)
        except sidecar.errors.CallTimeoutError as error:
            assert "tracked() at" in str(error)
        else:
            raise SystemExit("no time-out")
        assert done == ["cleaned"]
        assert len(ticks) == 5
        assert run_sync(asyncio.sleep(0.01, "next"), timeout=5) == "next"
        """
    )


def test_an_orphan_after_the_time_for_cleanup(script):
    script(
        """
        with Sidecar(cleanup_timeout=0.1) as bridge:
            try:
                bridge.run_sync(tracked(cleanup=1.0), timeout=0.1)
            except sidecar.errors.CallTimeoutError as error:
                assert "left behind as an orphan" in str(error)
            else:
                raise SystemExit("no time-out")
            assert done == []
            assert bridge.run_sync(asyncio.sleep(0.01, "next")) == "next"
            wait_for(lambda: done, "the orphan cleans up")
        """,
        logs=r"orphan: tracked\(\) at .* goes on",
    )


def test_a_timeout_of_gevents_cancels_and_waits_for_the_cleanup(script):
    script(
        """
        try:
            with gevent.Timeout(0.1):
                run_sync(tracked())
        except gevent.Timeout:
            assert done == ["cleaned"]
        else:
            raise SystemExit("no time-out")
        """
    )


def test_kill_cancels_and_waits_for_the_cleanup(script):
    script(
        """
        started = []
        call = gevent.spawn(run_sync, begun(started))
        wait_for(lambda: started, "the call has begun")
        call.kill()
        assert done == ["cleaned"]
        assert isinstance(call.value, gevent.GreenletExit)

        # Of a greenlet whose call has not begun yet.
        with Sidecar() as bridge:
            def block():
                entered.set()
                free.wait()
            async def blocking():
                block()
            entered, free = NativeEvent(), NativeEvent()
            first = gevent.spawn(bridge.run_sync, blocking())
            wait_for(entered.is_set, "the loop is blocked")
            waiting = gevent.spawn(bridge.run_sync, begun(started))
            gevent.sleep(0)
            waiting.kill(block=False)
            gevent.sleep(0)
            assert not waiting.dead
            free.set()
            waiting.join(20)
            first.get(timeout=20)
            assert isinstance(waiting.value, gevent.GreenletExit)
        """
    )


def test_a_second_kill_ends_the_wait_for_the_cleanup(script):
    script(
        """
        started = []
        call = gevent.spawn(run_sync, begun(started, 60, 0.5))
        wait_for(lambda: started, "the call has begun")
        begin = time.monotonic()
        call.kill(block=False)
        gevent.sleep(0.05)
        assert not call.dead
        call.kill(block=False)
        call.join(0.4)
        assert call.dead and done == []
        wait_for(lambda: done, "the orphan cleans up")
        """,
        logs=r"orphan: begun\(\) at .* goes on",
    )


def test_ctrl_c_in_the_main_greenlet(script):
    script(
        """
        # Another process sends it, so that it arrives while the hub sleeps.
        killer = os.spawnlp(os.P_NOWAIT, "sh", "sh", "-c", f"sleep 0.3; kill -INT {os.getpid()}")
        try:
            run_sync(tracked(20))
        except KeyboardInterrupt:
            assert done == ["cleaned"]
        else:
            raise SystemExit("no interrupt")
        assert run_sync(asyncio.sleep(0.01, "next")) == "next"
        os.waitpid(killer, 0)
        """,
        logs="^KeyboardInterrupt$",  # gevent's own line
    )


def test_where_nobody_may_wait(script):
    script(
        """
        import warnings
        warnings.simplefilter("error")
        seen = []
        def callback():
            try:
                run_sync(asyncio.sleep(0))
            except sidecar.errors.DeadlockError as error:
                seen.append(str(error))
        gevent.get_hub().loop.run_callback(callback)
        gevent.sleep(0.05)
        assert "hub" in seen[0] and "gevent.spawn" in seen[0], seen

        async def inside():
            return run_sync(asyncio.sleep(0))
        try:
            run_sync(inside())
        except sidecar.errors.DeadlockError as error:
            assert "inside()" in str(error)
        else:
            raise SystemExit("no error")
        gc.collect()
        """
    )
