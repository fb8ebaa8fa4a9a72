"""``sidecar.django`` in process: the scope, chains of middleware, errors, ASGI."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import threading
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

import sidecar

django = pytest.importorskip("django", reason="Django is not installed")
from asgiref.sync import AsyncToSync, SyncToAsync  # noqa: E402
from django.core.exceptions import ImproperlyConfigured  # noqa: E402
from django.core.handlers.wsgi import WSGIHandler  # noqa: E402
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse  # noqa: E402
from django.template.response import TemplateResponse  # noqa: E402
from django.test import AsyncClient, Client, RequestFactory, override_settings  # noqa: E402
from django.utils import translation  # noqa: E402
from frameworks.django_project.asking import ASYNC, OWN, SYNC, Urls, ask, bridge_loop, own_id, respond  # noqa: E402

from sidecar.django import SidecarMiddleware  # noqa: E402

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


# -- the scope -------------------------------------------------------------------


@pytest.mark.parametrize("page", ["sync_view", "async_view", "stream", "async_stream"])
def test_one_request_one_id(page: str) -> None:
    answers = [Client().get(f"/{page}") for _ in range(2)]
    for answer in answers:
        seen = {id for line in answer.getvalue().splitlines() for id in json.loads(line)}
        assert seen == {answer.headers["X-Request-ID"]}
    assert answers[0].headers["X-Request-ID"] != answers[1].headers["X-Request-ID"]
    assert sidecar.current() is None


def test_a_servers_scope_is_used() -> None:
    seen = []

    def outer(environ, start_response):
        seen.append(sidecar.current())
        return WSGIHandler()(environ, start_response)

    def view(request):
        assert request.sidecar is sidecar.current() is seen[-1]
        return HttpResponse(own_id())

    headers = []
    environ = RequestFactory().get("/").environ
    with override_settings(ROOT_URLCONF=Urls(view), MIDDLEWARE=[OWN]):
        application = sidecar.WSGIMiddleware(outer)
        body = application(environ, lambda status, given, exc_info=None: headers.extend(given))
    assert b"".join(body).decode() == seen[0].id
    assert [value for name, value in headers if name.lower() == "x-request-id"] == [seen[0].id]
    body.close()


def test_a_request_within_a_request() -> None:
    def view(request):
        if request.GET:
            return HttpResponse(own_id())
        before, inner = own_id(), Client().get("/?inner=1").content.decode()
        assert own_id() == before != inner
        return HttpResponse(before)

    answer = ask(view)
    assert answer.content.decode() == answer.headers["X-Request-ID"]


def test_headers_read_before_the_scope_are_made_anew() -> None:
    """request.headers is made when it is first asked for."""

    class Early:
        def __init__(self, get_response) -> None:
            self.get_response = get_response

        def __call__(self, request):
            assert request.headers["X-Request-Id"] == "theirs"
            return self.get_response(request)

    globals()["Early"] = Early
    answer = ask(
        lambda request: HttpResponse(request.headers["X-Request-Id"]),
        [f"{__name__}.Early", OWN],
        HTTP_X_REQUEST_ID="theirs",
    )
    assert answer.content.decode() == answer.headers["X-Request-ID"] != "theirs"


def test_it_may_be_called_with_a_bare_request() -> None:
    middleware = SidecarMiddleware(lambda request: HttpResponse(request.sidecar.id))
    response = middleware(HttpRequest())
    assert response.headers["X-Request-ID"] == response.content.decode()


def test_requests_on_many_threads_do_not_mix() -> None:
    async def view(request):
        name = request.GET["name"]
        tenant.set(name)
        await asyncio.sleep(0.001)
        children = await asyncio.gather(*(child() for _ in range(3)))
        return HttpResponse(json.dumps([own_id(), tenant.get(), *children]))

    async def child():
        await asyncio.sleep(0.001)
        return [own_id(), tenant.get()]

    with override_settings(ROOT_URLCONF=Urls(view), MIDDLEWARE=[OWN]), ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda at: Client().get(f"/?name={at}"), range(100)))
    for at, answer in enumerate(answers):
        here = [answer.headers["X-Request-ID"], str(at)]
        assert json.loads(answer.content) == [*here, here, here, here]
    assert len({answer.headers["X-Request-ID"] for answer in answers}) == 100
    assert tenant.get() == "nobody"


def test_nothing_of_a_request_is_left_behind() -> None:
    async def view(request):
        tenant.set("view")
        return HttpResponse(own_id())

    ask(view, [OWN, ASYNC])
    assert sidecar.current() is None
    assert tenant.get() == "nobody"
    assert getattr(AsyncToSync.executors, "current", None) is None
    assert SyncToAsync.threadlocal.main_event_loop is None


def test_a_request_needs_no_garbage_collector() -> None:
    class Tracked:
        pass

    async def view(request):
        request.tracked = Tracked()
        alive.append(weakref.ref(request.tracked))
        return StreamingHttpResponse(iter([b"a"]))

    def is_gone(chain: list[str]) -> bool:
        body, _ = respond(view, middleware=chain)
        assert alive[-1]() is not None
        assert b"".join(body) == b"a"
        body.close()
        del body
        return alive[-1]() is None

    alive: list[weakref.ref[Tracked]] = []
    gc.disable()
    try:
        if not is_gone([]):
            pytest.skip("this version's own requests need the collector")
        assert is_gone([OWN])
    finally:
        gc.enable()


# -- chains of middleware --------------------------------------------------------

CHAINS = [
    [OWN],
    [OWN, SYNC],
    [SYNC, OWN],
    [OWN, ASYNC],
    [ASYNC, OWN],
    [OWN, SYNC, ASYNC],
    [OWN, ASYNC, SYNC],
    [SYNC, OWN, ASYNC, SYNC],
    [ASYNC, OWN, ASYNC],
]


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: "-".join(name.rpartition(".")[2] for name in chain))
@pytest.mark.parametrize("is_async", [False, True], ids=["sync-view", "async-view"])
def test_chains(chain: list[str], is_async: bool) -> None:
    seen = []

    def look(request) -> HttpResponse:
        seen.append((request.sidecar, threading.get_ident(), getattr(request, "seen_in_middleware", None)))
        return HttpResponse(own_id())

    async def async_view(request):
        await asyncio.sleep(0.001)
        assert asyncio.get_running_loop() is bridge_loop()
        return look(request)

    answer = ask(async_view if is_async else look, chain)
    own = answer.headers["X-Request-ID"]
    assert answer.content.decode() == own
    request, thread, in_middleware = seen[0]
    assert request.id == own
    if not is_async:
        assert thread == threading.get_ident()
    if ASYNC in chain:
        loop, current = in_middleware
        assert loop is bridge_loop()
        assert current is request
        assert answer.headers["X-Async-Only"] == own
    if chain[-1] == SYNC:
        assert answer.headers["X-Sync-Only"] == own


class Noting:
    """Middleware that notes each of its hooks."""

    events: list[str] = []
    name = ""

    def __init__(self, get_response) -> None:
        self.get_response = get_response

    def note(self, what: str) -> None:
        self.events.append(f"{self.name} {what} {threading.get_ident() == THREAD} {sidecar.current() is not None}")

    def __call__(self, request):
        self.note("in")
        response = self.get_response(request)
        self.note("out")
        return response

    def process_view(self, request, view, args, kwargs):
        self.note("view")

    def process_exception(self, request, error):
        self.note("exception")
        if self.name == "below":
            return HttpResponse(str(error), status=418)

    def process_template_response(self, request, response):
        self.note("template")
        return response


class Above(Noting):
    name = "above"


class Below(Noting):
    name = "below"


THREAD = 0


@pytest.fixture
def noted(monkeypatch):
    monkeypatch.setitem(globals(), "THREAD", threading.get_ident())
    Noting.events.clear()
    return Noting.events


HOOKS = [f"{__name__}.Above", OWN, f"{__name__}.Below"]


def test_every_hook_comes_in_its_order(noted) -> None:
    """Those of the middleware below, too: an async view starts after all process_view hooks."""

    async def view(request):
        noted.append("view")
        return HttpResponse()

    ask(view, HOOKS)
    views = ["above view True True", "below view True True", "view"]
    assert noted == ["above in True False", "below in True True", *views, "below out True True", "above out True False"]


def test_an_async_views_error_reaches_process_exception(noted) -> None:
    async def view(request):
        await asyncio.sleep(0)
        raise LookupError("gone")

    answer = ask(view, HOOKS)
    assert (answer.status_code, answer.content) == (418, b"gone")
    assert "below exception True True" in noted


def test_an_async_views_template_response(noted) -> None:
    class Rendered(TemplateResponse):
        @property
        def rendered_content(self):
            return own_id()

    async def view(request):
        return Rendered(request, "unused")

    answer = ask(view, HOOKS)
    assert answer.content.decode() == answer.headers["X-Request-ID"]
    assert [event for event in noted if "template" in event] == ["below template True True", "above template True True"]


def test_atomic_requests_and_async_views_stay_apart() -> None:
    async def view(request):
        raise NotImplementedError

    from django.db import connections

    connections["default"].settings_dict["ATOMIC_REQUESTS"] = True
    try:
        with pytest.raises(RuntimeError, match="ATOMIC_REQUESTS"):
            ask(view)
    finally:
        connections["default"].settings_dict["ATOMIC_REQUESTS"] = False


def test_context_variables_of_an_async_view_reach_the_middleware() -> None:
    """As with asgiref's async_to_sync."""
    seen = []

    class Reading:
        def __init__(self, get_response) -> None:
            self.get_response = get_response

        def __call__(self, request):
            response = self.get_response(request)
            seen.append((tenant.get(), translation.get_language()))
            return response

    async def view(request):
        await asyncio.sleep(0)
        tenant.set("acme")
        translation.activate("fr")
        return HttpResponse()

    globals()["Reading"] = Reading
    ask(view, [OWN, f"{__name__}.Reading"])
    assert seen == [("acme", "fr")]
    assert (tenant.get(), translation.get_language()) == ("nobody", "en")


# -- errors ----------------------------------------------------------------------


def test_an_async_views_error_arrives_as_raised() -> None:
    raised = LookupError("gone")

    async def inner():
        raise raised

    async def view(request):
        await asyncio.sleep(0.001)
        await inner()

    with pytest.raises(LookupError) as caught:
        ask(view)
    assert caught.value is raised
    frames = traceback.extract_tb(raised.__traceback__)
    assert [frame.name for frame in frames[-2:]] == ["view", "inner"]
    assert not [frame for frame in frames if frame.filename.endswith("sidecar/django.py")]


def test_an_error_page_has_the_id() -> None:
    class Quiet(Client):
        def __init__(self) -> None:
            super().__init__(raise_request_exception=False)

    seen = []

    async def view(request):
        seen.append(own_id())
        raise LookupError("gone")

    answer = ask(view, client=Quiet)
    assert answer.status_code == 500
    assert answer.headers["X-Request-ID"] == seen[0]


@pytest.mark.parametrize("options", [{"unknown": 1}, ["trust"], None], ids=repr)
def test_options_are_checked(options) -> None:
    with override_settings(SIDECAR=options), pytest.raises(ImproperlyConfigured, match="SIDECAR"):
        SidecarMiddleware(lambda request: HttpResponse())
    with override_settings(SIDECAR={}):
        SidecarMiddleware(lambda request: HttpResponse())


# -- ASGI ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chain", [[OWN], [OWN, SYNC], [SYNC, OWN], [OWN, ASYNC]], ids=["own", "sync", "above", "async"]
)
def test_under_asgi_requests_pass_through(chain) -> None:
    seen = []

    async def view(request):
        seen.append((request.sidecar, asyncio.get_running_loop()))
        return HttpResponse()

    async def main():
        with override_settings(ROOT_URLCONF=Urls(view), MIDDLEWARE=chain):
            return await AsyncClient().get("/"), asyncio.get_running_loop()

    answer, loop = asyncio.run(main())
    assert answer.status_code == 200
    assert "X-Request-ID" not in answer.headers
    assert seen == [(None, loop)]


@pytest.mark.parametrize("chain", [[OWN], [OWN, SYNC]], ids=["async", "sync"])
def test_under_asgi_the_servers_scope_is_shown(chain) -> None:
    async def view(request):
        return HttpResponse(request.sidecar.id)

    async def main():
        with override_settings(ROOT_URLCONF=Urls(view), MIDDLEWARE=chain):
            return await AsyncClient().get("/")

    def application(environ, start_response):
        answer = asyncio.run(main())
        assert answer.content.decode() == own_id() == answer.headers["X-Request-ID"]
        return []

    assert sidecar.WSGIMiddleware(application)({}, lambda *args: None) == []
