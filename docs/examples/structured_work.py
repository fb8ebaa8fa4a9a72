"""What a request starts ends with it; what is detached outlives it."""

import asyncio
import logging

import sidecar
from sidecar import run_sync, submit


async def follow(name: str) -> None:
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0.01)  # its cleanup is waited for
        print(f"{name}: ended with its request")


async def begin() -> None:
    asyncio.create_task(follow("task"))
    await asyncio.sleep(0.01)


async def audit() -> str:
    await asyncio.sleep(0.01)
    return sidecar.current().id


def view(environ, start_response):
    run_sync(begin())
    environ["kept"] = submit(audit, detach=True)  # outlives the response
    start_response("200 OK", [])
    return [b"served"]


def serve(application) -> dict:
    """Stands for a server."""
    environ = {}
    body = application(environ, lambda status, headers, exc_info=None: None)
    print(b"".join(body).decode())
    return environ


environ = serve(sidecar.WSGIMiddleware(view))
# -> task: ended with its request
# -> served
print(environ["kept"].result() == environ["sidecar.request"].id)  # -> True


# What would not end within cleanup_timeout is left, and named in the log.
class Show(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        print("1 of what it began still run 0.05 s after its end: stubborn() at " in text)


logging.getLogger("sidecar").addHandler(Show())
logging.getLogger("sidecar").setLevel(logging.WARNING)


async def stubborn() -> None:
    for _ in range(2):
        try:
            await asyncio.sleep(0.2)
        except asyncio.CancelledError:
            pass


async def begin_stubborn() -> None:
    asyncio.create_task(stubborn())
    await asyncio.sleep(0)


def careless(environ, start_response):
    run_sync(begin_stubborn())
    start_response("200 OK", [])
    return [b"served"]


serve(sidecar.WSGIMiddleware(careless, cleanup_timeout=0.05))
# -> True
# -> served
