"""Other projects' own tests, unchanged, with their names redirected to ``sidecar.compat``."""

from __future__ import annotations

import concurrent.futures
import os
import sys
from collections.abc import Callable, Iterator

import pytest
from compat import suite, table
from compat.project import Project, projects

PYTHON = "{}.{}".format(*sys.version_info[:2])


EVERY = bool(os.environ.get("SIDECAR_COMPAT_EVERY_PROJECT"))


def why_not(project: Project) -> str | None:
    if PYTHON not in project.pythons:
        return f"{project.name} is not for this Python, or not checked on it"
    return f"{project.name} takes long: tests/compat/run" if project.takes_long and not EVERY else None


Answer = Callable[[Project], suite.Verdict]


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Nothing of ours runs in this process; the suites run in theirs, while other tests of this file wait."""


@pytest.fixture(scope="module")
def answer(request: pytest.FixtureRequest) -> Iterator[Answer]:
    """What a project's tests came to. They are all begun at the first question."""
    items = [item for item in request.session.items if item.module is request.module]
    chosen = [item.callspec.params["project"] for item in items if hasattr(item, "callspec")]
    with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as executor:
        running = {each.name: executor.submit(suite.run, each, PYTHON) for each in chosen if not why_not(each)}
        yield lambda project: running[project.name].result()
        executor.shutdown(cancel_futures=True)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("project", [pytest.param(each, id=name) for name, each in projects().items()])
def test_project(project: Project, answer: Answer) -> None:
    reason = why_not(project)
    if reason:
        pytest.skip(reason)
    verdict = answer(project)
    table.verdicts.append(verdict)
    if verdict.failures:
        pytest.fail("\n\n".join(verdict.failures), pytrace=False)
