"""The ownership protocol, model-checked: every configuration holds, and every seeded fault is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from model import checker

MISSING = checker.missing_tools()

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"the model checker needs {' and '.join(MISSING)}")


@pytest.mark.timeout(200)
@pytest.mark.parametrize("configuration", checker.configurations("small"), ids=lambda each: each.name)
def test_the_protocol_holds(configuration: checker.Configuration, tmp_path: Path) -> None:
    result = checker.check(configuration, tmp_path, 150.0)
    assert checker.verdict(configuration, result) == "ok", result.output
    assert result.states > 1000, "the checker has looked at next to nothing"


@pytest.mark.parametrize("mutation", checker.mutations(), ids=lambda each: each.fault)
def test_a_fault_is_found(mutation: checker.Mutation, tmp_path: Path) -> None:
    result = checker.check(checker.mutated(mutation), tmp_path, 100.0)
    assert checker.verdict(checker.mutated(mutation), result, mutation.expected) == "ok", result.output


def test_every_fault_of_the_model_is_listed() -> None:
    listed = {mutation.fault for mutation in checker.mutations()}
    seeded = {word for word in checker.MODEL.read_text().split() if word.startswith("FAULT_") and word != "FAULT_...,"}
    assert listed == seeded
