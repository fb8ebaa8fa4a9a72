"""The loop by itself: an asyncio loop like any other."""

import asyncio
import sys

import sidecar


async def main() -> str:
    await asyncio.sleep(0.001)
    return type(asyncio.get_running_loop()).__name__


def run() -> str:
    with asyncio.Runner(loop_factory=sidecar.Loop) as runner:
        return runner.run(main())


def run_before_3_11() -> str:
    loop = sidecar.Loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


print(run() if sys.version_info >= (3, 11) else run_before_3_11())  # -> Loop
