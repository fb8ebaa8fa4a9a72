"""``sidecar.django`` between loop and thread: queries, transactions, ``sync_to_async``, ``async_to_sync``, Locals."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import wait_for

import sidecar

django = pytest.importorskip("django", reason="Django is not installed")
from asgiref.sync import async_to_sync, sync_to_async  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.dispatch import Signal  # noqa: E402
from django.http import HttpResponse, StreamingHttpResponse  # noqa: E402
from django.test import Client, override_settings  # noqa: E402
from django.utils import translation  # noqa: E402
from frameworks.django_project.asking import ASGIREF_THREAD, ASYNC, OWN, SYNC, Urls, ask, bridge_loop  # noqa: E402
from frameworks.django_project.models import Note  # noqa: E402

CHAINS = pytest.mark.parametrize(
    "chain", [[OWN], [OWN, ASYNC], [ASYNC, OWN], [OWN, SYNC, ASYNC]], ids=["own", "async-below", "async-above", "mixed"]
)


# -- the database ----------------------------------------------------------------


@pytest.fixture
def notes() -> Iterator[None]:
    """A table in this thread's database: in memory, so that no other connection has one."""
    with connection.schema_editor() as editor:
        editor.create_model(Note)
    try:
        yield
    finally:
        with connection.schema_editor() as editor:
            editor.delete_model(Note)
        connection.close()


@CHAINS
def test_an_async_view_is_in_its_threads_transaction(notes, chain) -> None:
    async def view(request):
        await asyncio.sleep(0.001)
        await Note.objects.acreate(text="in the view")
        texts = [note.text async for note in Note.objects.order_by("id")]
        return HttpResponse(json.dumps(texts))

    with pytest.raises(LookupError), transaction.atomic():
        Note.objects.create(text="before")
        assert json.loads(ask(view, chain).content) == ["before", "in the view"]
        assert Note.objects.count() == 2
        raise LookupError("rolls it all back")
    assert Note.objects.count() == 0


def test_tasks_of_a_view_and_coroutines_of_a_sync_view(notes) -> None:
    async def count() -> int:
        await asyncio.sleep(0.001)
        return await Note.objects.acount()

    async def view(request):
        return HttpResponse(str(await asyncio.gather(*(count() for _ in range(5)))))

    def sync_view(request):
        return HttpResponse(str([sidecar.run_sync(count()), *sidecar.gather(count(), count())]))

    with transaction.atomic():
        Note.objects.create(text="uncommitted")
        assert ask(view).content == b"[1, 1, 1, 1, 1]"
        assert ask(sync_view).content == b"[1, 1, 1]"


def test_a_streamed_query(notes) -> None:
    Note.objects.bulk_create(Note(text=str(at)) for at in range(10))

    async def view(request):
        async def lines():
            async for note in Note.objects.order_by("id").aiterator(chunk_size=2):
                yield note.text

        return StreamingHttpResponse(lines())

    assert ask(view).getvalue() == b"0123456789"


def test_an_atomic_block_in_sync_code_of_an_async_view(notes) -> None:
    """What the block does by run_sync comes back into the block."""

    async def view(request):
        try:
            await sync_to_async(block)()
        except LookupError:
            return HttpResponse(str(await Note.objects.acount()))

    async def create(text: str) -> None:
        await Note.objects.acreate(text=text)

    def block() -> None:
        with transaction.atomic():
            sidecar.run_sync(create("nested"))
            async_to_sync(create)("asgiref's")
            assert Note.objects.count() == 2
            raise LookupError

    assert ask(view).content == b"0"


# -- the caller ------------------------------------------------------------------


@CHAINS
def test_an_async_view_has_its_requests_thread_for_a_caller(chain) -> None:
    async def view(request):
        await asyncio.sleep(0.001)
        return HttpResponse(str(await sidecar.to_caller(threading.get_ident)))

    assert ask(view, chain).content.decode() == str(threading.get_ident())


# -- sync_to_async ---------------------------------------------------------------


@CHAINS
def test_thread_sensitive_code_runs_on_the_requests_thread(chain) -> None:
    async def view(request):
        threads = [await sync_to_async(threading.get_ident)()]
        await asyncio.sleep(0.001)
        threads += await asyncio.gather(*(sync_to_async(threading.get_ident)() for _ in range(3)))
        other = await sync_to_async(threading.get_ident, thread_sensitive=False)()
        return HttpResponse(json.dumps([threads, other]))

    def ask_here(_) -> tuple[int, list]:
        with_client = Client().get("/")
        return threading.get_ident(), json.loads(with_client.content)

    with override_settings(ROOT_URLCONF=Urls(view), MIDDLEWARE=chain), ThreadPoolExecutor(4) as clients:
        for own, (threads, other) in clients.map(ask_here, range(40)):
            assert threads == [own] * 4
            assert other != own


def test_errors_and_cancellation_of_thread_sensitive_code() -> None:
    raised = LookupError("gone")
    began, free = threading.Event(), threading.Event()
    ended = []

    def fail() -> None:
        raise raised

    def block() -> None:
        began.set()
        free.wait(20)
        ended.append(sidecar.current().id)

    async def view(request):
        with pytest.raises(LookupError) as caught:
            await sync_to_async(fail)()
        assert caught.value is raised
        blocked = asyncio.create_task(sync_to_async(block)())
        never = asyncio.create_task(sync_to_async(ended.append)("never"))
        while not began.is_set():
            await asyncio.sleep(0.001)
        never.cancel()
        with pytest.raises(asyncio.CancelledError):
            await never
        free.set()
        await blocked
        return HttpResponse(request.sidecar.id)

    assert ended == [ask(view).content.decode()]


class Waiting:
    """Waits for a task that the view has begun, after the view."""

    def __init__(self, get_response) -> None:
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        wait_for(request.task.done, "the task ends")
        return response


def test_a_task_that_outlives_its_call_gets_asgirefs_thread() -> None:
    async def later(call_over: threading.Event):
        while not call_over.is_set():
            await asyncio.sleep(0.001)
        return await sync_to_async(threading.get_ident)(), sidecar.current().id

    async def view(request):
        call_over = threading.Event()
        request.task = tasks["own"] = asyncio.create_task(later(call_over))
        # Set once the view's call is over: the loop has gone on then.
        asyncio.current_task().add_done_callback(lambda _: call_over.set())
        return HttpResponse(request.sidecar.id)

    tasks: dict[str, asyncio.Task] = {}
    own = ask(view, [OWN, f"{__name__}.Waiting"]).content.decode()
    assert tasks["own"].result() == (ASGIREF_THREAD, own)


def test_a_coroutine_that_nobody_waits_for_gets_asgirefs_thread() -> None:
    def view(request):
        return HttpResponse(str(sidecar.submit(sync_to_async(threading.get_ident)()).result()))

    assert ask(view).content.decode() == str(ASGIREF_THREAD)


def test_another_loop_within_a_request_gets_asgirefs_thread() -> None:
    def view(request):
        return HttpResponse(str(asyncio.run(sync_to_async(threading.get_ident)())))

    assert ask(view).content.decode() == str(ASGIREF_THREAD)


# -- async_to_sync ---------------------------------------------------------------


def test_async_to_sync_uses_the_bridges_loop() -> None:
    """In a view, in a body, in sync code of an async view; sync code within comes back to the thread."""

    async def look():
        await asyncio.sleep(0.001)
        assert asyncio.get_running_loop() is bridge_loop()
        return [await sync_to_async(threading.get_ident)(), sidecar.current().id]

    def view(request):
        def body():
            yield json.dumps(async_to_sync(look)())

        seen.append(async_to_sync(look)())
        return StreamingHttpResponse(body())

    async def async_view(request):
        return HttpResponse(json.dumps(await sync_to_async(async_to_sync(look))()))

    seen: list = []
    for each in (view, async_view):
        answer = ask(each)
        content = b"".join(answer) if answer.streaming else answer.content
        seen.append(json.loads(content))
        assert seen[-1] == [threading.get_ident(), answer.headers["X-Request-ID"]]
    assert seen[0] == seen[1]


@pytest.mark.skipif(django.VERSION < (5, 0), reason="signals have async receivers since Django 5.0")
def test_an_async_receiver_of_a_signal_runs_on_the_bridges_loop() -> None:
    async def receiver(**named):
        await asyncio.sleep(0.001)
        return asyncio.get_running_loop() is bridge_loop(), sidecar.current().id

    def view(request):
        return HttpResponse(json.dumps([answer for _, answer in signal.send(view)]))

    signal = Signal()
    signal.connect(receiver)
    answer = ask(view)
    assert json.loads(answer.content) == [[True, answer.headers["X-Request-ID"]]]


def test_async_to_sync_elsewhere_is_asgirefs() -> None:
    async def look():
        return asyncio.get_running_loop()

    ask(lambda request: HttpResponse())
    assert async_to_sync(look)() is not bridge_loop()


def test_an_executor_that_has_ended_says_so() -> None:
    """A task of async_to_sync's that outlives it, within a request: asgiref looks at the executor before."""
    tasks = []

    async def main():
        tasks.append(asyncio.create_task(late()))

    async def late():
        await asyncio.sleep(0.02)
        await sync_to_async(threading.get_ident)()

    def view(request):
        async_to_sync(main)()
        wait_for(tasks[0].done, "the task ends")
        return HttpResponse()

    ask(view)
    assert isinstance(tasks[0].exception(), RuntimeError)
    assert "CurrentThreadExecutor" in str(tasks[0].exception())


# -- asgiref's Locals ------------------------------------------------------------


@CHAINS
def test_locals_stay_with_their_request(chain) -> None:
    """Whichever thread runs the coroutine just then: eight of them take turns."""

    async def look() -> str:
        await asyncio.sleep(0.001)
        return translation.get_language()

    async def view(request):
        wanted = request.GET["language"]
        seen = [translation.get_language()]
        with translation.override(wanted):
            for _ in range(5):
                seen.append(await look())
            seen += await asyncio.gather(*(look() for _ in range(3)))
            seen.append(await sync_to_async(translation.get_language)())
            seen.append(await sync_to_async(translation.get_language, thread_sensitive=False)())
            await sync_to_async(translation.activate)("it")
            seen.append(await look())
        return HttpResponse(json.dumps([wanted, *seen]))

    languages = [("de", "fr", "es", "nl")[at % 4] for at in range(64)]
    with override_settings(ROOT_URLCONF=Urls(view), MIDDLEWARE=chain), ThreadPoolExecutor(8) as clients:
        answers = clients.map(lambda name: Client().get(f"/?language={name}"), languages)
        for name, answer in zip(languages, answers):
            assert json.loads(answer.content) == [name, "en", *[name] * 10, "it"]


def test_the_language_of_the_middleware_is_the_views() -> None:
    chain = [OWN, "django.middleware.locale.LocaleMiddleware"]

    async def view(request):
        await asyncio.sleep(0.001)
        return HttpResponse(translation.get_language())

    with override_settings(ROOT_URLCONF=Urls(view), MIDDLEWARE=chain, USE_I18N=True):
        assert Client().get("/", HTTP_ACCEPT_LANGUAGE="fr").content == b"fr"
