"""Work that takes a processor: out of the way of the requests, on all of the machine's processors."""

import asyncio
import math

import sidecar


def count_primes(below: int) -> int:
    return sum(all(n % d for d in range(2, math.isqrt(n) + 1)) for n in range(2, below))


def from_sync_code(bridge: sidecar.Sidecar) -> None:
    print(bridge.run_cpu(count_primes, 1000))  # -> 168


async def from_a_coroutine(bridge: sidecar.Sidecar) -> None:
    print(await bridge.run_cpu.aio(count_primes, 100))  # -> 25


def later(bridge: sidecar.Sidecar) -> None:
    futures = [bridge.run_cpu.future(count_primes, below) for below in (10, 20)]
    print([future.result() for future in futures])  # -> [4, 8]


def what_goes_wrong(bridge: sidecar.Sidecar) -> None:
    try:
        bridge.run_cpu(count_primes, "1000")
    except TypeError as error:
        print("Traceback" in str(error.__cause__))  # -> True


# Worker processes load this file, too: what begins the work is below, as for multiprocessing.
if __name__ == "__main__":
    with sidecar.Sidecar(cpu="processes", cpu_workers=2) as bridge:
        from_sync_code(bridge)
        asyncio.run(from_a_coroutine(bridge))
        later(bridge)
        what_goes_wrong(bridge)
        stats = bridge.stats()
        print(stats["cpu"], stats["cpu_queued"], stats["cpu_orphans"])  # -> processes 0 0
