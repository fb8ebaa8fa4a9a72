"""``sidecar.flask``: the scope, and where Flask's async functions run."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

import sidecar

flask = pytest.importorskip("flask", reason="flask is not installed")

from flask.views import MethodView  # noqa: E402

from sidecar.flask import Sidecar  # noqa: E402

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


def make_app(**config) -> flask.Flask:
    app = flask.Flask(__name__)
    app.config.update(TESTING=True, SECRET_KEY="of a test", **config)
    return app


def own_id() -> str:
    return sidecar.current().id


def on_bridge() -> bool:
    return asyncio.get_running_loop() is sidecar.get_bridge().get_loop()


@pytest.fixture
def app() -> flask.Flask:
    app = make_app()
    Sidecar(app)
    return app


# -- the scope -------------------------------------------------------------------


def test_the_test_client_gets_the_scope(app) -> None:
    @app.get("/")
    def view():
        environ = flask.request.environ
        assert environ["sidecar.request"] is sidecar.current()
        return {"own": own_id(), "environ": environ["HTTP_X_REQUEST_ID"]}

    answers = [app.test_client().get("/") for _ in range(2)]
    for answer in answers:
        assert answer.headers.getlist("X-Request-ID") == [answer.json["own"]] == [answer.json["environ"]]
    assert answers[0].json != answers[1].json
    assert sidecar.current() is None


def test_a_factorys_extension_serves_several_apps() -> None:
    extension = Sidecar()
    for _ in range(2):
        app = make_app()
        extension.init_app(app)
        app.add_url_rule("/", view_func=own_id)
        answer = app.test_client().get("/")
        assert answer.headers["X-Request-ID"] == answer.text
        assert app.extensions["sidecar"] is extension


def test_init_app_again_changes_nothing(app) -> None:
    first, middleware, adapter = app.extensions["sidecar"], app.wsgi_app, app.async_to_sync
    first.init_app(app)
    Sidecar(app)
    assert (app.extensions["sidecar"], app.wsgi_app, app.async_to_sync) == (first, middleware, adapter)
    assert not isinstance(app.wsgi_app.app, sidecar.WSGIMiddleware)


def test_a_servers_scope_is_used(app) -> None:
    app.add_url_rule("/", view_func=own_id)
    seen = []

    def outer(environ, start_response):
        seen.append(sidecar.current())
        body = app(environ, start_response)
        assert environ["sidecar.request"] is sidecar.current() is seen[-1]
        return body

    from werkzeug.test import Client

    answer = Client(sidecar.WSGIMiddleware(outer)).get("/")
    assert answer.headers.getlist("X-Request-ID") == [answer.text] == [seen[0].id]


def test_a_request_within_a_request(app) -> None:
    @app.get("/outer")
    def outer():
        before = own_id()
        inner = app.test_client().get("/inner").text
        assert own_id() == before != inner
        return f"{before} {inner}"

    app.add_url_rule("/inner", "inner", own_id)
    answer = app.test_client().get("/outer")
    assert answer.headers["X-Request-ID"] == answer.text.split()[0]


def test_preserved_contexts(app) -> None:
    @app.get("/")
    async def view():
        flask.g.own = own_id()
        flask.session["seen"] = True
        return ""

    with app.test_client() as client:
        answer = client.get("/")
        assert flask.g.own == answer.headers["X-Request-ID"]
        assert flask.session["seen"]
        assert sidecar.current() is None


def test_requests_on_many_threads_do_not_mix(app) -> None:
    @app.get("/<name>")
    async def view(name):
        tenant.set(name)
        await asyncio.sleep(0.001)
        children = await asyncio.gather(*(child() for _ in range(3)))
        return {"ids": [own_id(), *(id for id, _, _ in children)], "seen": [tenant.get(), *children[0][1:]]}

    async def child():
        await asyncio.sleep(0.001)
        return own_id(), tenant.get(), flask.request.view_args["name"]

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda at: app.test_client().get(f"/{at}"), range(100)))
    for at, answer in enumerate(answers):
        assert set(answer.json["ids"]) == {answer.headers["X-Request-ID"]}
        assert answer.json["seen"] == [str(at)] * 3
    assert len({answer.headers["X-Request-ID"] for answer in answers}) == 100
    assert tenant.get() == "nobody"


# -- what coroutines see ---------------------------------------------------------


def what_is_seen() -> dict[str, str]:
    return {
        "g": flask.g.name,
        "app": flask.current_app.name,
        "path": flask.request.path,
        "session": flask.session["name"],
        "id": own_id(),
    }


async def seen_later() -> dict[str, str]:
    await asyncio.sleep(0.001)
    return what_is_seen()


async def seen_in_steps():
    for _ in range(2):
        yield await seen_later()


@pytest.mark.parametrize(
    "way",
    [
        lambda: sidecar.run_sync(seen_later()),
        lambda: list(sidecar.stream(seen_in_steps))[-1],
        lambda: list(sidecar.stream(seen_in_steps, prefetch=2))[-1],
        lambda: sidecar.submit(seen_later).result(),
        lambda: sidecar.submit(what_is_seen).result(),
        lambda: sidecar.run_sync(sidecar.to_async(what_is_seen)()),
        lambda: sidecar.gather(seen_later(), seen_later())[-1],
    ],
    ids=["run_sync", "stream", "prefetch", "submit-coroutine", "submit-function", "to_async", "gather"],
)
def test_flasks_own_variables_are_seen(app, way) -> None:
    @app.get("/page")
    def view():
        flask.g.name, flask.session["name"] = "gina", "ann"
        return way()

    answer = app.test_client().get("/page")
    expected = {"g": "gina", "app": app.name, "path": "/page", "session": "ann"}
    assert answer.json == {**expected, "id": answer.headers["X-Request-ID"]}


def test_a_session_changed_by_an_async_view_is_saved(app) -> None:
    @app.get("/set")
    async def set_it():
        await asyncio.sleep(0)
        flask.session["user"] = "ann"
        return ""

    @app.get("/get")
    async def get_it():
        return flask.session["user"]

    client = app.test_client()
    client.get("/set")
    assert client.get("/get").text == "ann"


# -- where async functions run ---------------------------------------------------


def test_everything_async_runs_on_the_bridges_loop(app) -> None:
    ran: list[str] = []
    places: list[bool] = []
    blueprint = flask.Blueprint("blue", __name__)

    def noting(name: str, result=None):
        async def hook(*args):
            await asyncio.sleep(0)
            ran.append(name)
            places.append(on_bridge())
            return args[0] if name.startswith("after") else result

        return hook

    app.before_request(noting("before"))
    app.after_request(noting("after"))
    app.teardown_request(noting("teardown"))
    app.teardown_appcontext(noting("teardown app"))
    app.url_value_preprocessor(lambda endpoint, values: ran.append("values"))
    app.errorhandler(LookupError)(noting("handler", ("handled", 418)))
    blueprint.before_request(noting("before blue"))
    blueprint.after_request(noting("after blue"))
    blueprint.add_url_rule("/blue", "blue", noting("blue", "blue"))
    app.register_blueprint(blueprint)

    @app.get("/error")
    async def error():
        await asyncio.sleep(0)
        raise LookupError("gone")

    class Method(MethodView):
        get = staticmethod(noting("method", "method"))

    app.add_url_rule("/method", view_func=Method.as_view("method"))

    def ask(path: str) -> tuple[int, str, list[str]]:
        ran.clear()
        answer = app.test_client().get(path)
        return answer.status_code, answer.text, list(ran)

    ends = ["teardown", "teardown app"]
    blue = ["values", "before", "before blue", "blue", "after blue", "after"]
    assert ask("/blue") == (200, "blue", [*blue, *ends])
    assert ask("/method") == (200, "method", ["values", "before", "method", "after", *ends])
    assert ask("/error") == (418, "handled", ["values", "before", "handler", "after", *ends])
    assert places and all(places)


def test_an_async_receiver_of_a_signal(app) -> None:
    places = []

    async def receiver(sender, **extra):
        await asyncio.sleep(0)
        places.append((on_bridge(), own_id()))

    app.add_url_rule("/", view_func=own_id)
    with flask.request_started.connected_to(receiver, app):
        answer = app.test_client().get("/")
    assert places == [(True, answer.text)]


def test_one_loop_for_all_requests_and_threads(app) -> None:
    loops = []

    @app.get("/")
    async def view():
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0.001)
        return ""

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: app.test_client().get("/"), range(20)))
    assert len(loops) == 20
    assert set(loops) == {sidecar.get_bridge().get_loop()}


def test_an_async_view_goes_back_to_its_requests_thread(app) -> None:
    @app.get("/")
    async def view():
        await asyncio.sleep(0.001)
        return str(await sidecar.to_caller(threading.get_ident))

    assert app.test_client().get("/").text == str(threading.get_ident())


def test_context_variables_of_async_hooks_stay_in_the_request(app) -> None:
    seen = []

    @app.before_request
    async def log_in():
        await asyncio.sleep(0)
        tenant.set("acme")

    @app.get("/")
    async def view():
        seen.append(tenant.get())
        tenant.set("view")
        return ""

    @app.after_request
    def after(response):
        seen.append(tenant.get())
        return response

    app.test_client().get("/")
    assert seen == ["acme", "view"]
    assert tenant.get() == "nobody"


def test_a_task_goes_on_from_hook_to_hook(app) -> None:
    """It is not of one call, as with a loop for each."""

    async def later():
        await asyncio.sleep(0.01)
        return own_id(), flask.request.path

    @app.before_request
    async def begin():
        flask.g.task = asyncio.create_task(later())

    app.add_url_rule("/", view_func=own_id)

    @app.after_request
    async def end(response):
        assert await flask.g.task == (own_id(), "/")
        response.headers["X-Done"] = "yes"
        return response

    answer = app.test_client().get("/")
    assert (answer.text, answer.headers["X-Done"]) == (answer.headers["X-Request-ID"], "yes")


# -- errors ----------------------------------------------------------------------


def test_an_async_views_error_arrives_as_raised(app) -> None:
    raised = LookupError("gone")
    caught = []

    @app.get("/")
    async def view():
        await asyncio.sleep(0.001)
        await inner()

    async def inner():
        raise raised

    @app.errorhandler(LookupError)
    def handler(error):
        caught.append((error, traceback.extract_tb(error.__traceback__)))
        return "", 500

    assert app.test_client().get("/").status_code == 500
    error, frames = caught[0]
    assert error is raised
    assert [frame.name for frame in frames[-2:]] == ["view", "inner"]
    assert not [frame for frame in frames if "/sidecar/" in frame.filename]


def test_an_error_without_a_handler_reaches_teardown(app) -> None:
    seen = []
    app.config["PROPAGATE_EXCEPTIONS"] = False

    @app.get("/")
    async def view():
        raise LookupError("gone")

    @app.teardown_request
    async def teardown(error):
        seen.append((type(error), own_id(), on_bridge()))

    app.logger.disabled = True
    answer = app.test_client().get("/")
    assert answer.status_code == 500
    assert seen == [(LookupError, answer.headers["X-Request-ID"], True)]


def test_an_async_view_inside_a_coroutine_is_a_deadlock(app) -> None:
    @app.get("/")
    async def view():
        raise NotImplementedError

    async def call():
        with pytest.raises(sidecar.DeadlockError):
            app.test_client().get("/")

    sidecar.run_sync(call())
