"""sidecar.serve_asgi: how requests end, the lifespan, and which application it is."""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import sys
import threading
from typing import Any

import pytest
import requested
from harness import wait_for
from served import PLAIN, environ, fresh_bridge, of_http, say, serve, start  # noqa: F401  (a fixture among them)

import sidecar
from sidecar.serve_asgi import ASGIApplication, load

# -- ends ------------------------------------------------------------------------------


def test_a_body_that_is_closed_early_cancels_the_application():
    ends: list[str] = []

    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        try:
            while True:
                await say(send, b"x" * 1000, more=True)
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            ends.append((await receive())["type"])
            with pytest.raises(OSError, match="nobody takes this response any more"):
                await say(send, b"x")
            raise

    body = ASGIApplication(app)(environ(), requested.Answer().start_response)
    assert next(iter(body)) == b"x" * 1000
    body.close()  # type: ignore[attr-defined]
    assert ends == ["http.disconnect"]
    body.close()  # type: ignore[attr-defined]
    assert list(body) == []


def test_a_body_that_was_never_begun_cancels_too():
    ended = threading.Event()

    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        try:
            await say(send, b"x", more=True)
            await asyncio.sleep(60)
        finally:
            ended.set()

    ASGIApplication(app)(environ(), requested.Answer().start_response).close()  # type: ignore[attr-defined]
    assert ended.is_set()


def test_a_client_that_goes():
    with requested.client() as (given, theirs):

        @of_http
        async def app(scope: Any, receive: Any, send: Any) -> None:
            theirs.close()
            ends: list[str] = app.ends  # type: ignore[attr-defined]
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                # Once: its cleanup is not cut short.
                await asyncio.sleep(0.02)
                ends.append((await receive())["type"])
                raise

        app.ends = []  # type: ignore[attr-defined]
        with pytest.raises(sidecar.ClientDisconnected):
            serve(app, **given)
        assert app.ends == ["http.disconnect"]  # type: ignore[attr-defined]


def test_a_deadline():
    ends: list[bool] = []

    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert sidecar.current().time_left() <= 0.05
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.02)
            ends.append(True)
            raise

    answer = requested.serve(ASGIApplication(app), environ(), deadline=0.05)
    assert answer.status == "504 Gateway Timeout"
    assert ends == [True]


def test_what_follows_the_response_is_of_the_request_and_not_bound_by_it():
    go, done = threading.Event(), threading.Event()
    seen: list[Any] = []
    ends: list[str] = []

    async def left_behind() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ends.append("cancelled")

    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await say(send)
        assert (await receive())["type"] == "http.disconnect"
        app.left = asyncio.ensure_future(left_behind())  # type: ignore[attr-defined]
        while not go.is_set():
            await asyncio.sleep(0.001)
        request = sidecar.current()
        seen.extend([request.id, request.cancelled, request.time_left()])
        seen.append(await sidecar.to_async(lambda: sidecar.run_sync(asyncio.sleep(0.001, "called")))())
        assert ends == []
        done.set()

    answer = requested.serve(ASGIApplication(app), environ(), deadline=0.05)
    assert answer.status == "200 OK"
    with pytest.raises(TimeoutError):
        sidecar.run_sync(asyncio.sleep(60), timeout=0.1)  # its deadline has passed
    go.set()
    assert done.wait(20)
    assert seen == [answer.ids[0], False, None, "called"]
    wait_for(lambda: ends == ["cancelled"], "what it left behind ends with it")


def test_a_request_that_cannot_begin_leaves_nothing():
    begun: list[bool] = []

    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun.append(True)

    from sidecar._serve_asgi_cycle import Cycle

    life = ASGIApplication(app)._lifespan.wait()
    cycle = Cycle(app, environ(), life)
    sidecar.shutdown()
    with pytest.raises(sidecar.BridgeClosedError):
        cycle.run()
    assert (begun, life.running, cycle.task) == ([], set(), None)


def test_one_task_from_its_first_step_to_its_last():
    tasks: list[Any] = []
    counts: list[int] = []
    gone = threading.Event()

    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.current_task())
        await start(send)
        await say(send, b"1", more=True)
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)
        tasks.append(asyncio.current_task())
        await say(send)
        counts.append(sidecar.get_bridge().stats()["calls"])
        while not gone.is_set():
            await asyncio.sleep(0.001)
        tasks.append(asyncio.current_task())
        counts.append(sidecar.get_bridge().stats()["calls"])

    application = ASGIApplication(app)
    assert requested.serve(application, environ()).text == "1"
    assert sidecar.get_bridge().stats()["tasks"] == 1
    gone.set()
    wait_for(lambda: sidecar.get_bridge().stats()["tasks"] == 0, "it is counted until its end")
    assert len(tasks) == 4
    assert len(set(map(id, tasks))) == 1
    assert counts[1] == 0  # nobody waits for it any more
    assert application._lifespan.life is not None
    assert application._lifespan.life.running == set()


def test_a_task_of_the_application_may_send_for_it():
    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def stream() -> None:
            await start(send)
            for number in range(3):
                await say(send, b"%d" % number, more=True)
                await asyncio.sleep(0)
            await say(send)

        await asyncio.gather(stream(), asyncio.sleep(0.01))

    assert serve(app).text == "012"


def test_what_an_application_raises_in_the_step_of_its_last_word_is_logged(caplog):
    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await say(send, b"all")
        raise KeyError("afterwards")

    assert serve(app).text == "all"
    assert "failed after its response" in caplog.text


def test_many_at_once():
    inside: list[str] = []
    crowd = 8

    @of_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        inside.append(sidecar.current().id)
        while len(inside) < crowd:
            await asyncio.sleep(0.001)
        await start(send)
        for _ in range(5):
            await say(send, sidecar.current().id.encode() + b"\n", more=True)
            await asyncio.sleep(0)
        await say(send)

    application = ASGIApplication(app)
    answers: list[requested.Answer] = []

    def client() -> None:
        for _ in range(25):
            answers.append(requested.serve(application, environ()))

    threads = [threading.Thread(target=client) for _ in range(crowd)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 200
    for answer in answers:
        assert set(answer.text.split()) == set(answer.ids)


# -- the lifespan ----------------------------------------------------------------------


class Lived:
    """An application with a lifespan, which notes what becomes of it."""

    def __init__(self, startup: str = "complete", shutdown: str = "complete") -> None:
        self.startup, self.shutdown = startup, shutdown
        self.log: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.log.append(scope["state"].get("number"))
            scope["state"]["number"] = 0
            await start(send)
            await say(send)
            return
        self.log.append((await receive())["type"])
        assert sidecar.current() is None
        scope["state"]["number"] = len(self.log)
        await asyncio.sleep(0.001)
        await send({"type": f"lifespan.startup.{self.startup}", "message": "announced"})
        self.log.append((await receive())["type"])
        await asyncio.sleep(0.001)
        await send({"type": f"lifespan.shutdown.{self.shutdown}", "message": "announced"})


def test_a_lifespan_is_run_once_and_its_state_passed():
    app = Lived()
    application = ASGIApplication(app)
    assert app.log == []
    for _ in range(2):
        requested.serve(application, environ())
    assert app.log == ["lifespan.startup", 1, 1]
    assert sidecar.shutdown()
    assert app.log[3:] == ["lifespan.shutdown"]
    # Of the bridge that follows there is another one.
    requested.serve(application, environ())
    assert app.log[4:] == ["lifespan.startup", 5]


def test_the_first_requests_all_wait_for_the_startup():
    app = Lived()
    application = ASGIApplication(app)
    threads = [threading.Thread(target=requested.serve, args=(application, environ())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert app.log == ["lifespan.startup", *[1] * 8]


def test_a_startup_that_fails(caplog, monkeypatch):
    for server in ("uwsgi", "gunicorn"):
        monkeypatch.delitem(sys.modules, server, raising=False)
    application = ASGIApplication(Lived(startup="failed"))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the ASGI application could not start: announced"):
            requested.serve(application, environ())
    assert "the ASGI application could not start: announced" in caplog.text


@pytest.mark.parametrize(("server", "code"), [("gunicorn", 3), ("uwsgi", 22)])
def test_a_startup_that_fails_ends_a_worker(monkeypatch, server, code):
    monkeypatch.delitem(sys.modules, "gunicorn", raising=False)
    monkeypatch.setitem(sys.modules, server, type(sys)(server))
    ASGIApplication(Lived(startup="failed"))
    with pytest.raises(SystemExit) as caught:
        sidecar.get_bridge().start()
    assert caught.value.code == code


def test_a_shutdown_that_fails_is_logged(caplog):
    application = ASGIApplication(Lived(shutdown="failed"))
    requested.serve(application, environ())
    assert sidecar.shutdown()
    assert "the ASGI application's shutdown failed: announced" in caplog.text


def test_an_application_that_returns_from_its_lifespan_is_served():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await start(send)
            await say(send, b"served")

    assert serve(app).text == "served"


def test_a_shutdown_waits_for_what_follows_a_response():
    log: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            log.append("shutdown")
            await send({"type": "lifespan.shutdown.complete"})
            return
        await start(send)
        await say(send)
        await asyncio.sleep(0.2)
        log.append("background")

    assert serve(app).status == "200 OK"
    assert log == []
    assert sidecar.shutdown()
    assert log == ["background", "shutdown"]


@pytest.mark.skipif(sys.platform != "linux", reason="it forks")
def test_a_child_has_a_lifespan_of_its_own():
    app = Lived()
    application = ASGIApplication(app)
    requested.serve(application, environ())
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            requested.serve(application, environ())
            status = 0 if app.log[2:] == ["lifespan.startup", 3] else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    requested.serve(application, environ())
    assert app.log == ["lifespan.startup", 1, 1]


# -- which application -----------------------------------------------------------------


def _asgi_2(scope: Any) -> Any:
    raise NotImplementedError


class _ClassOfAsgi2:
    def __init__(self, scope: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("app", "text"),
    [
        (None, "a callable with scope, receive and send, not None"),
        ("module:app", "not 'module:app'"),
        (_asgi_2, "it is one of ASGI 2"),
        (_ClassOfAsgi2, "it is one of ASGI 2"),
        (lambda environ, start_response: [], "as one of WSGI does"),
        (lambda: None, "it takes other arguments"),
    ],
)
def test_what_is_no_application_is_refused(app, text):
    with pytest.raises(TypeError, match=text):
        ASGIApplication(app)


def test_what_is_one_is_not():
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    async def more(extra: Any, scope: Any, receive: Any, send: Any) -> None: ...

    for good in (app, functools.partial(more, 1), Lived(), sidecar.ASGIMiddleware(app), lambda *given: app(*given)):
        assert ASGIApplication(good).app is good
    assert repr(ASGIApplication(app)) == f"<sidecar.serve_asgi.ASGIApplication around {app!r}>"


def test_load():
    assert load("sidecar.serve_asgi:ASGIApplication.__call__") is ASGIApplication.__call__


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("module", "it must be named as package.module:app"),
        (":app", "it must be named as package.module:app"),
        ("module:", "it must be named as package.module:app"),
        ("no_such_module:app", "there is no module 'no_such_module'"),
        ("sidecar.no_such_module:app", "there is no module 'sidecar.no_such_module'"),
        ("sidecar.serve_asgi:no.such", "no attribute 'no'"),
    ],
)
def test_a_wrong_name(name, text):
    with pytest.raises(ImportError, match=text):
        load(name)


def test_what_a_module_fails_to_import_is_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "imports_nothing.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'not_there_at_all'"):
        load("imports_nothing:app")


def test_the_module_without_a_name():
    code = "import sidecar.serve_asgi as module; module.application"
    kept = {name: text for name, text in os.environ.items() if name != "SIDECAR_ASGI"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=kept, timeout=60)
    assert done.returncode == 1
    assert "SIDECAR_ASGI names: set it to package.module:app" in done.stderr
