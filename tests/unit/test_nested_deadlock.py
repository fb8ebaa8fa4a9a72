"""Deadlocks that are named after the coroutine: calls between bridges, and faces that can be pickled."""

import pickle

import pytest

import sidecar
from sidecar import anycall
from sidecar.errors import DeadlockError

LONG = 30


async def give(value=1):
    return value


class TestBridges:
    @pytest.mark.parametrize("thread", ["main", "pool"])
    @pytest.mark.parametrize("depth", [1, 2])
    def test_back_on_the_same_thread_the_coroutine_is_named(self, thread, depth):
        """Also where its thread drives another loop, or two, just now; and after that."""
        with sidecar.Sidecar(name="a") as a, sidecar.Sidecar(name="b") as b, sidecar.Sidecar(name="c") as c:

            async def first():
                with pytest.raises(DeadlockError, match=r"called inside .*first\(\) at ") as caught:
                    b.run_sync(second() if depth == 1 else between())
                with pytest.raises(DeadlockError, match=r"called inside .*first\(\) at "):
                    a.run_sync(give())
                return caught.value

            async def between():
                return c.run_sync(second())

            async def second():
                return a.run_sync(give())

            def call():
                return a.run_sync(first())

            error = call() if thread == "main" else sidecar.submit(call).result(LONG)
            assert "a callback of the loop" not in str(error)


@pytest.mark.parametrize("function", [sidecar.stream, sidecar.wrap_context, anycall.call_any, sidecar.Sidecar.stream])
def test_frameless_functions_are_pickled_by_name(function):
    assert pickle.loads(pickle.dumps(function)) is function
