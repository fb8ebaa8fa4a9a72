"""From synchronaut: one import changes, the code stays; then sidecar's own names."""

# ruff: noqa: E402

import asyncio
import logging
import time
import warnings

# It sets uvloop's event loop policy where uvloop is installed, as synchronaut does; Python 3.14 warns of policies.
logging.getLogger("sidecar.compat").setLevel(logging.ERROR)

from sidecar.compat.synchronaut import CallAnyTimeout, call_any, call_map, parallel_map, synchronaut
from sidecar.compat.synchronaut.utils import get_request_ctx, request_context, spawn_thread_with_ctx

warnings.simplefilter("ignore", DeprecationWarning)


def add(a: int, b: int) -> int:
    return a + b


@synchronaut(timeout=1.0)
async def add_later(a: int, b: int) -> int:
    await asyncio.sleep(0.001)
    return a + b


print(call_any(add, 1, 2), add_later(3, 4), add_later.sync(5, 6))  # -> 3 7 11
print(parallel_map([(add, (1, 2), {}, None), (add_later, (3, 4), {}, 0.5)]))  # -> [3, 7]


async def main() -> None:
    print(await call_any(add, 1, 2), await add_later(3, 4), await call_map([add, add_later], 4, 5))
    try:
        await call_any(lambda: time.sleep(0.2), timeout=0.05)
    except CallAnyTimeout as error:
        print(error)


asyncio.run(main())
# -> 3 7 [9, 9]
# -> Function <lambda> timed out after 0.05s

with request_context({"user": 42}):
    spawn_thread_with_ctx(lambda: print(get_request_ctx())).join()  # -> {'user': 42}

# Later, by sidecar's own names:
from sidecar import anycall


@anycall.bridged(timeout=1.0)
async def multiply(a: int, b: int) -> int:
    return a * b


print(multiply(2, 3), anycall.call_any(add, 1, 2))  # -> 6 3
