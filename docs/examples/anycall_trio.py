"""call_any inside Trio: async functions are awaited there, sync ones run on Trio's threads."""

import time

import trio

from sidecar.anycall import parallel_map


async def square(number: int) -> int:
    await trio.sleep(0.01)
    return number * number


def subtract(a: int, b: int) -> int:
    time.sleep(0.01)
    return a - b


async def main() -> list:
    return await parallel_map(
        [
            (square, (5,), {}, 10.0),
            (subtract, (10, 3), {}, None),
            (trio.sleep, (60,), {}, 0.05),
        ],
        return_exceptions=True,
    )


print(trio.run(main))  # -> [25, 7, CallAnyTimeout('Function sleep timed out after 0.05s')]
