"""A Synchronizer's faces all at once, by fixed seeds: every call's own result, every body ended once."""

from __future__ import annotations

import os

import pytest
from stress.runner import run_storm

SECONDS = float(os.environ.get("SIDECAR_STRESS_SECONDS", "2"))


@pytest.mark.timeout(int(SECONDS) + 240)
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_every_call_and_every_body_is_accounted_for(seed):
    result = run_storm("synchronizer_storm", seed, SECONDS)
    assert not result.trouble, str(result)
    outcomes = result.account["outcomes"]
    # Not a lull: calls came to their ends and were cut short, and it was closed under them.
    assert result.account["calls"] > 10 * SECONDS and result.account["runs"] > 0, str(result)
    assert {"begun rows", "begun stay", "begun work"} <= set(outcomes), str(result)
    assert any("CancelledError" in each for each in outcomes) and any("done" in each for each in outcomes), str(result)
