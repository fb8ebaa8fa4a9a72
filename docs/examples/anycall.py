"""The same functions called from sync code and from asyncio."""

import asyncio
import time

from sidecar.anycall import CallAnyTimeout, bridged, call_any, call_map, parallel_map


def sync_add(a: int, b: int) -> int:
    return a + b


async def async_add(a: int, b: int) -> int:
    await asyncio.sleep(0.01)
    return a + b


print(call_any(sync_add, 1, 2))  # -> 3
print(call_any(async_add, 3, 4))  # -> 7


async def main() -> None:
    print(await call_any(sync_add, 5, 6))  # -> 11
    print(await call_any(async_add, 7, 8))  # -> 15
    print(await call_map([sync_add, async_add], 4, 5))  # -> [9, 9]


asyncio.run(main())


async def slow() -> None:
    try:
        await asyncio.sleep(60)
    finally:
        print("cleaned up")  # -> cleaned up


try:
    call_any(slow, timeout=0.05)
except CallAnyTimeout as error:
    print(error)  # -> Function slow timed out after 0.05s

# The thread sleeps on; whoever called does not wait for it.
try:
    call_any(time.sleep, 0.5, timeout=0.05)
except TimeoutError as error:
    print(error)  # -> Function sleep timed out after 0.05s


# -- many at once -------------------------------------------------------------

began = time.perf_counter()
results = parallel_map(
    [
        (time.sleep, (0.2,), {}, None),
        (asyncio.sleep, (0.2, "awake"), {}, None),
        (asyncio.sleep, (60,), {}, 0.1),
        (int, ("seven",), {}, None),
    ],
    return_exceptions=True,
)
assert time.perf_counter() - began < 10
for result in results:
    print(repr(result))
# -> None
# -> 'awake'
# -> CallAnyTimeout('Function sleep timed out after 0.1s')
# -> ValueError("invalid literal for int() with base 10: 'seven'")


# -- the decorator ------------------------------------------------------------


@bridged(timeout=5.0)
async def fetch(key: str) -> str:
    """Fetch one."""
    await asyncio.sleep(0.01)
    return f"value of {key}"


@bridged
def parse(text: str) -> int:
    return int(text)


print(fetch("a"), parse("7"))  # -> value of a 7


async def view() -> None:
    print(await fetch("b"), await parse("8"))  # -> value of b 8
    print(parse.sync("9"), await parse.async_("10"))  # -> 9 10


asyncio.run(view())
print(fetch.sync("c"))  # -> value of c
