"""The final images of a run: a selection of all paths, or a last batch by SMC."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ....mmd_core.tsmc import ParticleSystem, Potential, effective, systematic
from ...base.counted import counted
from ...host.particle_noise import uniforms
from ..rewards.reward import score_latents
from .drawing import draw_smc
from .plan import Latent
from .state import Learned
from .watch import Watch

if TYPE_CHECKING:
    from comfy.samplers import CFGGuider

__all__ = ["final_smc", "potential_of", "selected_latent"]


def selected_paths(state: Learned, mode: str, count: int) -> list[int]:
    """The indices of some paths: the `best` by reward, a `resample` by weight, or `all`."""
    learning = state.learning
    if mode == "all":
        return list(range(state.count))
    if mode == "best":
        rewards = learning.rewards.nan_to_num(-torch.inf, -torch.inf, -torch.inf)
        return rewards.argsort(descending=True, stable=True)[:count].tolist()
    (u,) = uniforms(state.plan.noise.seed, 1)
    return systematic(learning.weights, u, count).tolist()


def selected_latent(state: Learned, mode: str, count: int) -> Latent:
    """The LATENT of the paths that `selected_paths` gives."""
    indices = selected_paths(state, mode, count)
    return {**state.plan.latent, "samples": state.samples[indices], "batch_index": indices}


def potential_of(state: Learned) -> Potential | None:
    """V = κ λ r of denoised estimates at a step; None means V = 0.

    A reward of latents is computed on the estimates. For a reward of images, its surrogate is used
    if there is one.
    """
    reward, surrogate, steps = state.reward, state.steering.surrogate, state.model.steps
    if reward.space == "latent":
        return lambda x0, i: steps[i].certainty * state.learning.tilt_of(reward.value(x0))
    if surrogate is not None:
        return lambda x0, i: steps[i].certainty * surrogate.value(x0)
    return None


def final_smc(
    state: Learned, guider: CFGGuider, count: int, watch: Watch
) -> tuple[Learned, Latent, str]:
    """A last batch by SMC.

    The final images are scored after the last step, so that the VAE and the model need not be in
    memory together.

    Returns:
        The state with the added cost, `count` images as LATENT, and a sentence for the report.

    Raises:
        ValueError: No score is finite.
    """
    state, samples, system = draw_smc(state, guider, potential_of(state), watch)
    scores = score_latents(state.reward, samples, state.model)
    per_image = len(state.model.steps) if state.reward.space == "latent" else 1
    state = replace(state, cost=state.cost.plus(scores=len(samples) * per_image))
    system = system.rewarded(state.learning.tilt_of(scores))
    if not torch.isfinite(system.log_weights).any():
        raise ValueError(
            "TRITSMCSampler: all scores of the last batch (final smc) are NaN or infinite: check "
            "the reward"
        )
    _, u = uniforms(state.plan.noise.seed, 2)
    weights = torch.softmax(system.log_weights, 0)
    indices = systematic(weights, u, count)
    latent = {
        **state.plan.latent,
        "samples": samples[indices],
        "batch_index": [state.count + i for i in indices.tolist()],
    }
    mean = (weights * scores.double().nan_to_num(0, 0, 0)).sum().item()
    return state, latent, _sentence(mean, system)


def _sentence(mean: float, system: ParticleSystem) -> str:
    """The sentence of the report about a last batch by SMC with this mean reward."""
    initial = len(set(system.ancestors.tolist()))
    return (
        f"Last batch by SMC: {counted(len(system.z), 'image')} from "
        f"{counted(initial, 'initial image')}, resampled {counted(system.resampled, 'time')}, "
        f"effective sample size {effective(system.log_weights):.1f}, mean reward {mean:.4g}, log Z "
        f"{system.log_z:.4g} (unbiased Z)."
    )
