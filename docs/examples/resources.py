"""What belongs to the loop is made once for each worker, by whoever asks first, and closed at its end."""

import asyncio
import threading
from collections.abc import AsyncIterator

import sidecar
from sidecar import resource, run_sync

log = []


class Pool:
    """Stands for a database's pool of connections."""

    @classmethod
    async def open(cls) -> "Pool":
        await asyncio.sleep(0.01)
        log.append("pool opened")
        return cls()

    async def fetch(self, query: str) -> str:
        await asyncio.sleep(0.001)
        return query.upper()

    async def close(self) -> None:
        await asyncio.sleep(0.001)
        log.append("pool closed")


@resource
async def pool() -> AsyncIterator[Pool]:
    made = await Pool.open()
    yield made
    await made.close()


# In sync code: get().
def view() -> str:
    return run_sync(pool.get().fetch("select 1"))


threads = [threading.Thread(target=view) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(view(), log)  # -> SELECT 1 ['pool opened']


# In a coroutine of the bridge: await.
async def report() -> str:
    return await (await pool).fetch("select 2")


print(run_sync(report()))  # -> SELECT 2


# One may need another.
@resource
async def prices() -> AsyncIterator[dict]:
    yield {"apple": await (await pool).fetch("1.20")}
    log.append("prices closed")


print(prices.get())  # -> {'apple': '1.20'}


class Client(Pool):
    """As most clients, it is an async context manager."""

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        log.append("client left")


client = resource(Client)  # entered, and left at the end
spare = resource(Pool.open, close="close")  # a coroutine function, and the method that closes
semaphore = resource(lambda: asyncio.Semaphore(10))  # nothing to close

for kept in (client, spare, semaphore):
    kept.get()
sidecar.shutdown()
print(log[-4:])  # -> ['pool closed', 'client left', 'prices closed', 'pool closed']
