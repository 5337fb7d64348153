"""Steering on digits in a real ComfyUI, on few seeds; the whole study is `python tests/studies/steering/digits.py`."""

import pytest
import torch
from mmd_pack.nodes.tsmc.tsmc_init import TSMCInit
from mmd_pack.nodes.tsmc.tsmc_propose import TSMCPropose
from mmd_pack.nodes.tsmc.tsmc_select import TSMCSelect
from mmd_pack.nodes.tsmc.tsmc_update import TSMCUpdate
from mmd_tests.studies.steering.digits_chain import DigitsChain
from mmd_tests.studies.steering.digits_figures import WANTED_BY, of_samples, truth_of
from mmd_tests.studies.steering.digits_methods import (
    best_of_n,
    fk_steering,
    plain_smc,
    scores_of,
    tri_tsmc,
)
from mmd_tests.studies.steering.digits_report import bars, table
from mmd_tests.studies.steering.digits_rewards import ClassReward, reference_reward, second_judge

pytestmark = pytest.mark.comfy

SEEDS = (6950, 6951)
TRUTH = 800
STEPS = 20


def close(found, expected):
    """Equal but for the rounding of the network, which differs with the size of a batch."""
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def chain():
    return DigitsChain(STEPS)


@pytest.fixture(scope="module")
def unsteered(chain):
    return chain.unsteered(1, TRUTH)


@pytest.fixture(scope="module", params=["class", "witness"])
def runs(chain, unsteered, request):
    """Of each seed: the truth, the state, and what TRI-TSMC and best of n found."""
    found = []
    for seed in SEEDS:
        reward = ClassReward() if request.param == "class" else reference_reward(seed)
        tri, state = tri_tsmc(chain, seed, reward)
        found.append((truth_of(state, unsteered), state, tri, best_of_n(chain, seed, state)))
    return found


def test_both_begin_with_the_same_paths_and_cost_the_same(chain, runs):
    for (_, state, tri, best), seed in zip(runs, SEEDS, strict=True):
        first = state.learning.counts[0]
        close(state.samples[:first], chain.unsteered(seed, 64)[:first])
        close(tri.rewards[:first], best.rewards[:first])
        assert tri.estimates == best.estimates == state.cost.estimates == 64 * STEPS
        assert tri.reward_calls == best.reward_calls == 64


def test_images_please_the_reward_more_than_the_best_of_as_many(runs):
    gains = []
    for truth, state, tri, best in runs:
        ours, theirs = (scores_of(state, each.given["best"]).mean().item() for each in (tri, best))
        gains.append(truth.unit(ours) - truth.unit(theirs))
    assert sum(gains) / len(gains) > 0.05, gains


def test_estimates_are_near_the_truth(runs):
    for truth, _, tri, best in runs:
        for found in (tri, best):
            assert abs(found.log_z - truth.log_z) < 1.2
            assert abs(truth.unit(found.mean) - truth.mean) < 1


def test_methods_that_duplicate_estimate_the_same(chain, runs):
    truth, state, _, _ = runs[0]
    for found in (fk_steering(chain, state), plain_smc(chain, state)):
        assert abs(found.log_z - truth.log_z) < 1.5
        assert found.estimates == 64 * STEPS


def test_the_chain_of_nodes_does_what_the_sampler_does(chain):
    given = chain.inputs(SEEDS[0])
    guider, reward = given.pop("guider"), ClassReward()
    state = TSMCInit.execute(
        **given, particles=16, iterations=3, reward_scale=2.0, standardize_reward=True, feature="auto", micro_batch=0
    )[0]  # fmt: skip
    for _ in range(3):
        latent, state = TSMCPropose.execute(state, guider).result
        scores = reward.value(reward.vae.decode(latent["samples"])).tolist()
        state = TSMCUpdate.execute([state], scores=scores)[0]
    best, weights, log_z, _, _ = TSMCSelect.execute(state, "best", 16).result
    expected, same = tri_tsmc(chain, SEEDS[0], reward)
    close(best["samples"], expected.given["best"])
    assert log_z == pytest.approx(expected.log_z, abs=1e-3)
    assert weights == pytest.approx(same.learning.weights.tolist(), rel=1e-2, abs=1e-4)


def test_figures_separate_wanted_images_from_others(chain, unsteered):
    assert second_judge().accuracy > 0.97
    reward = ClassReward()
    _, state = tri_tsmc(chain, SEEDS[0], reward)
    truth = truth_of(state, unsteered)
    order = truth.rewards.argsort(descending=True)
    high, low = (
        of_samples(chain, unsteered[part], truth.rewards[part], truth, WANTED_BY["class"])
        for part in (order[:16], order[-16:])
    )
    assert high["wanted"] > 0.8 and low["wanted"] < 0.2
    assert high["reward"] > 1 > low["reward"]
    twice = unsteered[order[:8]].repeat(2, 1, 1, 1)
    again = of_samples(
        chain, twice, truth.rewards[order[:8]].repeat(2), truth, WANTED_BY["witness"]
    )
    assert again["distinct"] == 8 and again["vendi"] < 8
    assert again["wanted"] > 0.9  # no 5 is a 3, an 8 or a 1


def test_report_names_the_bars_that_are_met():
    rows = [
        {"world": "class", "method": method, "reward": reward + seed, "best": 2.0, "wanted": 0.5,
         "confidence": 0.9 - reward / 100, "vendi": 2.0, "distinct": 16, "log Z": error, "mean": 0.1, "ess": 8.0,
         "reward calls": 64}
        for seed in (0, 1)
        for method, reward, error in (("best of 64: best", 1.0, 0.4), ("TRI-TSMC: best", 1.5, 0.3))
    ]  # fmt: skip
    assert "| TRI-TSMC: best | 2.00 ± 0.71 |" in table(rows, "class")
    reward, confidence, log_z = bars(rows, "class").splitlines()
    assert "**not met**" not in reward and "+0.500" in reward
    assert "**not met**" in confidence and "**not met**" in log_z and "ratio 0.75" in log_z
