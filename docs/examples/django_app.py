"""Django in one file: async views under WSGI on the worker's loop, their queries on the request's own thread."""

import asyncio

import django
from django.conf import settings

MIDDLEWARE = [
    "sidecar.django.SidecarMiddleware",
    "django.middleware.common.CommonMiddleware",
]
settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=MIDDLEWARE,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    USE_TZ=True,
)
django.setup()

from asgiref.sync import async_to_sync, sync_to_async  # noqa: E402
from django.db import connection, models, transaction  # noqa: E402
from django.http import HttpResponse, StreamingHttpResponse  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import path  # noqa: E402

import sidecar  # noqa: E402


class Page(models.Model):
    url = models.CharField(max_length=100)

    class Meta:
        app_label = "example"


async def crawl(request):
    await asyncio.sleep(0.001)  # stands for a download
    await Page.objects.acreate(url=request.GET["url"])
    return HttpResponse(f"{await Page.objects.acount()} pages")


def save_all(urls: list) -> None:
    with transaction.atomic():
        Page.objects.bulk_create(Page(url=url) for url in urls)


async def crawl_all(request):
    # A transaction is sync code: on the thread of the request, too.
    await sync_to_async(save_all)(["/b", "/c"])
    return HttpResponse(f"{await Page.objects.acount()} pages")


async def listing(request):
    async def lines():
        async for page in Page.objects.order_by("id"):
            yield f"{page.url} "

    return StreamingHttpResponse(lines())


async def loop_name() -> str:
    return type(asyncio.get_running_loop()).__name__


def sync_view(request):
    return HttpResponse(f"{sidecar.run_sync(loop_name())} {async_to_sync(loop_name)()}")


async def own_id(request):
    assert request.sidecar is sidecar.current()
    return HttpResponse(request.sidecar.id)


urlpatterns = [path(view.__name__, view) for view in (crawl, crawl_all, listing, sync_view, own_id)]

with connection.schema_editor() as editor:
    editor.create_model(Page)
browser = Client()
print(browser.get("/crawl?url=/a").content.decode())  # -> 1 pages
print(browser.get("/crawl_all").content.decode())  # -> 3 pages
print(browser.get("/listing").getvalue().split())  # -> [b'/a', b'/b', b'/c']
print(browser.get("/sync_view").content.decode())  # -> BridgeLoop BridgeLoop
answer = browser.get("/own_id")
print(answer.content.decode() == answer.headers["X-Request-ID"])  # -> True
