"""Django's ASGI handler, as sidecar.serve_asgi serves it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

import sidecar

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="of a test",
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
)
django.setup()


def current_id() -> str:
    request = sidecar.current()
    return "none" if request is None else request.id


async def plain(request: HttpRequest) -> HttpResponse:
    await asyncio.sleep(0)
    return HttpResponse(json.dumps({"ids": [current_id()], "path": request.path}))


def sync(request: HttpRequest) -> HttpResponse:
    return HttpResponse(json.dumps({"ids": [current_id()]}))


async def echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.body)


async def stream(request: HttpRequest) -> StreamingHttpResponse:
    async def lines() -> AsyncIterator[str]:
        for _ in range(5):
            yield f"{json.dumps([current_id()])}\n"
            await asyncio.sleep(0.001)

    return StreamingHttpResponse(lines())


urlpatterns = [path("plain", plain), path("sync", sync), path("echo", echo), path("stream", stream)]
app = get_asgi_application()
