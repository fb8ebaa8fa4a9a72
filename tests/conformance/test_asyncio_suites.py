"""CPython's own tests of asyncio, against our loop: run as any loop, and driven by callers."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Iterator

import pytest
from conformance import catalogue, suites, table
from conformance.not_applicable import ENTRIES

if catalogue.find_suites() is None:
    pytest.skip("this CPython came without its own tests (test.test_asyncio)", allow_module_level=True)

Answer = Callable[[str, str], suites.Verdict]


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Nothing of ours runs in this process; the suites run in theirs, while other tests of this file wait."""


@pytest.fixture(scope="module")
def answer(request: pytest.FixtureRequest) -> Iterator[Answer]:
    """What one suite came to. They are all begun at the first question, as many at once as there are processors."""
    chosen = [
        (item.callspec.params["mode"], item.callspec.params["module"])
        for item in request.session.items
        if item.module is request.module and hasattr(item, "callspec")
    ]
    with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as executor:
        running = {each: executor.submit(suites.run, *each) for each in chosen}
        yield lambda mode, module: running[mode, module].result()
        executor.shutdown(cancel_futures=True)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("module", catalogue.modules())
@pytest.mark.parametrize("mode", catalogue.chosen_modes())
def test_suite(mode: str, module: str, answer: Answer) -> None:
    verdict = answer(mode, module)
    table.verdicts.append(verdict)
    if verdict.failures:
        pytest.fail("\n".join(verdict.failures), pytrace=False)
    if not verdict.passed:
        pytest.skip(f"CPython skips all of it: {', '.join(verdict.skipped)}")


def test_the_list_names_modules_that_are_run() -> None:
    names = {module.rsplit(".", 1)[1] for module in (*catalogue.modules(), *catalogue.OTHERS)}
    for entry in ENTRIES:
        if entry.is_for_version(catalogue.version()):
            assert entry.modules() <= names, f"nothing runs {entry.modules() - names}"


def test_what_is_left_out_is_no_mistake() -> None:
    suites_folder = catalogue.find_suites()
    assert suites_folder is not None
    there = {path.stem for path in suites_folder.glob("test_*.py")}
    assert there & set(catalogue.LEFT_OUT)
    assert {module.rsplit(".", 1)[1] for module in catalogue.modules()} | set(catalogue.LEFT_OUT) >= there
