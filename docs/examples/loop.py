"""The loop by itself: an asyncio loop like any other."""

import asyncio
import sys

import sidecar


async def main() -> str:
    loop = asyncio.get_running_loop()
    loop.set_debug(False)
    await asyncio.sleep(0.001)
    return type(loop).__name__


if sys.version_info >= (3, 11):
    with asyncio.Runner(loop_factory=sidecar.Loop) as runner:
        print(runner.run(main()))  # -> Loop
else:
    loop = sidecar.Loop()
    asyncio.set_event_loop(loop)
    print(loop.run_until_complete(main()))
    loop.close()
