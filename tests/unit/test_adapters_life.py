"""sidecar.adapters: slow clients and those that go, close(), limits, forks, what is left of a request; ASGIApp."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import threading
import wsgiref.validate
from collections.abc import Iterator
from typing import Any

import pytest
import requested
from asgi_asked import PLAIN, SECONDS, Client, asked, echo, hello
from served import environ as environ_for
from served import fresh_bridge, of_http, say, start  # noqa: F401  (a fixture among them)

import sidecar
from sidecar.adapters import ASGIApp, WSGIApp


class Parts:
    """A body that counts what becomes of it."""

    def __init__(self, parts: Any) -> None:
        self.parts = iter(parts)
        self.taken = self.closed = 0
        self.ended = threading.Event()
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        part = next(self.parts)
        self.taken += 1
        assert isinstance(part, bytes)
        return part

    def close(self) -> None:
        self.closed += 1
        self.ended.set()

    def app(self, environ: Any, start_response: Any) -> Any:
        start_response("200 OK", PLAIN)
        return self


def endless() -> Iterator[bytes]:
    while True:
        yield b"x" * 1000


def broken() -> Iterator[bytes]:
    yield b"a"
    raise LookupError("announced")


# -- close() -------------------------------------------------------------------------


def test_close_comes_once_after_the_last_part():
    parts = Parts([b"a", b"b"])
    assert asked(WSGIApp(parts.app)).body == b"ab"
    assert parts.closed == 1


def test_close_comes_once_after_an_error():
    parts = Parts(broken())
    with pytest.raises(LookupError):
        asked(WSGIApp(parts.app))
    assert parts.closed == 1


def test_the_end_of_the_response_does_not_wait_for_close():
    goes = threading.Event()

    class Slow(Parts):
        def close(self) -> None:
            assert goes.wait(SECONDS)
            super().close()

    parts = Slow([b"a"])

    async def main() -> None:
        client = Client()
        task = asyncio.ensure_future(WSGIApp(parts.app)(client.scope, client.receive, client.send))
        await client.until(lambda: client.is_complete)
        assert not task.done()  # close() is the request's, too
        goes.set()
        await task

    asyncio.run(main())
    assert parts.closed == 1


# -- clients ---------------------------------------------------------------------------


def test_parts_arrive_as_they_come():
    said = threading.Semaphore(0)

    def events() -> Iterator[bytes]:
        for number in range(3):
            assert said.acquire(timeout=SECONDS)
            yield b"%d" % number

    async def main() -> None:
        client = Client()
        task = asyncio.ensure_future(WSGIApp(Parts(events()).app)(client.scope, client.receive, client.send))
        for number in range(3):
            said.release()
            await client.until(lambda: client.body == b"012"[: number + 1])  # noqa: B023
        await task

    asyncio.run(main())


def test_a_slow_client_holds_the_application_back():
    parts = Parts(b"x" * 10_000 for _ in range(1000))

    async def main() -> int:
        client = Client()
        client.takes.clear()
        task = asyncio.ensure_future(WSGIApp(parts.app)(client.scope, client.receive, client.send))
        await client.until(lambda: parts.taken >= 7)
        await asyncio.sleep(0.05)
        taken = parts.taken
        client.takes.set()
        await task
        assert len(client.body) == 10_000_000
        return taken

    assert asyncio.run(main()) <= 15  # 64 KiB wait, and as many are on their way to the server
    assert parts.closed == 1


def test_a_client_that_goes_ends_an_endless_body():
    parts = Parts(endless())

    async def main() -> None:
        client = Client()
        task = asyncio.ensure_future(WSGIApp(parts.app)(client.scope, client.receive, client.send))
        await client.until(lambda: len(client.body) > 0)
        client.gone.set()
        await asyncio.wait_for(task, SECONDS)

    asyncio.run(main())
    assert parts.closed == 1


def test_a_client_that_goes_while_the_application_sleeps_for_it():
    parts = Parts(endless())

    async def main() -> None:
        client = Client()
        app = WSGIApp(parts.app)
        task = asyncio.ensure_future(app(client.scope, client.receive, client.send))
        await client.until(lambda: len(client.messages) > 1)
        client.takes.clear()
        await client.until(lambda: parts.taken > 60)
        client.gone.set()
        client.takes.set()
        await asyncio.wait_for(task, SECONDS)

    asyncio.run(main())
    assert parts.closed == 1


def test_a_server_that_raises_for_a_client_that_has_gone():
    parts = Parts(endless())

    async def main() -> None:
        client = Client()

        async def send(message: Any) -> None:
            await client.send(message)
            if len(client.messages) > 3:
                raise OSError("announced")

        with pytest.raises(OSError, match="announced"):
            await WSGIApp(parts.app)(client.scope, client.receive, send)

    asyncio.run(main())
    assert parts.closed == 1


def test_a_client_that_goes_cancels_what_the_application_waits_for(monkeypatch):
    from sidecar.adapters import exchange

    monkeypatch.setattr(exchange, "PATIENCE", 0.01)
    begun, raised = threading.Event(), []

    async def wait() -> None:
        begun.set()
        await asyncio.sleep(SECONDS)

    def app(environ: Any, start_response: Any) -> Any:
        try:
            sidecar.run_sync(wait())
        except sidecar.ClientDisconnected as error:
            raised.append(error)
            raise
        raise AssertionError("nobody told it")

    async def main() -> list[Any]:
        client = Client()
        task = asyncio.ensure_future(WSGIApp(app)(client.scope, client.receive, client.send))
        await client.until(begun.is_set)
        client.gone.set()
        await asyncio.wait_for(task, SECONDS)
        return client.messages

    assert asyncio.run(main()) == []
    assert len(raised) == 1


def test_a_body_that_breaks_off():
    raised: list[BaseException] = []
    begun = threading.Event()

    def app(environ: Any, start_response: Any) -> Any:
        begun.set()
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            raised.append(error)
        return hello(environ, start_response)

    async def main() -> list[Any]:
        client = Client([b"abc"], is_open=True)
        task = asyncio.ensure_future(WSGIApp(app)(client.scope, client.receive, client.send))
        await client.until(begun.is_set)
        client.gone.set()
        await asyncio.wait_for(task, SECONDS)
        return client.messages

    assert asyncio.run(main()) == []
    assert [type(error) for error in raised] == [sidecar.ClientDisconnected]


def test_a_server_that_cancels_goes_on_at_once():
    parts = Parts(endless())

    async def main() -> None:
        client = Client()
        task = asyncio.ensure_future(WSGIApp(parts.app)(client.scope, client.receive, client.send))
        await client.until(lambda: len(client.messages) > 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert parts.ended.wait(SECONDS)
    assert parts.closed == 1


def test_one_that_is_cancelled_before_a_thread_has_it_does_not_run():
    begun, goes = threading.Event(), threading.Event()
    calls: list[str] = []

    def app(environ: Any, start_response: Any) -> Any:
        calls.append(environ["PATH_INFO"])
        begun.set()
        assert goes.wait(SECONDS)
        return hello(environ, start_response)

    async def main() -> None:
        first, second = Client(path="/1"), Client(path="/2")
        adapted = WSGIApp(app, threads=1)
        tasks = [asyncio.ensure_future(adapted(each.scope, each.receive, each.send)) for each in (first, second)]
        await first.until(begun.is_set)
        tasks[1].cancel()
        await asyncio.wait({tasks[1]})
        goes.set()
        await tasks[0]

    asyncio.run(main())
    assert calls == ["/1"]


# -- how many --------------------------------------------------------------------------


@pytest.mark.parametrize("queue_wait", [0.0, SECONDS])
def test_what_comes_on_top(queue_wait):
    """Without a wait it is refused; with one it comes in turn, and the loop goes on."""
    begun, goes = threading.Event(), threading.Event()

    def app(environ: Any, start_response: Any) -> Any:
        begun.set()
        assert goes.wait(SECONDS)
        return hello(environ, start_response)

    async def main(bridge: Any) -> list[int]:
        adapted = WSGIApp(app, bridge=bridge)
        clients = [Client() for _ in range(4)]
        tasks = []
        for client in clients:
            tasks.append(asyncio.ensure_future(adapted(client.scope, client.receive, client.send)))
            await client.until(begun.is_set)
        await asyncio.sleep(0.01)
        goes.set()
        await asyncio.wait_for(asyncio.gather(*tasks), SECONDS)
        return sorted(client.status for client in clients)

    with sidecar.Sidecar(workers=1, max_queue=1, queue_wait=queue_wait) as bridge:
        assert asyncio.run(main(bridge)) == ([200] * 4 if queue_wait else [200, 200, 503, 503])


def test_many_at_once_do_not_mix():
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("X-Path", environ["PATH_INFO"])])
        yield environ["wsgi.input"].read()
        yield environ["PATH_INFO"].encode()

    async def main() -> None:
        adapted = WSGIApp(app, threads=4)
        clients = [Client([b"%d" % number, b"/"], path=f"/{number}") for number in range(200)]
        await asyncio.gather(*(adapted(each.scope, each.receive, each.send) for each in clients))
        for number, client in enumerate(clients):
            assert client.body == b"%d//%d" % (number, number)
            assert (b"x-path", b"/%d" % number) in client.headers

    asyncio.run(main())


def test_no_request_stays_behind():
    """Not even until the garbage collector comes."""
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", PLAIN)
        yield environ["wsgi.input"].read()

    def count() -> int:
        return len([each for each in gc.get_objects() if type(each).__name__ == "RequestBody"])

    adapted = WSGIApp(app)

    async def main() -> int:
        gc.collect()
        gc.disable()
        try:
            before = count()
            for _ in range(20):
                client = Client([b"a", b"b"])
                await adapted(client.scope, client.receive, client.send)
            for _ in range(2000):
                # The pool's threads may just be letting go of the last ones.
                if count() <= before + 1:
                    break
                await asyncio.sleep(0.01)
            return count() - before
        finally:
            gc.enable()

    assert asyncio.run(main()) <= 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_the_child_of_a_fork_serves_as_well():
    adapted = WSGIApp(echo, threads=2)
    assert asked(adapted, b"abc").body == b"abc"
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if asked(adapted, b"abc").body == b"abc" else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_on_a_sidecar_loop_and_on_a_bridge():
    async def ask() -> bytes:
        client = Client([b"abc"])
        await WSGIApp(echo)(client.scope, client.receive, client.send)
        return client.body

    loop = sidecar.Loop()
    try:
        assert loop.run_until_complete(ask()) == b"abc"
    finally:
        loop.close()
    assert sidecar.run_sync(ask()) == b"abc"


# -- ASGIApp ---------------------------------------------------------------------------


@of_http
async def there(scope: Any, receive: Any, send: Any) -> None:
    request = sidecar.current()
    assert request is not None and scope["sidecar.request"] is request
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    await start(send)
    await say(send, request.id.encode() + b":", True)
    await say(send, body)


def test_an_asgi_application_has_a_request_of_its_own():
    environ = environ_for(**{"wsgi.input": io.BytesIO(b"abcdef"), "CONTENT_LENGTH": "3"})
    answer = requested.Answer()
    body = ASGIApp(there)(environ, answer.start_response)
    text = b"".join(body).decode()
    body.close()  # type: ignore[attr-defined]
    assert answer.ids == [text.partition(":")[0]]
    assert text.partition(":")[2] == "abc"


def test_it_is_one_request_where_the_server_has_made_one():
    answer = requested.serve(ASGIApp(there), environ_for())
    assert answer.ids == [answer.text.rstrip(":")]


def test_the_policy_is_the_requests():
    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(SECONDS)

    answer = requested.Answer()
    body = ASGIApp(app, policy=sidecar.Policy(deadline=0.05))(environ_for(), answer.start_response)
    assert answer.status == "504 Gateway Timeout"
    assert b"deadline" in b"".join(body)


def test_websockets_are_refused(caplog):
    answer = requested.Answer()
    upgrade = environ_for(HTTP_UPGRADE="websocket", HTTP_CONNECTION="Upgrade")
    assert b"".join(ASGIApp(there)(upgrade, answer.start_response))
    assert answer.status == "501 Not Implemented"


def test_there_and_back():
    """ASGI as WSGI as ASGI, checked by PEP 3333's validator in between."""
    both = WSGIApp(wsgiref.validate.validator(ASGIApp(there)))
    client = asked(both, b"abc" * 50_000, b"def", method="POST", query_string=b"a=1")
    assert client.status == 200
    assert client.body.partition(b":")[2] == b"abc" * 50_000 + b"def"


def test_what_is_no_application():
    with pytest.raises(TypeError):
        ASGIApp(hello)
