"""Views that look at their request from everywhere they can, and say what they saw, a JSON list a line."""

from __future__ import annotations

import asyncio
import io
import json
import os
import threading

from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.utils import translation

import sidecar

__all__ = [
    "async_stream",
    "async_view",
    "file",
    "in_memory_file",
    "kept",
    "language",
    "plain",
    "state",
    "stream",
    "sync_view",
    "where",
]

_lock = threading.Lock()
_loops: dict[int, object] = {}
closed: list[str] = []


def ids(request) -> list[str]:
    return [
        sidecar.current().id,
        request.sidecar.id,
        request.META["HTTP_X_REQUEST_ID"],
        request.headers["X-Request-Id"],
        request.META["sidecar.request"].id,
    ]


async def child(request, seconds: float) -> list[str]:
    await asyncio.sleep(seconds)
    return ids(request)


async def work(request) -> list[str]:
    """Ids from a coroutine that waits, and from tasks of it."""
    seen = ids(request)
    await asyncio.sleep(0.002)
    seen += ids(request)
    for more in await asyncio.gather(*(child(request, at / 1000) for at in range(3))):
        seen += more
    return seen


def plain(request):
    return HttpResponse(request.META.get("HTTP_X_REQUEST_ID", ""))


def sync_view(request):
    job = sidecar.submit(ids, request)
    seen = ids(request) + sidecar.run_sync(work(request)) + job.result()
    return HttpResponse(json.dumps(seen))


async def async_view(request):
    return HttpResponse(json.dumps(ids(request) + await work(request)))


def stream(request):
    def lines():
        try:
            for _ in range(3):
                yield json.dumps(ids(request) + sidecar.run_sync(work(request))) + "\n"
        finally:
            closed.append(sidecar.current().id)

    return StreamingHttpResponse(lines())


async def async_stream(request):
    async def lines():
        try:
            for _ in range(3):
                yield json.dumps(await work(request)) + "\n"
        finally:
            closed.append(sidecar.current().id)

    return StreamingHttpResponse(lines())


async def where(request):
    """The loop that an async view runs on."""
    loop = asyncio.get_running_loop()
    with _lock:
        _loops[id(loop)] = loop  # kept: no other loop ever gets its id
    bridge = sidecar.get_bridge().get_loop()
    return JsonResponse({"pid": os.getpid(), "loop": id(loop), "bridge": id(bridge), "loops": len(_loops)})


class _Kept:
    """Made on the loop of the first request, and used by all of them."""

    client = None


async def kept(request):
    import httpx

    if _Kept.client is None:
        _Kept.client = httpx.AsyncClient(trust_env=False)
        sidecar.on_worker_stop(_Kept.client.aclose)
    answer = await _Kept.client.get(request.GET["url"])
    return HttpResponse(answer.text)


async def language(request):
    """The active language, an asgiref Local: the same in each step, task and thread of the view."""

    async def seen() -> str:
        await asyncio.sleep(0.001)
        return translation.get_language()

    wanted = request.GET["language"]
    languages = [translation.get_language()]
    with translation.override(wanted):
        for _ in range(3):
            languages.append(await seen())
        languages += await asyncio.gather(*(seen() for _ in range(3)))
    languages.append(await seen())
    return JsonResponse({"wanted": wanted, "seen": languages})


def file(request):
    return FileResponse(open(__file__, "rb"))


def in_memory_file(request):
    class Watched(io.BytesIO):
        """Its reads and its end happen in its request, where the server does not do them."""

        def read(self, size=-1):
            assert sidecar.current() is request.sidecar or "wsgi.file_wrapper" in request.META
            return super().read(size)

        def close(self):
            closed.append(sidecar.current().id if sidecar.current() else "")
            super().close()

    return FileResponse(Watched(b"0123456789" * 1000))


def state(request):
    return JsonResponse({"pid": os.getpid(), "closed": closed})
