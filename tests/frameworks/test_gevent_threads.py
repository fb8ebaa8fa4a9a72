"""gevent, with its monkey patches: what runs on native threads, and leaves no hub there."""

from __future__ import annotations

import pytest

pytest.importorskip("gevent", reason="gevent is not installed (it has no wheel for free-threaded CPython)")


def test_the_pool_is_native(script):
    script(
        """
        import concurrent.futures
        pool_of = lambda bridge: bridge.get_loop()._default_executor

        async def resolve():
            return await asyncio.get_running_loop().getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
        async def name():
            return await asyncio.get_running_loop().getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST)
        async def on_pool(function, *args):
            return await asyncio.get_running_loop().run_in_executor(None, function, *args)
        async def many(count):
            return sum(await asyncio.gather(*(on_pool(int, 1) for _ in range(count))))

        def where():
            return threading.get_native_id(), get_hub_if_exists()

        assert {"127.0.0.1", "::1"} & {entry[4][0] for entry in run_sync(resolve(), timeout=20)}
        assert run_sync(name(), timeout=20) == ("127.0.0.1", "80") or run_sync(name())[0] == "127.0.0.1"
        thread, hub = run_sync(on_pool(where))
        assert thread != threading.get_native_id() and hub is None
        assert run_sync(many(2000), timeout=30) == 2000

        # Two blocking functions at once, and the hub goes on.
        begin = time.monotonic()
        native_sleep = monkey.get_original("time", "sleep")
        calls = [gevent.spawn(run_sync, on_pool(native_sleep, 0.5)) for _ in range(4)]
        gevent.joinall(calls, raise_error=True)
        assert time.monotonic() - begin < 1.5

        # A job may call back, from its thread without a hub and after it has got one.
        assert run_sync(on_pool(lambda: run_sync(asyncio.sleep(0.01, 1)))) == 1
        assert run_sync(on_pool(lambda: (time.sleep(0.01), run_sync(asyncio.sleep(0.01, 2)))[1])) == 2

        # Greenlets wait for its futures, the main one too.
        pool = pool_of(sidecar.get_bridge())
        assert pool.submit(lambda: (native_sleep(0.05), 3)[1]).result() == 3
        late = [pool.submit(native_sleep, 0.05) for _ in range(3)]
        assert len(concurrent.futures.wait(late).done) == 3
        assert {f.result() for f in concurrent.futures.as_completed(late)} == {None}
        failing = pool.submit(int, "no number")
        assert isinstance(failing.exception(timeout=20), ValueError)

        # One that is cancelled while others keep the threads busy.
        with Sidecar(workers=1) as small:
            pool = pool_of(small)
            busy, cancelled = pool.submit(native_sleep, 0.2), pool.submit(native_sleep, 0)
            assert cancelled.cancel()
            assert concurrent.futures.wait([busy, cancelled], timeout=20).done == {busy, cancelled}
        """
    )


def test_to_caller_runs_in_the_greenlet_that_waits(script):
    script(
        """
        def errand(number):
            gevent.sleep(0.3)
            return gevent.getcurrent(), number

        async def back(number):
            greenlet, number = await sidecar.to_caller(errand, number)
            await asyncio.sleep(0.01)
            return greenlet, await sidecar.to_caller(errand, number)

        begin = time.monotonic()
        calls = [gevent.spawn(run_sync, back(number)) for number in range(5)]
        gevent.joinall(calls, raise_error=True)
        assert [call.value for call in calls] == [(call, (call, number)) for number, call in enumerate(calls)]
        assert time.monotonic() - begin < 2

        # A kill in the middle of an errand ends the coroutine as well.
        entered = []
        async def sends():
            try:
                await sidecar.to_caller(lambda: (entered.append(1), gevent.sleep(60)))
            finally:
                done.append("cleaned")
        call = gevent.spawn(run_sync, sends())
        wait_for(lambda: gevent.sleep(0) or entered, "the errand has begun")
        call.kill(timeout=20)
        assert call.dead
        wait_for(lambda: done, "the coroutine has ended")
        assert run_sync(asyncio.sleep(0.01, "next")) == "next"
        """
    )


def test_submit_and_gather(script):
    script(
        """
        native_sleep = monkey.get_original("time", "sleep")
        async def value(number):
            await asyncio.sleep(0.3)
            return number
        # Nothing else is there that keeps the hub going.
        assert sidecar.submit(lambda: (native_sleep(0.05), 1)[1]).result() == 1
        assert sidecar.submit(value(2)).result() == 2
        late = sidecar.submit(value(3))
        assert late.cancel() and not late.running()
        begin = time.monotonic()
        calls = [gevent.spawn(lambda n=n: sidecar.submit(value(n)).result()) for n in range(10)]
        calls += [gevent.spawn(lambda n=n: sidecar.gather(value(n), value(n + 1))) for n in range(10)]
        gevent.joinall(calls, raise_error=True)
        assert [call.value for call in calls] == [*range(10), *([n, n + 1] for n in range(10))]
        assert time.monotonic() - begin < 2
        """
    )


def test_futures_of_the_pool_under_contention(script):
    """Pool threads settle futures that greenlets and the loop look at: nobody is stuck, no thread gets a hub."""
    script(
        """
        async def on_pool(function, *args):
            return await asyncio.get_running_loop().run_in_executor(None, function, *args)
        sys.setswitchinterval(1e-5)
        pool = sidecar.get_bridge().start().get_loop()._default_executor
        hubs = []
        def job(number):
            hubs.append(get_hub_if_exists())
            return number
        def direct(number):
            return sum(pool.submit(job, 1).result() for _ in range(50))
        async def on_loop():
            return sum(await asyncio.gather(*(on_pool(job, 1) for _ in range(50))))
        calls = [gevent.spawn(direct, number) for number in range(20)]
        calls += [gevent.spawn(run_sync, on_loop()) for number in range(20)]
        gevent.joinall(calls, timeout=40, raise_error=True)
        assert [call.value for call in calls] == [50] * 40
        assert hubs == [None] * 2000
        """
    )


def test_sockets(script):
    script(
        """
        class Echo(asyncio.DatagramProtocol):
            def connection_made(self, transport):
                self.transport = transport
            def datagram_received(self, data, address):
                self.transport.sendto(data, address)

        async def echo(reader, writer):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()

        async def streams(server, connect):
            reader, writer = await connect()
            data = bytes(500_000)
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()

        async def tcp():
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            await streams(server, lambda: asyncio.open_connection(*server.sockets[0].getsockname()))

        async def unix():
            server = await asyncio.start_unix_server(echo, "socket")
            await streams(server, lambda: asyncio.open_unix_connection("socket"))

        async def udp():
            loop = asyncio.get_running_loop()
            served, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
            got = loop.create_future()
            class Ask(asyncio.DatagramProtocol):
                def datagram_received(self, data, address):
                    got.set_result(data)
            asking, _ = await loop.create_datagram_endpoint(Ask, remote_addr=served.get_extra_info("sockname"))
            asking.sendto(b"ping")
            assert await got == b"ping"
            asking.close()
            served.close()

        async def no_hub(coroutine):
            await coroutine
            assert get_hub_if_exists() is None

        for kind in (tcp, unix, udp):
            run_sync(no_hub(kind()), timeout=20)

        # Patched ones, made by the application: on the loop and handed in from a greenlet.
        async def patched(listener):
            loop = asyncio.get_running_loop()
            client = socket.socket()
            client.setblocking(False)
            accepting = loop.create_task(loop.sock_accept(listener))
            await loop.sock_connect(client, listener.getsockname())
            server, _ = await accepting
            await loop.sock_sendall(server, b"x" * 10)
            assert await loop.sock_recv(client, 100) == b"x" * 10
            reader, writer = await asyncio.open_connection(sock=client)
            await loop.sock_sendall(server, b"y")
            assert await reader.readexactly(1) == b"y"
            writer.close()
            await writer.wait_closed()
            server.close()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        run_sync(patched(listener), timeout=20)
        listener.close()
        """
    )


def test_subprocesses_are_refused_with_the_fix(script):
    script(
        """
        async def start():
            await asyncio.create_subprocess_exec("true")
        try:
            run_sync(start())
        except NotImplementedError as error:
            assert "in a greenlet" in str(error)
        else:
            raise SystemExit("no error")
        import subprocess
        assert subprocess.run(["true"]).returncode == 0
        """
    )


def test_nothing_is_left(script):
    """Hubs that patched code makes on threads of ours go with them."""
    script(
        """
        async def patched_code():
            time.sleep(0.01)
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(None, time.sleep, 0.05) for _ in range(4)))
            assert get_hub_if_exists() is not None
        def life():
            gevent.spawn(run_sync, asyncio.sleep(0.01)).get()
            run_sync(patched_code())
            assert sidecar.shutdown()
            gc.collect()
        life()
        descriptors, threads = open_descriptors(), native_threads()
        assert threads == 1, threads
        for _ in range(3):
            life()
        wait_for(lambda: native_threads() == threads, "threads end")
        assert open_descriptors() == descriptors
        """
    )
