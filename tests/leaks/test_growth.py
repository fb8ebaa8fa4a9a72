"""Nothing grows over many calls: objects of ours, descriptors, threads, memory; an interpreter for each."""

from __future__ import annotations

import pytest

PRELUDE = """
import asyncio, collections, gc, os, sys, threading
import sidecar
from sidecar import _core

async def nap():
    await asyncio.sleep(0)

async def fail():
    await asyncio.sleep(0)
    raise ValueError

def counts():
    gc.collect()
    kinds = collections.Counter(type(thing).__qualname__ for thing in gc.get_objects())
    ours = {kind: n for kind, n in kinds.items() if kind in OURS}
    return ours

OURS = {"Handle", "TimerHandle", "Call", "TaskMark", "Bridge", "Sidecar", "BridgeLoop", "Loop", "Task",
        "WorkerPool", "Context", "Request", "coroutine", "CallTimeoutError"}

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def holdings():
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

# malloc gives each thread an arena of its own, and keeps it: less than this is no growth.
def check(work, warm, times, slack=1024 * 1024):
    for _ in range(warm):
        work()
    before, held, memory = counts(), holdings(), resident()
    for _ in range(times):
        work()
    after, grown = counts(), resident() - memory
    assert after == before, (before, after)
    assert holdings() == held, (held, holdings())
    assert grown < slack, grown
"""

WORK = {
    "calls": ("lambda: sidecar.run_sync(nap())", 2000, 30000),
    "failures": ("failures", 500, 5000),
    "timeouts": ("timeouts", 50, 1000),
    "refusals": ("refusals", 500, 5000),
    "threads": ("threads", 20, 200),
    "bridges": ("bridges", 50, 400),
    "default_bridges": ("default_bridges", 50, 400),
    "loops": ("loops", 50, 1000),
    "background": ("background", 200, 3000),
}

BODY = """
def failures():
    try:
        sidecar.run_sync(fail())
    except ValueError:
        pass

def timeouts():
    try:
        sidecar.run_sync(asyncio.sleep(10), timeout=0.0005)
    except TimeoutError:
        pass

def refusals():
    for bad in (3, nap):
        try:
            sidecar.run_sync(bad)
        except TypeError:
            pass

def threads():
    group = [threading.Thread(target=lambda: [sidecar.run_sync(nap()) for _ in range(10)]) for _ in range(4)]
    for thread in group: thread.start()
    for thread in group: thread.join()

def bridges():
    with sidecar.Sidecar() as bridge:
        bridge.run_sync(nap())

def default_bridges():
    sidecar.run_sync(nap())
    sidecar.shutdown()

def loops():
    loop = sidecar.Loop()
    loop.run_until_complete(nap())
    loop.call_later(10, print)
    loop.close()

async def leave():
    asyncio.get_running_loop().call_later(0, int)
    task = asyncio.create_task(nap())
    await asyncio.sleep(0)
    return task

def background():
    task = sidecar.run_sync(leave())
    sidecar.run_sync(nap())
"""


@pytest.mark.parametrize("name", WORK)
def test_nothing_grows(run_script, name):
    work, warm, times = WORK[name]
    done = run_script(PRELUDE + BODY + f"\ncheck({work}, {warm}, {times})\n", seconds=100)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
