"""Nothing that Sidecar does leaves a reference, a block, a descriptor or a thread behind.

Each scenario of the modules below is repeated as ``measure.py``
says; one interpreter for each module.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from leaks import measure

TESTS = Path(__file__).resolve().parent.parent
# pytest notes each test in os.environ, while the modules are measured in threads.
ENVIRONMENT = dict(os.environ)
DEBUG = hasattr(sys, "gettotalrefcount")


Found = tuple[dict[str, dict[str, Any]], str]


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Nothing of ours runs in this process; the modules are measured in theirs, while other tests of this file wait."""


def measure_module(module: str) -> Found:
    """What each scenario of a module has left, and what was said meanwhile."""
    paths = [str(TESTS), *filter(None, [ENVIRONMENT.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "leaks.measure", module],
        env={**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    found = {entry["name"]: entry for entry in map(json.loads, done.stdout.splitlines())}
    return found, f"ended with {done.returncode}\n{done.stderr}"


@pytest.fixture(scope="module")
def measured(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Found]]:
    """All modules that were chosen are begun at the first question, as many at once as there are processors."""
    items = [item for item in request.session.items if item.module is request.module and hasattr(item, "callspec")]
    chosen = dict.fromkeys(item.callspec.params["module"] for item in items if "module" in item.callspec.params)
    if not has_compiler():
        chosen.pop("capi", None)
    with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as executor:
        running = {module: executor.submit(measure_module, module) for module in chosen}
        yield lambda module: running[module].result()
        executor.shutdown(cancel_futures=True)


def has_compiler() -> bool:
    return bool(shutil.which("gcc") or shutil.which("cc"))


def names(module: str) -> list[str]:
    """The scenarios, read from the file: importing it would start what it measures."""
    lines = (TESTS / "leaks" / f"{module}.py").read_text().splitlines()
    return [
        line[4:].split("(")[0] for before, line in zip(lines, lines[1:]) if before.startswith("@scenario(")
    ]


MODULES = ("calls", "loops", "bridges", "capi", "streams", "entries", "scopes", "synchronizers")


@pytest.mark.timeout(420)
@pytest.mark.parametrize(("module", "name"), [(module, name) for module in MODULES for name in names(module)])
def test_nothing_is_left(module, name, measured):
    if module == "capi" and not has_compiler():
        pytest.skip("no compiler: gcc or cc")
    found, said = measured(module)
    assert name in found, said
    assert not found[name]["leaks"], f"{found[name]}\n{said}"


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_said(module, measured):
    if module == "capi" and not has_compiler():
        pytest.skip("no compiler: gcc or cc")
    found, said = measured(module)
    assert said == "ended with 0\n", said
    assert sorted(found) == sorted(names(module))


def test_the_measure_sees_a_leak():
    found, said = measure_module("known")
    leaks = {name: sorted(entry["leaks"]) for name, entry in found.items()}
    every = ["references"] if DEBUG else []
    assert leaks == {
        "an_object": ["blocks", *every],
        "a_reference": every,
        "a_descriptor": ["descriptors"],
        "nothing": [],
    }, said


@pytest.mark.skipif(not DEBUG, reason="references are counted by debug builds only")
def test_the_extension_counts_its_references():
    """Built with another configuration than the interpreter's, it does not, and nothing is measured.

    It gives out a reference, and the interpreter drops it: the total must not move.
    """
    import sidecar

    with sidecar.Sidecar() as bridge:
        for _ in range(10):
            bridge.get_loop()
        before = sys.gettotalrefcount()
        for _ in range(1000):
            bridge.get_loop()
        assert abs(sys.gettotalrefcount() - before) < 100


def test_the_measure_is_the_best_there_is():
    assert ("references" in measure.MEASURES) == DEBUG
