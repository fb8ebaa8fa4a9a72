"""Nothing that Sidecar does leaves a reference, a block, a descriptor or a thread behind.

Each scenario of the modules below is repeated as ``measure.py``
says; one interpreter for each module.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from leaks import measure

TESTS = Path(__file__).resolve().parent.parent
DEBUG = hasattr(sys, "gettotalrefcount")


@functools.cache
def measured(module: str) -> tuple[dict[str, dict[str, Any]], str]:
    """What each scenario of a module has left, and what was said meanwhile."""
    if module == "capi" and not (shutil.which("gcc") or shutil.which("cc")):
        pytest.skip("no compiler: gcc or cc")
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "leaks.measure", module],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    found = {entry["name"]: entry for entry in map(json.loads, done.stdout.splitlines())}
    return found, f"ended with {done.returncode}\n{done.stderr}"


def names(module: str) -> list[str]:
    """The scenarios, read from the file: importing it would start what it measures."""
    lines = (TESTS / "leaks" / f"{module}.py").read_text().splitlines()
    return [
        line[4:].split("(")[0] for before, line in zip(lines, lines[1:]) if before.startswith("@scenario(")
    ]


MODULES = ("calls", "loops", "bridges", "capi", "streams", "entries", "scopes", "synchronizers")


@pytest.mark.timeout(420)
@pytest.mark.parametrize(("module", "name"), [(module, name) for module in MODULES for name in names(module)])
def test_nothing_is_left(module, name):
    found, said = measured(module)
    assert name in found, said
    assert not found[name]["leaks"], f"{found[name]}\n{said}"


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_said(module):
    found, said = measured(module)
    assert said == "ended with 0\n", said
    assert sorted(found) == sorted(names(module))


def test_the_measure_sees_a_leak():
    found, said = measured("known")
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
