"""Middleware of every kind, to stand around and below Sidecar's."""

from __future__ import annotations

import asyncio

from asgiref.sync import markcoroutinefunction

import sidecar


class AsyncOnly:
    """Makes an async chain of all above it that can be async."""

    sync_capable = False
    async_capable = True

    def __init__(self, get_response) -> None:
        self.get_response = get_response
        markcoroutinefunction(self)

    async def __call__(self, request):
        await asyncio.sleep(0.001)
        own = sidecar.current()
        request.seen_in_middleware = (asyncio.get_running_loop(), own)
        response = await self.get_response(request)
        assert sidecar.current() is own
        response.headers["X-Async-Only"] = own.id if own is not None else "none"
        return response


class SyncOnly:
    def __init__(self, get_response) -> None:
        self.get_response = get_response

    def __call__(self, request):
        own = sidecar.current()
        response = self.get_response(request)
        response.headers.setdefault("X-Sync-Only", own.id if own is not None else "none")
        return response
