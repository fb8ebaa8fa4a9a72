"""A long batch: many calls at a time, their results in order."""

import hashlib
import logging
from collections.abc import Iterator

import sidecar


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def lines() -> Iterator[str]:
    for at in range(1000):
        yield f"line {at}"


def all_of_them(bridge: sidecar.Sidecar) -> None:
    # The lines are read as they are needed.
    digests = bridge.map(digest, lines(), in_flight=16)
    print(next(digests), sum(1 for _ in digests))  # -> 7ab2851d 999


def only_the_first(bridge: sidecar.Sidecar) -> None:
    digests = bridge.map(digest, lines())
    print(next(digests))  # -> 7ab2851d
    digests.close()  # cancels what is on its way


if __name__ == "__main__":
    # What runs while it is cancelled goes on, and the log names it.
    logging.basicConfig(level=logging.ERROR)
    with sidecar.Sidecar(cpu="processes", cpu_workers=2) as bridge:
        all_of_them(bridge)
        only_the_first(bridge)
