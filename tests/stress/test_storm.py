"""Everything at once, by fixed seeds and for a fixed time: at the end every call is accounted for.

``SIDECAR_STRESS_SECONDS`` is the time each seed gets; ``tests/stress/run`` is the long form.
"""

from __future__ import annotations

import os

import pytest
from stress.plan import CREWS, plan
from stress.runner import run_storm

SECONDS = float(os.environ.get("SIDECAR_STRESS_SECONDS", "2"))


@pytest.mark.timeout(int(SECONDS) + 240)
@pytest.mark.parametrize("seed", range(1, 1 + len(CREWS)))
def test_every_call_on_a_bridge_is_accounted_for(seed):
    result = run_storm("storm", seed, SECONDS)
    assert not result.trouble, str(result)
    kinds = result.account["kinds"]
    # Not a lull: each seed's main thread alone gets through some of its round.
    assert result.account["calls"] > 20 * SECONDS, str(result)
    assert sum(n for key, n in kinds.items() if key.startswith("issued")) == result.account["calls"]
    assert sum(result.account["outcomes"].values()) == result.account["calls"]


@pytest.mark.timeout(int(SECONDS) + 240)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_callback_on_a_plain_loop_is_accounted_for(seed):
    result = run_storm("loop_storm", seed, SECONDS * 0.7)
    assert not result.trouble, str(result)
    assert result.account["runs"] > 1 and result.account["signals"] > 1, str(result)


def test_a_seed_makes_one_plan():
    assert plan(7) == plan(7) != plan(8)
    crews = {len(plan(seed).callers) for seed in range(1, 1 + len(CREWS))}
    assert crews == set(CREWS)
