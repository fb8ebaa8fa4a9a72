"""``sidecar.flask``: streamed bodies, and applications with an idea of their own of async code."""

from __future__ import annotations

import asyncio
import inspect
import sys

import pytest

import sidecar

flask = pytest.importorskip("flask", reason="flask is not installed")

from sidecar.flask import Sidecar  # noqa: E402


def own_id() -> str:
    return sidecar.current().id


def on_bridge() -> bool:
    return asyncio.get_running_loop() is sidecar.get_bridge().get_loop()


@pytest.fixture
def app() -> flask.Flask:
    app = flask.Flask(__name__)
    app.config.update(TESTING=True)
    Sidecar(app)
    return app


# -- streams ---------------------------------------------------------------------


def test_a_stream_keeps_the_request_and_its_teardown_comes_last(app) -> None:
    events = []

    @app.get("/")
    async def view():
        async def words():
            try:
                for word in ("one", "two"):
                    await asyncio.sleep(0.001)
                    events.append((word, own_id(), flask.request.path))
                    yield word
            finally:
                events.append(("closed", own_id(), flask.request.path))

        return flask.Response(flask.stream_with_context(sidecar.stream(words)))

    @app.teardown_request
    def teardown(error):
        events.append(("teardown", own_id(), flask.request.path))

    answer = app.test_client().get("/")
    assert answer.text == "onetwo"
    own = answer.headers["X-Request-ID"]
    # Some versions of Flask tear down once more, before the body.
    assert events[-4:] == [(name, own, "/") for name in ("one", "two", "closed", "teardown")]
    assert {id for _, id, _ in events} == {own}


def test_a_stream_that_is_left_is_closed_in_its_request(app) -> None:
    events = []

    @app.get("/")
    def view():
        async def endless():
            try:
                while True:
                    yield b"."
            finally:
                events.append(("closed", own_id()))

        return flask.Response(flask.stream_with_context(sidecar.stream(endless)))

    @app.teardown_request
    def teardown(error):
        events.append(("teardown", own_id()))

    answer = app.test_client().get("/", buffered=False)
    assert next(iter(answer.response)) == b"."
    answer.close()
    own = answer.headers["X-Request-ID"]
    assert events[-2:] == [("closed", own), ("teardown", own)]
    assert sidecar.current() is None


# -- applications with their own idea --------------------------------------------


def test_a_subclass_of_ones_own_is_respected() -> None:
    class Own(flask.Flask):
        def async_to_sync(self, func):
            return lambda *args, **kwargs: f"own {func.__name__}"

    app = Own(__name__)
    Sidecar(app)

    @app.get("/")
    async def view():
        raise NotImplementedError

    answer = app.test_client().get("/")
    assert answer.text == "own view"
    assert answer.headers["X-Request-ID"]


def test_an_ensure_sync_of_ones_own_may_use_it() -> None:
    class Own(flask.Flask):
        def ensure_sync(self, func):
            called.append(func.__name__)
            return super().ensure_sync(func)

    called: list[str] = []
    app = Own(__name__)
    Sidecar(app)

    @app.get("/")
    async def view():
        return str(on_bridge())

    assert app.test_client().get("/").text == "True"
    assert called == ["view"]


def test_an_async_to_sync_that_was_set_before_stays() -> None:
    app = flask.Flask(__name__)
    app.async_to_sync = own = lambda func: lambda: "own"  # type: ignore[method-assign]
    Sidecar(app)
    assert app.async_to_sync is own


def test_async_to_sync_makes_a_sync_function_of_the_same_name(app) -> None:
    async def view(name):
        """What it does."""
        return name

    made = app.async_to_sync(view)
    assert made("ann") == "ann"
    assert (made.__name__, made.__doc__) == ("view", "What it does.")
    assert app.ensure_sync(made) is made


@pytest.mark.skipif(sys.version_info < (3, 12), reason="functions can be marked since CPython 3.12")
def test_a_function_that_is_only_marked_as_async(app) -> None:
    async def answer():
        return str(on_bridge())

    @app.get("/")
    @inspect.markcoroutinefunction
    def view():
        return answer()

    assert app.test_client().get("/").text == "True"
    assert not inspect.iscoroutinefunction(app.async_to_sync(view))


def test_asgiref_is_not_needed(run_script) -> None:
    done = run_script(
        """
        import sys
        sys.modules["asgiref"] = sys.modules["asgiref.sync"] = None
        import flask
        from sidecar.flask import Sidecar

        app = flask.Flask(__name__)
        Sidecar(app)

        @app.get("/")
        async def view():
            return "async"

        print(app.test_client().get("/").text)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "async\n", "")
