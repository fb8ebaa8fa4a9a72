"""Sync code that belongs to one thread, called from a coroutine: it runs on the thread that waits."""

import asyncio
import sqlite3

from sidecar import NoCallerError, run_sync, submit, to_caller

# A connection that may be used in its own thread only.
database = sqlite3.connect(":memory:")
database.execute("create table seen (page text)")


def save(page: str) -> int:
    database.execute("insert into seen values (?)", (page,))
    (count,) = database.execute("select count(*) from seen").fetchone()
    return count


async def crawl(page: str) -> int:
    await asyncio.sleep(0.001)  # stands for a download
    return await to_caller(save, page)


print(run_sync(crawl("/")))  # -> 1


# Also from tasks that the coroutine makes; they take their turns on the one thread.
async def crawl_all() -> list:
    return sorted(await asyncio.gather(*(crawl(f"/{i}") for i in range(3))))


print(run_sync(crawl_all()))  # -> [2, 3, 4]


# The function may call back, however deep.
def save_and_crawl(page: str) -> int:
    return save(page) + run_sync(crawl(page + "more"))


async def nested() -> int:
    return await to_caller(save_and_crawl, "/deep")


print(run_sync(nested()))  # -> 11

# Nobody waits for what was only submitted.
try:
    submit(crawl, "/lost").result()
except NoCallerError as error:
    print(error.code)  # -> SC0006

database.close()
