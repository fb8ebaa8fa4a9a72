"""sidecar.compat.synchronaut: messages, methods, and what a bridge adds to its own tests."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import sidecar

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of event loop policies, which the import may change
    _policy = asyncio.get_event_loop_policy()
    from sidecar.compat.synchronaut import CallAnyTimeout, call_any, call_map, parallel_map, synchronaut, utils

    asyncio.set_event_loop_policy(_policy)

tenant = contextvars.ContextVar("tenant", default="nobody")


async def slow(seconds: float = 60) -> str:
    await asyncio.sleep(seconds)
    return "done"


def blocks(seconds: float = 0.1) -> str:
    time.sleep(seconds)
    return "done"


def test_messages_of_time_outs() -> None:
    decorated = synchronaut(timeout=0.01)(slow)
    for call in (lambda: call_any(slow, timeout=0.01), decorated, lambda: call_any(decorated)):
        with pytest.raises(CallAnyTimeout, match="^Coroutine slow timed out after 0.01s$"):
            call()
    with pytest.raises(CallAnyTimeout, match="^Function blocks timed out after 0.01s$"):
        call_any(blocks, timeout=0.01)

    async def inside() -> None:
        for call in (call_any(slow, timeout=0.01), decorated()):
            with pytest.raises(CallAnyTimeout, match="^Function slow timed out after 0.01s$"):
                await call

    asyncio.run(inside())


def test_decorated_functions_look_like_their_originals_and_are_methods() -> None:
    class Thing:
        @synchronaut()
        def plain(self, x: int) -> int:
            "Plain."
            return x

        @synchronaut(timeout=5)
        async def later(self, x: int) -> int:
            return x

    thing: Any = Thing()
    assert (thing.plain(1), thing.later(2), thing.later.sync(3), asyncio.run(thing.plain.async_(4))) == (1, 2, 3, 4)
    assert Thing.plain.__name__ == "plain" and Thing.plain.__doc__ == "Plain."
    assert list(inspect.signature(Thing.plain).parameters) == ["self", "x"]
    with pytest.raises(TypeError, match="positional"):
        synchronaut(blocks)  # type: ignore[call-arg, arg-type]


def test_maps_and_executors() -> None:
    names = []

    def note() -> str:
        names.append(threading.current_thread().name)
        return "noted"

    assert call_map([str, repr], 5) == ["5", "5"]
    results = parallel_map([(slow, (), {}, 0.01), (blocks, (0,), {}, None)], return_exceptions=True)
    assert isinstance(results[0], CallAnyTimeout) and results[1] == "done"
    with ThreadPoolExecutor(thread_name_prefix="mine") as executor:
        assert call_any(note, executor=executor, force_offload=True) == "noted"

        async def inside() -> list[str]:
            found: list[str] = await call_map([note, note], executor=executor)
            return found

        assert asyncio.run(inside()) == ["noted", "noted"]
    assert all(name.startswith("mine") for name in names)


def test_contexts_go_everywhere() -> None:
    async def later() -> str:
        return tenant.get()

    token = tenant.set("acme")
    try:
        assert call_any(later) == call_any(tenant.get, force_offload=True) == "acme"
        assert parallel_map([(tenant.get, (), {}, None), (later, (), {}, None)]) == ["acme", "acme"]
    finally:
        tenant.reset(token)


def test_request_context_in_threads() -> None:
    seen = []
    with utils.request_context({"user": 1}):
        assert utils.get_request_ctx() == {"user": 1}
        utils.spawn_thread_with_ctx(lambda key: seen.append(utils.get_request_ctx()[key]), key="user").join()
        assert call_any(utils.get_request_ctx, force_offload=True) == {"user": 1}
    assert seen == [1]
    assert utils.get_request_ctx("none") == "none"


def test_preferred_loop_is_the_threads_own() -> None:
    found = []

    def work() -> None:
        loop = utils.get_preferred_loop()
        found.append((loop, utils.get_preferred_loop() is loop, loop.run_until_complete(slow(0))))
        loop.close()
        again = utils.get_preferred_loop()
        found.append((again is not loop, again.is_closed()))
        again.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0][1:] == (True, "done")
    assert found[1] == (True, False)

    async def inside() -> bool:
        return utils.get_preferred_loop() is asyncio.get_running_loop()

    assert asyncio.run(inside())


def test_a_child_of_a_fork_goes_on() -> None:
    assert call_any(slow, 0) == "done"
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if call_any(slow, 0) == call_any(blocks, 0, force_offload=True) == "done" else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("policy", ["default", "own"])
def test_import_takes_uvloops_policy_where_it_is_installed(policy: str, tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text(
        "import asyncio\n\n\nclass EventLoopPolicy(asyncio.DefaultEventLoopPolicy): ...\n\n\nclass Loop: ...\n"
    )
    code = f"""
        import asyncio, sys

        if {policy!r} == "own":
            class Own(asyncio.DefaultEventLoopPolicy): ...
            asyncio.set_event_loop_policy(Own())
        from sidecar.compat.synchronaut import has_uvloop_policy
        print(has_uvloop_policy())
    """
    path = os.pathsep.join([str(Path(sidecar.__file__).parents[1]), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"{policy == 'default'}\n"), done.stderr
    assert ("policy is now uvloop's" in done.stderr) == (policy == "default")
