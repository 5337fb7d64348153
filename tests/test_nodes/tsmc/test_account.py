"""The report of a run of TRI-TSMC: each problem has its remark with a fix, and only then."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from mmd_pack.mmd_core.tsmc import Learning, TSMCConfig, transitions
from mmd_pack.nodes.tsmc.run.account import remarks, result_line, run_report
from mmd_pack.nodes.tsmc.run.state import planned_state
from mmd_tests.support.tsmc_runs import learned_state

pytestmark = pytest.mark.comfy

SIZE = 16


def state_of(rewards=None, h=None, H=None, passes=3, theta=None, latent=None, **changed):
    """A state after some batches of made-up paths, p = 1."""
    config = TSMCConfig(**changed)
    random = torch.Generator().manual_seed(1)
    steps = transitions([10.0, 3.0, 1.0, 0.3, 0.0])
    learning = None
    for i in range(passes):
        scores = torch.randn(SIZE, generator=random).double() if rewards is None else rewards(i)
        ours = torch.full((SIZE, 1), 0.3).double() if h is None else h(i)
        square = torch.full((SIZE, 1, 1), 0.5).double() if H is None else H
        learn = partial(Learning.piloted, config) if learning is None else learning.learned
        learning = learn(ours, square, scores)
        if theta is not None:
            learning = replace(learning, theta=torch.tensor([theta(i)]).double())
    return learned_state(learning, steps, latent)


def shorts(state) -> list[str]:
    return [remark.short for remark in remarks(state)]


def test_a_good_run_has_no_remarks():
    assert shorts(state_of(reward_scale=1.0)) == []


def spread(i):
    return torch.arange(SIZE).double()


CASES = {
    "one image counts": {"rewards": lambda i: torch.eye(SIZE)[0].double() * (i + 1), "reward_scale": 30.0},
    "steps stay small": {"rewards": spread, "reward_scale": 60.0, "kl_budget": 0.05},
    "no direction": {"theta": lambda i: (-1.0) ** i},
    "at the limit": {"H": torch.full((SIZE, 1, 1), 40.0).double()},
    "far from the model": {
        "max_total_kl": 0.2, "H": torch.full((SIZE, 1, 1), 4.0).double(), "theta": lambda i: 0.3155
    },
    "hardly steered": {"H": torch.full((SIZE, 1, 1), 0.01).double()},
    "scores missing": {"rewards": lambda i: torch.tensor([float("nan"), *range(SIZE - 1)]).double()},
    "reward is constant": {"rewards": lambda i: torch.full((SIZE,), 2.0).double()},
    "masked": {"latent": {"samples": torch.zeros(1, 4, 2, 2), "noise_mask": torch.ones(1, 2, 2)}},
}  # fmt: skip


@pytest.mark.parametrize("short", CASES)
def test_each_failure_is_reported(short):
    assert short in shorts(state_of(**CASES[short]))


def test_too_many_parameters_are_reported():
    latent = {"samples": torch.zeros(1, 4, 2, 2)}
    few = planned_state(TSMCConfig(time_blocks=2), None, None, latent, 4, "X")
    many = planned_state(TSMCConfig(time_blocks=3), None, None, latent, 4, "X")
    assert few.notices == () and "set it to 2 or less" in many.notices[0]


def test_every_remark_says_what_to_do_or_why():
    for case in CASES.values():
        for remark in remarks(state_of(**case)):
            assert remark.text.endswith(".") and len(remark.text) > 50


def test_report_has_the_figures_of_the_run():
    state = state_of(reward_scale=1.0)
    learning, words = state.learning, run_report(state, 2)
    for figure in (
        "48 images in 3 batches", "192 denoised estimates (384 network evaluations)", "48 rewards",
        f"log Z {learning.log_z:.4g} from all", f"effective sample size {learning.ess:.1f} of 48",
        f"θ {learning.summaries[1].theta[0]:.2f}", "unsteered",
    ):  # fmt: skip
        assert figure in words
    assert f"ESS {learning.ess:.1f} of 48" in result_line(state)
    mean = (learning.weights * learning.rewards).sum().item()
    assert f"mean reward {mean:.4g}" in words
