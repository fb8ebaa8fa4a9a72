"""A Celery application whose tasks know the request that has sent them, and call async code."""

import asyncio
import os

from celery import Celery

import sidecar
import sidecar.celery

sidecar.celery.install()

URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
app = Celery("shop", broker=URL, backend=URL)


async def price(item: str) -> int:
    await asyncio.sleep(0.01)
    return len(item)


@app.task
def total(items: list) -> dict:
    prices = sidecar.gather(*[price(item) for item in items])
    request = sidecar.current()
    return {"total": sum(prices), "request": request.id if request else None}


if __name__ == "__main__":
    # Without a broker: the task runs in place.
    print(total.apply([["tea", "bread"]]).get())  # -> {'total': 8, 'request': None}
