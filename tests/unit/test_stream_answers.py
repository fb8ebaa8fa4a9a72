"""stream: send, throw and close are as a generator's; what its errors look like."""

from __future__ import annotations

import asyncio
import gc
import threading
import traceback

import pytest
from streaming import Countdown, count


def plain_echo(log):
    got = "begun"
    try:
        while got != "end":
            try:
                got = yield got
            except ValueError as error:
                got = f"caught {error}"
    finally:
        log.append("left")


async def echo(log):
    got = "begun"
    try:
        while got != "end":
            try:
                got = yield got
            except ValueError as error:
                got = f"caught {error}"
            if got == "wait":
                await asyncio.sleep(0.001)
    finally:
        log.append("left")


SCRIPTS = {
    "sends": [("next",), ("send", 1), ("send", None), ("send", "wait"), ("send", (1, 2)), ("next",)],
    "end": [("next",), ("send", "end"), ("next",), ("send", 1), ("send", None), ("close",)],
    "throws": [("next",), ("throw", ValueError("a")), ("throw", ValueError("b")), ("send", 2)],
    "throw ends": [("next",), ("throw", KeyError("a")), ("next",), ("throw", KeyError("late"))],
    "throw a class": [("next",), ("throw", ValueError), ("throw", KeyError), ("next",)],
    "throw with a value": [("next",), ("throw", ValueError, "told"), ("throw", ValueError, ValueError("own"))],
    "throw first": [("throw", ValueError("early")), ("next",), ("close",)],
    "throw exit": [("next",), ("throw", GeneratorExit()), ("next",)],
    "throw interrupt": [("next",), ("throw", KeyboardInterrupt()), ("next",)],
    "throw nonsense": [("next",), ("throw", 3), ("send", 1)],
    "close": [("next",), ("close",), ("close",), ("next",), ("send", 1), ("throw", KeyError("late"))],
    "close first": [("close",), ("next",), ("close",)],
    "send first": [("send", 1), ("send", None), ("send", 2)],
}


def play(generator, script):
    told = []
    for name, *args in script:
        try:
            method = generator.__next__ if name == "next" else getattr(generator, name)
            told.append(method(*args))
        except BaseException as error:
            told.append((type(error), error.args if type(error) is not TypeError else ""))
    return told


class TestAsAGenerator:
    @pytest.mark.filterwarnings("ignore:the .type, exc, tb. signature:DeprecationWarning")
    @pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
    def test_same_answers_as_a_plain_generators(self, bridge, script, where):
        expected, found = [], []
        told = play(plain_echo(expected), script)
        assert where(play, bridge.stream(echo(found)), script) == told
        assert found == expected or ("close",) not in script

    def test_throw_with_a_traceback(self, bridge):
        try:
            raise ValueError("of old")
        except ValueError as error:
            old = error
        trace = old.__traceback__

        async def give():
            yield

        stream = bridge.stream(give())
        next(stream)
        with pytest.raises(ValueError) as caught:
            stream.throw(ValueError, old, trace)
        assert caught.value is old
        names = [frame.name for frame in traceback.extract_tb(old.__traceback__)]
        assert "test_throw_with_a_traceback" in names and "give" in names

    def test_throw_takes_one_to_three(self, bridge):
        stream = bridge.stream(count(1))
        for args in ((), (ValueError,) * 4):
            with pytest.raises(TypeError, match="1 to 3 arguments"):
                stream.throw(*args)
        assert list(stream) == [0]

    def test_into_an_iterator_that_is_no_generator(self, bridge):
        stream = bridge.stream(Countdown(3))
        assert next(stream) == 2
        with pytest.raises(KeyError):
            stream.throw(KeyError("told"))
        assert list(stream) == []
        stream = bridge.stream(Countdown(3))
        assert next(stream) == 2
        with pytest.raises(TypeError, match="Countdown.*has no asend"):
            stream.send(1)
        assert stream.close() is None

    def test_with_closes_it(self, bridge):
        log = []
        with bridge.stream(echo(log)) as stream:
            assert next(stream) == "begun"
        assert log == ["left"] and list(stream) == []
        with pytest.raises(LookupError):
            with bridge.stream(echo(log)) as stream:
                next(stream)
                raise LookupError
        assert log == ["left"] * 2

    def test_yield_from(self, bridge):
        def through():
            return (yield from bridge.stream(echo([])))

        generator = through()
        assert [next(generator), generator.send("a"), generator.throw(ValueError("b"))] == [
            "begun",
            "a",
            "caught b",
        ]
        generator.close()


class TestErrors:
    def test_then_it_is_over(self, bridge, where):
        error = ValueError("as it is")

        async def fail():
            yield 1
            await asyncio.sleep(0)
            raise error

        stream = bridge.stream(fail())

        def consume():
            with pytest.raises(ValueError) as caught:
                list(stream)
            return caught.value

        assert where(consume) is error
        assert [next(stream, "over"), next(stream, "over")] == ["over", "over"]

    def test_traceback_has_the_users_frames_only(self, bridge):
        async def inner():
            raise ValueError("deep")

        async def fail():
            yield 1
            await inner()

        def consumer(stream):
            for _ in stream:
                pass

        with pytest.raises(ValueError) as caught:
            consumer(bridge.stream(fail()))
        frames = traceback.extract_tb(caught.value.__traceback__)
        names = [frame.name for frame in frames]
        assert names[-3:] == ["consumer", "fail", "inner"]
        assert {frame.filename for frame in frames} == {__file__}
        with pytest.raises(TypeError) as refused:
            bridge.stream(3)
        assert {frame.filename for frame in traceback.extract_tb(refused.tb)} == {__file__}

    def test_causes_are_kept(self, bridge):
        async def fail():
            try:
                raise KeyError("first")
            except KeyError as error:
                raise ValueError("second") from error
            yield

        with pytest.raises(ValueError) as caught:
            next(bridge.stream(fail()))
        assert isinstance(caught.value.__cause__, KeyError)

    def test_stop_async_iteration_inside_a_generator(self, bridge):
        async def stop():
            yield 1
            raise StopAsyncIteration

        stream = bridge.stream(stop())
        assert next(stream) == 1
        with pytest.raises(RuntimeError, match="async generator raised StopAsyncIteration"):
            next(stream)

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
    def test_what_is_no_exception_reaches_the_consumer(self, bridge, kind, where):
        async def fail():
            yield 1
            raise kind("told")

        stream = bridge.stream(fail())

        def consume():
            with pytest.raises(kind):
                list(stream)

        where(consume)
        assert list(stream) == []
        assert list(bridge.stream(count(2))) == [0, 1]  # the bridge lives

    def test_a_timeout_of_the_users_own_passes(self, bridge):
        async def fail():
            yield 1
            raise TimeoutError("mine")

        stream = bridge.stream(fail())
        next(stream)
        with pytest.raises(TimeoutError, match="^mine$"):
            next(stream)

    def test_cancelled_from_inside(self, bridge):
        tasks = []

        async def wait():
            tasks.append(asyncio.current_task())
            yield 1
            await asyncio.sleep(60)

        async def cancel():
            tasks[0].cancel()

        stream = bridge.stream(wait())
        next(stream)
        threading.Thread(target=lambda: bridge.run_sync(cancel())).start()
        with pytest.raises(asyncio.CancelledError):
            next(stream)
        assert list(stream) == []

    def test_an_item_for_each_time_it_was_cancelled_between_two(self, bridge):
        """Cancelled while it stands still, a generator may yield, though nobody waits: nothing is lost."""
        tasks = []

        async def stubborn():
            tasks.append(asyncio.current_task())
            for number in range(6):
                try:
                    yield [number]
                except asyncio.CancelledError:
                    pass

        async def cancel():
            tasks[0].cancel()
            await asyncio.sleep(0.001)

        stream = bridge.stream(stubborn())
        assert next(stream) == [0]
        for _ in range(3):
            bridge.run_sync(cancel())
        assert list(stream) == [[1], [2], [3], [4], [5]]
        gc.collect()

    def test_a_throw_is_not_lost_to_such_an_item(self, bridge):
        tasks = []

        async def stubborn():
            tasks.append(asyncio.current_task())
            while True:
                try:
                    yield 1
                except asyncio.CancelledError:
                    pass

        async def cancel():
            tasks[0].cancel()
            await asyncio.sleep(0.001)

        stream = bridge.stream(stubborn())
        next(stream)
        bridge.run_sync(cancel())
        with pytest.raises(KeyError):
            stream.throw(KeyError("told"))
