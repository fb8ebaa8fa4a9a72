"""From palitra: one import changes, the code stays; then sidecar's own names."""

import asyncio

from sidecar.compat import palitra


async def fetch(name: str) -> str:
    await asyncio.sleep(0.001)
    return f"fetched {name}"


print(palitra.run(fetch("a")))  # -> fetched a
print(palitra.gather(fetch("a"), fetch("b")))  # -> ['fetched a', 'fetched b']

with palitra.EventLoopThreadRunner() as runner:
    print(runner.run(fetch("c"), timeout=5))  # -> fetched c
    print(runner.get_loop().is_running())  # -> True

# The first releases' way: the class itself stands for the shared runner.
print(palitra.EventLoopThreadRunner.run(fetch("d")))  # -> fetched d
palitra.shutdown_global_runner()

# Later, by sidecar's own names:
import sidecar  # noqa: E402

print(sidecar.run_sync(fetch("a"), timeout=5))  # -> fetched a
print(sidecar.gather(fetch("a"), fetch("b")))  # -> ['fetched a', 'fetched b']

with sidecar.Sidecar(name="mine") as bridge:
    print(bridge.run_sync(fetch("c")))  # -> fetched c
