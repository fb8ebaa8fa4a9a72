"""A storm by itself: what must not be said, and what must not be left, before and after it."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import json
import logging
import signal
import threading
from collections.abc import Callable
from typing import Any, Protocol

from harness import native_threads, open_descriptors, wait_for
from stress.ledger import Ledger

import sidecar


class Storm(Protocol):
    ledger: Ledger
    shutdowns: int

    def run(self) -> None: ...

    def account(self) -> list[str]:
        """What was wrong."""

    def plan(self) -> str: ...


class Log(logging.Handler):
    """What is logged, and not by plan, is wrong."""

    def __init__(self, ledger: Ledger, planned: type[BaseException]) -> None:
        super().__init__()
        self.ledger = ledger
        self.planned = planned

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, self.planned):
            self.ledger.count("failed with nobody to hear it")
        else:
            self.ledger.report(f"logged by {record.name}: {record.getMessage()}", error)


def main(make: Callable[[int, float], Storm], planned: type[BaseException], seed: int, seconds: float) -> int:
    """Print its account; the exit status. planned: an error that may come to nobody."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # The main thread's signal descriptors are made once and kept.
    with sidecar.Sidecar() as first:
        first.run_sync(asyncio.sleep(0.001))
    del first
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    descriptors, threads = len(open_descriptors()), native_threads()
    storm = make(seed, seconds)
    log = Log(storm.ledger, planned)
    logging.getLogger("asyncio").addHandler(log)
    logging.getLogger("sidecar").addHandler(log)
    storm.run()
    wrong = storm.account()
    totals = storm.ledger.totals()
    account: dict[str, Any] = {
        "plan": f"seed {seed}: {storm.plan()}",
        "calls": sum(n for key, n in totals.items() if key[0] == "outcome"),
        "outcomes": {" ".join(key): n for key, n in sorted(totals.items())},
        "runs": storm.shutdowns,
        "wrong": wrong[:20],
    }
    del storm, log
    logging.getLogger("asyncio").handlers.clear()
    logging.getLogger("sidecar").handlers.clear()
    gc.collect()
    try:
        wait_for(lambda: native_threads() <= threads, "all threads have ended")
        wait_for(lambda: len(open_descriptors()) <= descriptors, "all descriptors are closed", 5)
    except AssertionError as error:
        wrong.append(f"{error}: {threading.enumerate()} {open_descriptors()}")
        account["wrong"] = wrong[:20]
    print(json.dumps(account))
    return 1 if wrong else 0
