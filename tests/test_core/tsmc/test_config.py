"""The settings of TRI-TSMC."""

import math

import pytest
from mmd_pack.mmd_core.tsmc import TSMCConfig


@pytest.mark.parametrize(
    "setting",
    [
        {"particles": 1}, {"iterations": -1}, {"kl_budget": 0.0}, {"kl_budget": -1.0},
        {"kl_budget": math.log(16)}, {"particles": 4, "kl_budget": 1.5}, {"kl_budget": math.nan},
        {"reward_scale": -1.0}, {"reward_scale": math.inf}, {"reward_scale": math.nan},
        {"feature": "Gradient"}, {"time_blocks": 0}, {"eta": 0.0}, {"eta": 1.5}, {"eta": math.nan},
        {"theta_prior_sd": 0.0}, {"theta_prior_sd": math.nan}, {"max_total_kl": 0.0},
        {"max_total_kl": math.nan},
    ],
    ids=str,
)  # fmt: skip
def test_a_number_out_of_range_is_named(setting):
    with pytest.raises(ValueError, match=list(setting)[-1]):
        TSMCConfig(**setting)


def test_too_large_a_budget_names_its_limit():
    with pytest.raises(ValueError, match=r"kl_budget .* log\(particles\) = 2\.08, not 3"):
        TSMCConfig(8, kl_budget=3.0)


def test_how_many_paths_and_parameters():
    config = TSMCConfig(16, 3, time_blocks=2)
    assert config.paths == 64
    assert config.max_time_blocks == 2
    assert TSMCConfig(8, 1).max_time_blocks == 1
