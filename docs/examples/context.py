"""A coroutine sees a copy of its caller's context variables."""

import asyncio
from contextvars import ContextVar

from sidecar import run_sync

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


async def show() -> str:
    seen = tenant.get()
    tenant.set("changed inside")
    await asyncio.sleep(0)
    return seen


tenant.set("acme")
print(run_sync(show()))  # -> acme
print(tenant.get())  # -> acme
