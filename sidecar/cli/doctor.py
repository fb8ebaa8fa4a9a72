"""``python -m sidecar doctor``: what Sidecar finds here, and what of it does not work or works in part."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import sidecar
from sidecar import _options
from sidecar._option_table import TABLE, nearest
from sidecar.cpu.pick import check, count_cpus, pick
from sidecar.cpu.python import find_python

__all__ = ["add_arguments", "run"]

# By distribution: whether it lets a client that goes be noticed while its request waits. (docs/guide/deadlines.md)
_SERVERS = {
    "uwsgi": "yes, with plugin = sidecar; no by the middleware alone",
    "gunicorn": "yes, sync and gthread",
    "werkzeug": "yes, its own server",
    "waitress": "no: it shows no descriptor, only a function to ask",
    "granian": "WSGI no: the connection belongs to its Rust half; ASGI yes, where the application receives",
    "uvicorn": "yes, where the application receives",
    "hypercorn": "yes, where the application receives",
    "daphne": "yes, where the application receives",
}
_CPU_HELPERS = {
    "cloudpickle": "not installed: no lambdas and closures in processes and interpreters",
    "distributed": "not installed: no clusters of Dask's",
    "tqdm": "not installed: no bar for map(progress=True)",
}
_PREFIX = "SIDECAR_"

# What is wrong, if anything is, begins with this.
_BAD = "WRONG"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "The exit status is 1 where something is wrong."


def run(arguments: argparse.Namespace) -> int:
    wrong = False
    for title, rows in (
        ("interpreter", _interpreter()),
        ("options", _environment(os.environ)),
        ("run_cpu", _cpu(os.environ)),
        ("is a client that goes noticed?", _servers()),
        ("traces", _traces()),
    ):
        found = list(rows)
        width = max(len(name) for name, _ in found)
        print(title)
        for name, text in found:
            print(f"  {name:<{width}}  {text}".rstrip())
            wrong = wrong or text.startswith(_BAD)
    return 1 if wrong else 0


def _interpreter() -> Iterator[tuple[str, str]]:
    locked = getattr(sys, "_is_gil_enabled", lambda: True)()
    yield "Python", f"{platform.python_implementation()} {platform.python_version()}, {'with' if locked else 'no'} GIL"
    yield "Sidecar", f"{sidecar.__version__} in {Path(sidecar.__file__).parent}"
    yield "processors", str(len(os.sched_getaffinity(0)))


def _environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The variables that are set, each read by itself: one that is wrong hides no other."""
    found = {name: text for name, text in sorted(environ.items()) if name.startswith(_PREFIX)}
    if not found:
        yield "(none is set)", f"{_PREFIX}... in the environment"
    for name, text in found.items():
        yield name, _judge(name, text)


def _judge(name: str, text: str) -> str:
    option = next((option for option in TABLE if option.variable == name), None)
    if option is None:
        meant = nearest(name, _options.VARIABLES)
        return f"{_BAD}: no option of Sidecar's; {meant}?" if meant else "no option of Sidecar's"
    try:
        _options.take(option, name, text)
    except ValueError as error:
        return f"{_BAD}: {error}"
    return option.show(text) if option.secret else text


def _cpu(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The engine that the environment's options ask for, why it is that one, and what it needs."""
    try:
        options = _options.bridge_options(environ)
        cpu, workers = options.get("cpu", "auto"), options.get("cpu_workers")
        check(cpu)
        choice = pick(cpu)
    except (ValueError, TypeError, sidecar.CpuEngineError) as error:
        yield "engine", f"{_BAD}: {error}"
        return
    yield "engine", f"{choice.kind} ({choice.reason})"
    yield "at a time", str(count_cpus() if workers is None else workers)
    yield "worker processes", _python()
    for distribution, text in _CPU_HELPERS.items():
        yield distribution, _version(distribution) or text


def _python() -> str:
    try:
        return f"run by {find_python(sys.executable)}"
    except sidecar.CpuEngineError as error:
        return f"{_BAD}: {error}"


def _servers() -> Iterator[tuple[str, str]]:
    found = {name: _version(name) for name in _SERVERS}
    if not any(found.values()):
        yield "(no server is installed)", ""
    for name, number in found.items():
        if number is not None:
            yield f"{name} {number}", _SERVERS[name]


def _traces() -> Iterator[tuple[str, str]]:
    found = _version("opentelemetry-api")
    if found is None:
        yield "OpenTelemetry", "not installed: the request's own trace is sent on"
    else:
        yield "OpenTelemetry", f"{found}: its context is used where something has imported it"


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
