"""Streams in every way at once, by fixed seeds: every item in its place, every generator closed once."""

from __future__ import annotations

import os

import pytest
from stress.runner import run_storm

SECONDS = float(os.environ.get("SIDECAR_STRESS_SECONDS", "2"))


@pytest.mark.timeout(int(SECONDS) + 240)
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_every_item_and_every_close_is_accounted_for(seed):
    result = run_storm("stream_storm", seed, SECONDS)
    assert not result.trouble, str(result)
    outcomes = result.account["outcomes"]
    # Not a lull: each way of consuming was gone, to its end and cut short.
    assert result.account["calls"] > 10 * SECONDS and result.account["runs"] > 0, str(result)
    ways = {key.split()[1] for key in outcomes if key.startswith("outcome ")}
    assert len(ways) == 6 and outcomes["items"] > 0, str(result)
