"""Who did what, how often: counted by each thread for itself, added up when all of them have ended."""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from types import TracebackType


class Ledger:
    """``count`` takes no lock, so that it may be used in a coroutine and does not put threads in order."""

    def __init__(self) -> None:
        self._mine = threading.local()
        self._all: list[Counter[tuple[str, ...]]] = []
        self.wrong: list[str] = []

    def count(self, *what: str, times: int = 1) -> None:
        try:
            counter = self._mine.counter
        except AttributeError:
            counter = self._mine.counter = Counter()
            self._all.append(counter)
        counter[what] += times

    def report(self, what: str, error: BaseException | None = None) -> None:
        """Something that must not be; a storm with one of these has failed."""
        if error is not None:
            lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-12)
            what = f"{what}: {''.join(lines)}"
        self.wrong.append(what)

    def totals(self) -> Counter[tuple[str, ...]]:
        """Only after the threads that counted have ended."""
        total: Counter[tuple[str, ...]] = Counter()
        for counter in list(self._all):
            total.update(counter)
        return total

    def body(self, kind: str) -> Body:
        return Body(self, kind)


class Body:
    """A coroutine's stay: entered once, left once, however it ends."""

    def __init__(self, ledger: Ledger, kind: str) -> None:
        self._ledger = ledger
        self._kind = kind

    def __enter__(self) -> None:
        self._ledger.count("begun", self._kind)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ledger.count("ended", self._kind)


def compare(totals: Counter[tuple[str, ...]], left: str, right: str, *, at_most: bool = False) -> list[str]:
    """Where the counts of ``left`` and ``right`` differ, kind by kind (``at_most``: left may be less)."""
    kinds = {key[1] for key in totals if key[0] in (left, right)}
    sums = {
        kind: [sum(n for key, n in totals.items() if key[:2] == (side, kind)) for side in (left, right)]
        for kind in kinds
    }
    return [
        f"{kind!r}: {left} {ours}, {right} {theirs}"
        for kind, (ours, theirs) in sorted(sums.items())
        if (ours > theirs if at_most else ours != theirs)
    ]
