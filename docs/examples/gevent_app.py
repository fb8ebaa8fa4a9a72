"""gevent: a greenlet that waits in a call lets the others run."""

from gevent import monkey

monkey.patch_all()

import asyncio  # noqa: E402
import logging  # noqa: E402
import time  # noqa: E402

import gevent  # noqa: E402

from sidecar import run_sync  # noqa: E402


async def fetch(number: int) -> int:
    await asyncio.sleep(1)
    return number


begin = time.monotonic()
greenlets = [gevent.spawn(lambda number=number: run_sync(fetch(number))) for number in range(3)]
gevent.joinall(greenlets)
print([greenlet.value for greenlet in greenlets])  # -> [0, 1, 2]
print(time.monotonic() - begin < 2.5)  # -> True


async def with_cleanup() -> None:
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.01)
        print("cleaned up")


try:
    with gevent.Timeout(0.1):
        run_sync(with_cleanup())  # -> cleaned up
except gevent.Timeout:
    print("timed out")  # -> timed out


# gevent's locks are not for coroutines and greenlets at once. This handler's is held for a write, without a switch.
handler = logging.FileHandler("gevent_app.log")
handler.lock = monkey.get_original("_thread", "RLock")()
logging.getLogger().addHandler(handler)


async def log() -> None:
    for _ in range(100):
        logging.warning("from a coroutine")
        await asyncio.sleep(0)


greenlets = [gevent.spawn(run_sync, log()), gevent.spawn(logging.warning, "from a greenlet")]
gevent.joinall(greenlets)
with open("gevent_app.log") as lines:
    print(len(list(lines)), "lines")  # -> 101 lines
