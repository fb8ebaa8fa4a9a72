"""The ownership protocol, model-checked: every configuration holds, and every seeded fault is found."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Union

import pytest
from model import checker

MISSING = checker.missing_tools()

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"the model checker needs {' and '.join(MISSING)}")


Check = Union[checker.Configuration, checker.Mutation]
Answer = Callable[[Check], checker.Result]


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Nothing of ours runs in this process; the checks run in theirs, while other tests of this file wait."""


@pytest.fixture(scope="module")
def answer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answer]:
    """What one check came to. All are begun at the first question, as many at once as there are processors."""
    items = [item for item in request.session.items if item.module is request.module and hasattr(item, "callspec")]
    chosen: list[Check] = [next(iter(item.callspec.params.values())) for item in items]

    def check(each: Check, folder: Path) -> checker.Result:
        configuration = checker.mutated(each) if isinstance(each, checker.Mutation) else each
        return checker.check(configuration, folder, 150.0)

    with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as executor:
        running = {id(each): executor.submit(check, each, tmp_path_factory.mktemp("model")) for each in chosen}
        yield lambda each: running[id(each)].result()
        executor.shutdown(cancel_futures=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("configuration", checker.configurations("small"), ids=lambda each: each.name)
def test_the_protocol_holds(configuration: checker.Configuration, answer: Answer) -> None:
    result = answer(configuration)
    assert checker.verdict(configuration, result) == "ok", result.output
    assert result.states > 1000, "the checker has looked at next to nothing"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutation", checker.mutations(), ids=lambda each: each.fault)
def test_a_fault_is_found(mutation: checker.Mutation, answer: Answer) -> None:
    result = answer(mutation)
    assert checker.verdict(checker.mutated(mutation), result, mutation.expected) == "ok", result.output


def test_every_fault_of_the_model_is_listed() -> None:
    listed = {mutation.fault for mutation in checker.mutations()}
    seeded = {word for word in checker.MODEL.read_text().split() if word.startswith("FAULT_") and word != "FAULT_...,"}
    assert listed == seeded
