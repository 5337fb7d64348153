"""TRI-TSMC through its nodes, and what else 64 paths could be spent on, on one seed of the digits.

All methods tilt by one fixed function: reward, mean and standard deviation as the first batch of TRI-TSMC finds them.
Best of n begins with the very paths of that batch, since its noise is the same; FK steering and plain SMC get the
scale for nothing, and have all their paths for themselves.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from mmd_tests.studies.steering.digits_chain import DigitsChain, silent
from torch import Tensor

PATHS, OUT = 64, 16


@dataclass(frozen=True, eq=False)
class Spent:
    """What a method made of its paths.

    Attributes:
        given: Name → the 16 samples `(16, 1, 8, 8)` that it hands out.
        rewards: r of all its samples.
        log_z: log Ẑ.
        mean: The estimate of E_π[r].
        ess: The effective number of its samples.
        reward_calls: How often a sample or an estimate was scored.
        estimates: How many denoised estimates the network made.
        said: The report, where there is one.
    """

    given: dict[str, Tensor]
    rewards: Tensor
    log_z: float
    mean: float
    ess: float
    reward_calls: int
    estimates: int
    said: str = ""


def _weighted(weights: Tensor, rewards: Tensor) -> float:
    return (weights * rewards.double()).sum().item()


def _best(samples: Tensor, rewards: Tensor) -> Tensor:
    return samples[rewards.argsort(descending=True, stable=True)[:OUT]]


def tri_tsmc(chain: DigitsChain, seed: int, reward, **settings) -> tuple[Spent, object]:
    """TRITSMCSampler, and the run it leaves."""
    from mmd_pack.nodes.tsmc.tri_tsmc_sampler import TRITSMCSampler
    from mmd_pack.nodes.tsmc.tsmc_select import TSMCSelect

    usual = {
        "particles": 16, "iterations": 3, "reward_scale": 2.0, "standardize_reward": True, "feature": "auto",
        "micro_batch": 0, "final": "best", "out_count": OUT,
    }  # fmt: skip
    before = sum(chain.calls)
    result = TRITSMCSampler.execute(**chain.inputs(seed), reward=reward, **{**usual, **settings})
    best, _, weights, log_z, ess, said, state = result.result
    made = sum(chain.calls) - before
    resampled = TSMCSelect.execute(state, "resample", OUT)[0]
    given = {"best": best["samples"], "resample": resampled["samples"]}
    rewards = state.learning.rewards
    mean = _weighted(state.learning.weights, rewards)
    return Spent(given, rewards, log_z, mean, ess, state.cost.scores, made, said), state


def scores_of(state, samples: Tensor) -> Tensor:
    """r of samples, by the run's fixed reward."""
    from mmd_pack.nodes.tsmc.rewards.reward import score_latents

    return score_latents(state.reward, samples, state.model)


def best_of_n(chain: DigitsChain, seed: int, state) -> Spent:
    """64 unsteered paths; importance weights for everything but the best."""
    from mmd_pack.mmd_core.tsmc import effective, log_mean_exp, systematic

    before = sum(chain.calls)
    samples = chain.unsteered(seed, PATHS)
    first = state.learning.counts[0]
    rewards = torch.cat([state.learning.rewards[:first], scores_of(state, samples[first:])])
    log_weights = state.learning.tilt_of(rewards)
    weights = torch.softmax(log_weights, 0)
    given = {"best": _best(samples, rewards), "resample": samples[systematic(weights, 0.5, OUT)]}
    return Spent(
        given, rewards, log_mean_exp(log_weights), _weighted(weights, rewards), effective(log_weights), PATHS,
        sum(chain.calls) - before,
    )  # fmt: skip


def swarm_of(
    chain: DigitsChain, state, particles: int, potential: Callable, calls: int, best: bool
) -> Spent:
    """A pass of SMC with the twist of `state`."""
    from mmd_pack.mmd_core.tsmc import effective, systematic
    from mmd_pack.nodes.tsmc.run.drawing import draw_smc

    before = sum(chain.calls)
    config = replace(state.config, particles=particles)
    state = replace(state, plan=replace(state.plan, config=config))
    state, samples, found = draw_smc(state, chain.guider, potential, silent)
    rewards = scores_of(state, samples).double()
    found = found.rewarded(state.learning.tilt_of(rewards))
    weights = torch.softmax(found.log_weights, 0)
    given = {"resample": samples[systematic(weights, 0.5, OUT)]}
    if best:
        given = {"best": _best(samples, rewards), **given}
    return Spent(
        given, rewards, found.log_z, _weighted(weights, rewards), effective(found.log_weights), calls,
        sum(chain.calls) - before,
    )  # fmt: skip


def _untwisted(chain: DigitsChain, state, scale: Callable[[int], float]) -> Spent:
    """SMC with the model's own proposal, and V of a multiple of λ r(x̂0)."""
    from mmd_pack.nodes.tsmc.run.steering import Unsteered

    def potential(x0: Tensor, step: int) -> Tensor:
        return scale(step) * state.learning.tilt_of(
            scores_of(state, state.model.latent_format.process_out(x0))
        )

    bare = replace(state, steering=Unsteered(feature="none"))
    return swarm_of(chain, bare, PATHS, potential, PATHS * chain.steps, True)


def fk_steering(chain: DigitsChain, state) -> Spent:
    """V = λ r(x̂0)."""
    return _untwisted(chain, state, lambda step: 1.0)


def plain_smc(chain: DigitsChain, state) -> Spent:
    """V = κ λ r(x̂0)."""
    return _untwisted(chain, state, lambda step: state.model.steps[step].certainty)


def tri_with_smc(chain: DigitsChain, seed: int, reward, **settings) -> Spent:
    """48 paths to learn from, then 16 by SMC, as final smc of TRITSMCSampler draws them; its log Ẑ alone."""
    from mmd_pack.nodes.tsmc.run.finishing import potential_of

    first, state = tri_tsmc(chain, seed, reward, iterations=2, **settings)
    on_the_way = chain.steps - 1 if state.reward.space == "latent" else 0
    calls = first.reward_calls + OUT * (1 + on_the_way)
    found = swarm_of(chain, state, OUT, potential_of(state), calls, False)
    return replace(found, estimates=found.estimates + first.estimates, said=first.said)
