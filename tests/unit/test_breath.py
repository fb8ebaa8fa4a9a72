"""Callbacks that are C functions, and loops in C: no bytecode is run, yet other threads and signals get their turn."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

RunScript = Callable[..., "subprocess.CompletedProcess[str]"]

# A callback that is its own successor.  The switch interval is longer than the loop's own measure of time, so that a
# loop that just lets go of the GIL and takes it back never hands it over.
CHAIN = """
    import asyncio, functools, signal, sys, threading
    import sidecar

    sys.setswitchinterval(0.05)
    go = threading.Lock()
    go.acquire()

    def begin(loop):
        global link
        link = functools.partial(loop.call_soon)
        link.__setstate__((loop.call_soon, (link,), {}, {}))
        link()

    def end():
        link.__setstate__((int, (), {}, {}))
    """

OTHERS = {
    "thread": """
    def summon(loop, leave):
        thread = threading.Thread(target=lambda: (go.acquire(), loop.call_soon_threadsafe(leave)))
        thread.start()
        loop.call_soon(go.release)
    """,
    "signal": """
    def summon(loop, leave):
        signal.signal(signal.SIGALRM, lambda *_: loop.call_soon(leave))
        loop.call_soon(signal.setitimer, signal.ITIMER_REAL, 0.01)
    """,
}

RUNNERS = {
    "run_forever": """
    loop = sidecar.Loop()
    begin(loop)
    summon(loop, loop.stop)
    loop.run_forever()
    end()
    loop.close()
    """,
    "main thread drives": """
    async def main():
        loop = asyncio.get_running_loop()
        left = loop.create_future()
        begin(loop)
        summon(loop, lambda: left.done() or left.set_result(None))
        await left
        end()

    sidecar.run_sync(main())
    """,
    "pump": """
    # This very thread is the one that needs the GIL.
    async def main():
        loop = asyncio.get_running_loop()
        loop.call_later(0.001, begin, loop)

    sidecar.run_sync(main())
    while "link" not in globals():
        pass
    sidecar.get_bridge().get_loop().call_soon_threadsafe(end)
    sidecar.run_sync(asyncio.sleep(0))
    """,
}
RUNNERS["thread drives"] = RUNNERS["main thread drives"].replace(
    "sidecar.run_sync(main())",
    "caller = threading.Thread(target=lambda: sidecar.run_sync(main()))\n    caller.start()\n    caller.join()",
)


@pytest.mark.parametrize(
    ("runner", "other"),
    [
        ("run_forever", "thread"),
        ("run_forever", "signal"),
        ("main thread drives", "thread"),
        ("main thread drives", "signal"),
        ("thread drives", "thread"),
        ("pump", "thread"),
    ],
)
def test_callbacks_in_c_let_others_run(run_script: RunScript, runner: str, other: str) -> None:
    done = run_script(CHAIN + OTHERS[other] + RUNNERS[runner] + "\n    print('over')", seconds=20)
    assert (done.stdout, done.stderr) == ("over\n", "")
