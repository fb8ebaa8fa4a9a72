"""The projects whose names ``sidecar.compat`` has: where their tests are, what these need, what is left out."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).with_name("projects")


@dataclass(frozen=True)
class Excluded:
    """Tests that do not run, and why.

    tests: a file or the id of a test inside the source distribution, which is left out with all that is in it; or,
        after a "*", a part of ids.
    reason: why it says nothing of public behaviour that is ours to have.
    pythons: where; by default everywhere.
    may_lack: it does not exist in each of the project's releases that are run.
    """

    tests: str
    reason: str
    pythons: tuple[str, ...] = ()
    may_lack: bool = False

    def is_for(self, python: str) -> bool:
        return not self.pythons or python in self.pythons


@dataclass(frozen=True)
class Project:
    """A project and its tests.

    name: what reports call it.
    sdist: its source distribution, as pip takes it: "asgiref==3.9.1".
    redirect: names of modules that are ours while its tests run, with their submodules.
    pythons: where it is run.
    needs: what its tests need beside itself, as pip takes it.
    tests: paths in the source distribution, given to pytest.
    arguments: further ones for pytest.
    excluded: what is left out.
    older: the source distribution for Pythons that its newest release refuses.
    also: files of the source distribution that its tests read, beside ``tests``.
    environment: variables that its tests need.
    takes_long: its tests, or what they need to be installed; left to ``tests/compat/run``.
    """

    name: str
    sdist: str
    redirect: Mapping[str, str]
    pythons: tuple[str, ...]
    needs: tuple[str, ...]
    tests: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    excluded: tuple[Excluded, ...] = ()
    older: Mapping[str, str] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    takes_long: bool = False

    def sdist_for(self, python: str) -> str:
        return self.older.get(python, self.sdist)

    def excluded_for(self, python: str) -> tuple[Excluded, ...]:
        return tuple(each for each in self.excluded if each.is_for(python))


def projects() -> dict[str, Project]:
    """All of them, by the names of their files."""
    found = {}
    for path in sorted(FOLDER.glob("[a-z]*.py")):
        module = importlib.import_module(f"compat.projects.{path.stem}")
        project = module.PROJECT
        assert isinstance(project, Project), path
        found[path.stem] = project
    return found
