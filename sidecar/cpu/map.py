"""``map()``: long batches, in order, with so many calls on their way at a time."""

from __future__ import annotations

import collections
import importlib
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sidecar._support import logger

if TYPE_CHECKING:
    from sidecar._bridge import Sidecar
    from sidecar.cpu.engine import Call

__all__ = ["ordered"]

_said = False


def ordered(
    bridge: Sidecar, fn: Callable[[Any], Any], items: Iterable[Any], progress: bool, in_flight: int | None
) -> Generator[Any, None, None]:
    """``bridge.map()``; raises what is wrong with its arguments at once."""
    if not callable(fn):
        raise TypeError(f"map() takes a function and items, not {fn!r}")
    whole = isinstance(in_flight, int) and not isinstance(in_flight, bool)
    if in_flight is not None and not (whole and in_flight >= 1):
        raise ValueError(f"in_flight must be a whole number from 1 on, or None, not {in_flight!r}")
    return _run(bridge, fn, iter(items), _bar(fn, items) if progress else _no_bar, in_flight)


def _run(
    bridge: Sidecar,
    fn: Callable[[Any], Any],
    items: Iterator[Any],
    count: Callable[[int | None], object],
    in_flight: int | None,
) -> Generator[Any, None, None]:
    from sidecar.cpu.run import new_call, submit_in_turn, wait

    if in_flight is None:
        in_flight = 2 * bridge._cpu.engine().workers
    calls: collections.deque[Call] = collections.deque()
    try:
        while True:
            while len(calls) < in_flight:
                try:
                    item = next(items)
                except StopIteration:
                    break
                call = new_call(fn, (item,), {})
                submit_in_turn(bridge, call)
                calls.append(call)
            if not calls:
                return
            result = wait(bridge, calls[0])
            calls.popleft()
            count(1)
            yield result
            del result
    finally:
        for call in reversed(calls):
            # What has failed by now is not asked for, nor is it lost: there is an error already, or no interest.
            if not call.future.cancel() and not call.future.cancelled():
                call.future.exception()
        count(None)


def _no_bar(done: int | None) -> None:
    pass


def _bar(fn: Callable[[Any], Any], items: Iterable[Any]) -> Callable[[int | None], object]:
    """What is told of each result, and ``None`` at the end."""
    global _said
    try:
        tqdm: Any = importlib.import_module("tqdm.auto").tqdm  # by name: it may be absent where types are checked
    except ImportError:
        if not _said:
            _said = True
            logger.warning("map: no progress is shown, for tqdm is not installed (pip install tqdm)")
        return _no_bar
    try:
        total: int | None = len(items)  # type: ignore[arg-type]
    except TypeError:
        total = None
    made: list[Any] = []

    def count(done: int | None) -> None:
        # Not before the first result is there: what nobody iterates over shows nothing.
        if done is None:
            for bar in made:
                bar.close()
            return
        if not made:
            made.append(tqdm(total=total, desc=getattr(fn, "__name__", None)))
        made[0].update(done)

    return count
