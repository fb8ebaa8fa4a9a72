"""Check the model of the ownership protocol with SPIN: its configurations, and the faults it must find.

``tests/model/run`` prints what ``test_model.py`` asserts.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
MODEL = HERE / "ownership.pml"

MEGABYTES = 2048
DEPTH = 2_000_000
# The passes left out take minutes on SPIN's two functions; without any, it checks half as fast.
OPTIMISED = ["-O2", "-fno-tree-pre", "-fno-gcse", "-fno-tree-vrp"]
# How a configuration is checked: the compiler's options, and the checker's.
WAYS = {
    # With no state marked as progress, every endless run is an error.
    "full": (["-DNP", "-DCOLLAPSE"], ["-l"]),
    "states": (["-DSAFETY", "-DCOLLAPSE"], []),
    "bits": (["-DSAFETY", "-DBITSTATE"], ["-w32", "-k3", "-Q1"]),  # a minute of it
}


class Configuration(NamedTuple):
    name: str
    size: str
    how: str
    definitions: list[str]


class Mutation(NamedTuple):
    fault: str
    configuration: str
    how: str
    expected: str  # part of the error's text, or "harmless"


class Result(NamedTuple):
    error: str  # empty: none was found
    complete: bool  # nothing was cut off: depth, memory, time
    states: int
    depth: int
    seconds: float
    output: str


def _rows(name: str) -> list[list[str]]:
    lines = (HERE / name).read_text().splitlines()
    return [[cell.strip() for cell in line.split("|")] for line in lines if line.strip() and line[0] != "#"]


def configurations(*sizes: str) -> list[Configuration]:
    rows = _rows("configurations.txt")
    return [Configuration(name, size, how, words.split()) for name, size, how, words in rows if size in sizes]


def mutations() -> list[Mutation]:
    return [Mutation(*row) for row in _rows("mutations.txt")]


def mutated(mutation: Mutation) -> Configuration:
    """The configuration that shows the fault, with the fault in it."""
    base = next(each for each in configurations("small", "large") if each.name == mutation.configuration)
    return Configuration(mutation.fault, "small", mutation.how, [*base.definitions, f"-D{mutation.fault}"])


def missing_tools() -> list[str]:
    return [tool for tool in ("spin", "cc") if shutil.which(tool) is None]


def check(configuration: Configuration, folder: Path, seconds: float, optimised: bool = False) -> Result:
    """Have SPIN make the checker in ``folder``, compile it, and run it for ``seconds`` at most."""
    compile_options, options = WAYS[configuration.how]
    _must("spin", "-a", *configuration.definitions, str(MODEL), folder=folder)
    _must(
        "cc", "-w", *(OPTIMISED if optimised else ["-O0"]), f"-DMEMLIM={MEGABYTES}", "-DVECTORSZ=1024", "-DNOFAIR",
        *compile_options, "-o", "pan", "pan.c", folder=folder,
    )  # fmt: skip
    begun = time.monotonic()
    try:
        run = subprocess.run(
            ["./pan", f"-m{DEPTH}", "-n", *options],
            cwd=folder, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as expired:
        output = (expired.stdout or b"").decode() if isinstance(expired.stdout, bytes) else ""
        return Result("", False, 0, 0, time.monotonic() - begun, f"{output}\nnot done in {seconds:g} s")
    return _parse(run.stdout + run.stderr, time.monotonic() - begun, configuration.how == "bits")


def _must(*command: str, folder: Path) -> None:
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    if run.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{run.stdout}{run.stderr}")


def _parse(output: str, seconds: float, in_part: bool) -> Result:
    found = re.search(r"^pan:\d+: (.*?) ?\(at depth \d+\)", output, re.M)
    cut = re.search(r"max search depth too small|out of memory|Search not completed", output)
    numbers = re.search(r"depth reached (\d+), errors: (\d+)", output)
    states = re.search(r"^\s*(\d[\d.e+]*) states, stored", output, re.M)
    error = found.group(1) if found else ""
    complete = numbers is not None and (bool(error) or in_part or cut is None)
    if numbers is not None and int(numbers.group(2)) > 0 and not error:
        error = "an error without a text"
    return Result(
        error, complete, int(float(states.group(1))) if states else 0,
        int(numbers.group(1)) if numbers else 0, seconds, output,
    )  # fmt: skip


def verdict(configuration: Configuration, result: Result, expected: str = "harmless") -> str:
    """``ok``, or what is wrong."""
    if not result.complete:
        return "not finished: time, memory or depth ran out"
    if expected == "harmless":
        return f"error: {result.error}" if result.error else "ok"
    if not result.error:
        return "the fault was not found"
    return "ok" if expected in result.error else f"another error than {expected!r}: {result.error}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/model/run", description="Model-check the ownership protocol.")
    parser.add_argument("--large", action="store_true", help="the large configurations (15 minutes), not the small")
    parser.add_argument("names", nargs="*", help="only these configurations or faults")
    options = parser.parse_args()
    if missing_tools():
        print(f"missing: {', '.join(missing_tools())} (apt-get install spin build-essential)", file=sys.stderr)
        return 1
    jobs = [(each, "harmless") for each in configurations("large" if options.large else "small")]
    if not options.large:
        jobs += [(mutated(each), each.expected) for each in mutations()]
    wrong = 0
    print(f"{'configuration or fault':36} {'states':>11} {'depth':>6} {'s':>6}  result", flush=True)
    for configuration, expected in jobs:
        if options.names and configuration.name not in options.names:
            continue
        with tempfile.TemporaryDirectory(prefix="sidecar-model-") as folder:
            result = check(configuration, Path(folder), 600.0 if options.large else 120.0, options.large)
        said = verdict(configuration, result, expected)
        wrong += said != "ok"
        if said == "ok" and result.error:
            said = f"found: {result.error}"
        print(f"{configuration.name:36} {result.states:11,} {result.depth:6} {result.seconds:6.1f}  {said}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
