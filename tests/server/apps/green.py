"""``checked`` for gevent's workers, and a request that waits."""

from __future__ import annotations

import asyncio
import threading

import checked
from gevent import monkey
from gevent._hub_local import get_hub_if_exists

import sidecar

# Held by greenlets and by coroutines: gevent's own may leave a greenlet asleep that a native thread should wake.
checked.lock = monkey.get_original("threading", "Lock")()


async def second() -> str:
    await asyncio.sleep(1)
    return "a hub" if get_hub_if_exists() else "no hub"


def application(environ, start_response):
    if environ["PATH_INFO"] == "/second":
        answer = f"{sidecar.run_sync(second())} in {threading.get_native_id()}"
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [answer.encode()]
    return checked.application(environ, start_response)
