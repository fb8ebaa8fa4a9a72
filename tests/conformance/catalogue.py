"""Which of the interpreter's own test modules there are, and which say something about our loop."""

from __future__ import annotations

import importlib.util
import os
import sys
import unittest
from pathlib import Path

MODES = ("run", "driven", "driven-by-a-thread")

NOT_THIS_PLATFORM = "Windows' own; there is nothing in it for Linux"
NO_LOOP = "makes no loop but the suite's own one with a clock it can turn, or none"

LEFT_OUT = {
    "test_futures": NO_LOOP,
    "test_proactor_events": NOT_THIS_PLATFORM,
    "test_protocols": NO_LOOP,
    # Up to 3.10.
    **({"test_queues": NO_LOOP} if sys.version_info < (3, 11) else {}),
    "test_selector_events": "the insides of asyncio's selector loop, on mocks; ours has others",
    "test_tools": "python -m asyncio's tables from made-up data; test_behaviour.py asks it about our loops",
    "test_transports": NO_LOOP,
    "test_windows_events": NOT_THIS_PLATFORM,
    "test_windows_utils": NOT_THIS_PLATFORM,
}
"""Modules of ``test.test_asyncio`` that are not run, each with its reason."""

OTHERS = (
    "test.test_asyncgen",
    "test.test_coroutines",
    # Runs its coroutines by hand from 3.14 on.
    *(("test.test_contextlib_async",) if sys.version_info < (3, 14) else ()),
    "test.test_unittest.test_async_case",
    "test.test_unittest.testmock.testasync",
    # Where the two above were up to 3.11.
    "unittest.test.test_async_case",
    "unittest.test.testmock.testasync",
)
"""What tests asyncio elsewhere; run where the interpreter has it."""

SLOWEST_FIRST = (
    "test_tasks",
    "test_events",
    "test_subprocess",
    "test_ssl",
    "test_taskgroups",
    "test_sslproto",
)


def chosen_modes() -> tuple[str, ...]:
    """``tests/conformance/run`` has all of them run; elsewhere two, which take a minute each, are left to it."""
    return MODES if os.environ.get("SIDECAR_CONFORMANCE_EVERY_MODE") else ("driven",)


def folder_of_tests() -> str | None:
    """What must be on the path besides the standard library: where that has no tests, or not all of them."""
    return os.environ.get("SIDECAR_TEST_CPYTHON") or None


def find_suites() -> Path | None:
    """The folder of ``test.test_asyncio``; ``None`` where this interpreter came without."""
    given = folder_of_tests()
    if given is not None:
        return Path(given) / "test" / "test_asyncio"
    try:
        spec = importlib.util.find_spec("test.test_asyncio")
    except ModuleNotFoundError:
        spec = None
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) if places else None


def _exists(module: str, tests: Path) -> bool:
    top, name = module.split(".test.", 1) if module.startswith("unittest.") else module.split(".", 1)
    root = tests if top == "test" else Path(unittest.__file__).parent / "test"
    return (root / name.replace(".", "/")).with_suffix(".py").exists()


def modules() -> list[str]:
    """All that are to run on this interpreter, those that take long first. None where it came without tests."""
    suites = find_suites()
    if suites is None:
        return []
    names = sorted(path.stem for path in suites.glob("test_*.py") if path.stem not in LEFT_OUT)
    names.sort(key=lambda name: name not in SLOWEST_FIRST)
    return [f"test.test_asyncio.{name}" for name in names] + [name for name in OTHERS if _exists(name, suites.parent)]


def version() -> tuple[int, int, int]:
    return sys.version_info[:3]
