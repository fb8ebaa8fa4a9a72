"""Run one of CPython's test modules against our loop, in this process; what came of it goes to a file.

    python runner.py MODE MODULE RESULT [--only PATTERN...] [--without PATTERN...] [--limit SECONDS]

MODE is one of ``loops.MODES``. A pattern is a shell's, for ``Class.test``. RESULT is JSON lines: first
``{"version"}``, then for each test ``{"test"}`` as it begins and ``{"test", "outcome", "reason", "seconds", "loops"}``
at its end; last ``{"end": true}``. A process that died has no such line, and names the test that it died in. A test
that takes longer than the limit counts as stuck: all threads' stacks are written, and the process ends.
"""

from __future__ import annotations

import argparse
import faulthandler
import fnmatch
import json
import sys
import time
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import loops
from test import support

# What the tests may use beside time and memory: no network, nothing that is slow by design.
RESOURCES = ("cpu", "subprocess", "walltime")


class Recorder(unittest.TestResult):
    """Writes each test's outcome, and how many loops of ours it made."""

    def __init__(self, file: TextIO, limit: float) -> None:
        super().__init__()
        self._file = file
        self._limit = limit
        self._outcome = self._reason = ""
        self._began = 0.0
        self._loops = 0

    def write(self, **record: object) -> None:
        print(json.dumps(record), file=self._file, flush=True)

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._outcome, self._reason = "passed", ""
        self.write(test=name_of(test))
        faulthandler.dump_traceback_later(self._limit, exit=True)
        self._began = time.monotonic()

    def stopTest(self, test: unittest.TestCase) -> None:
        seconds = round(time.monotonic() - self._began, 3)
        faulthandler.cancel_dump_traceback_later()
        # Some cases make theirs before they say that they begin.
        self._end(name_of(test), seconds, loops.made - self._loops)
        self._loops = loops.made
        super().stopTest(test)

    def _end(self, test: str, seconds: float = 0.0, made: int = 0) -> None:
        self.write(test=test, outcome=self._outcome, reason=self._reason, seconds=seconds, loops=made)

    def _note(self, test: Any, outcome: str, reason: str) -> None:
        if isinstance(test, unittest.TestCase):
            if self._outcome != "failed":
                self._outcome, self._reason = outcome, reason
        else:
            # A class or module that could not be set up, in the place of its tests.
            self._outcome, self._reason = outcome, reason
            self._end(test.id())

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self._note(test, "skipped", reason)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        self._note(test, "failed", self._exc_info_to_string(err, test))  # type: ignore[attr-defined]

    addError = addFailure

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        if err is not None:
            self.addFailure(test, err)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self._note(test, "failed", "unexpected success")


def name_of(test: unittest.TestCase) -> str:
    """``Class.test``."""
    return ".".join(test.id().rsplit(".", 2)[-2:])


def tests_in(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for each in suite:
        if isinstance(each, unittest.TestSuite):
            yield from tests_in(each)
        else:
            yield each


def is_among(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=loops.MODES)
    parser.add_argument("module")
    parser.add_argument("result", type=Path)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--without", nargs="*", default=[])
    parser.add_argument("--limit", type=float, default=60.0)
    options = parser.parse_args()

    support.use_resources = dict.fromkeys(RESOURCES)
    loops.use(options.mode)
    suite = unittest.defaultTestLoader.loadTestsFromName(options.module)
    loops.use_in(options.module)
    chosen = [
        test
        for test in tests_in(suite)
        if (options.only is None or is_among(name_of(test), options.only))
        and not is_among(name_of(test), options.without)
    ]
    with open(options.result, "w") as file:
        recorder = Recorder(file, options.limit)
        recorder.write(version=sys.version, tests=[name_of(test) for test in tests_in(suite)])
        unittest.TestSuite(chosen).run(recorder)
        recorder.write(end=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
