"""Other projects' own tests, unchanged, with their names redirected to ``sidecar.compat``."""

from __future__ import annotations

import sys

import pytest
from compat import suite, table
from compat.project import Project, projects

PYTHON = "{}.{}".format(*sys.version_info[:2])


@pytest.mark.timeout(900)
@pytest.mark.parametrize("project", [pytest.param(each, id=name) for name, each in projects().items()])
def test_project(project: Project) -> None:
    if PYTHON not in project.pythons:
        pytest.skip(f"{project.name} is not for this Python, or not checked on it")
    verdict = suite.run(project, PYTHON)
    table.verdicts.append(verdict)
    if verdict.failures:
        pytest.fail("\n\n".join(verdict.failures), pytrace=False)
