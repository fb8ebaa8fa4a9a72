"""Many at once, from sync code or inside a loop."""

import asyncio

from sidecar import CallTimeoutError, gather, run_sync


async def price(item: str, seconds: float = 0.01) -> str:
    try:
        await asyncio.sleep(seconds)
    finally:
        if seconds > 1:
            print("cleaned up")
    if not item:
        raise ValueError("no name")
    return item.upper()


# A list, in the order of the arguments.
print(gather(price("tea"), price("milk", 0.001)))  # -> ['TEA', 'MILK']

# The first failure cancels the others, and waits for their cleanup.
try:
    gather(price(""), price("tea", 60))  # -> cleaned up
except ValueError as error:
    print(error)  # -> no name

# Failures as results.
print(gather(price("tea"), price(""), return_exceptions=True))  # -> ['TEA', ValueError('no name')]

# A time-out for all of them.
try:
    gather(price("tea"), price("milk", 60), timeout=0.05)  # -> cleaned up
except CallTimeoutError as error:
    print(error)  # -> gather() of 2 did not finish within its timeout and was cancelled [SC0003]


# Inside a coroutine it is awaited.
async def basket() -> list:
    return await gather(price("tea"), price("milk"))


print(run_sync(basket()), asyncio.run(basket()))  # -> ['TEA', 'MILK'] ['TEA', 'MILK']
