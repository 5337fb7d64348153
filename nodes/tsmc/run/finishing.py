"""The final images of a run: a selection of all paths, or a last pass of SMC."""

from dataclasses import replace

import torch
from torch import Tensor

from ....mmd_core.tsmc import effective, systematic
from ...host.particle_noise import uniforms
from ..rewards.reward import score_latents
from .drawing import swarm
from .state import TSMCState
from .steering import chosen, tilt_of
from .watch import Watch

__all__ = ["handed_out", "swarmed"]


def handed_out(state: TSMCState, mode: str, count: int) -> dict:
    """The LATENT of the paths that `mode` selects (see `chosen` in `steering.py`)."""
    indices = chosen(state, mode, count)
    return {**state.latent, "samples": state.samples[indices], "batch_index": indices}


def potential_of(state: TSMCState):
    """V = κ λ r of denoised estimates at a step, with the reward of latents or its surrogate; None means V = 0."""
    reward, surrogate = state.reward, state.surrogate
    if reward.space == "latent":

        def potential(x0: Tensor, step: int) -> Tensor:
            return state.steps[step].settled * tilt_of(state, reward.value(x0))
    elif surrogate is not None:

        def potential(x0: Tensor, step: int) -> Tensor:
            return state.steps[step].settled * surrogate.value(x0)
    else:
        return None
    return potential


def swarmed(state: TSMCState, guider, count: int, watch: Watch) -> tuple[TSMCState, dict, str]:
    """A last pass of SMC: the state with the added cost, `count` images as LATENT, and a sentence for the report.

    The images are scored after the pass, so that the VAE and the model need not be in memory together.

    Raises:
        ValueError: No score is finite.
    """
    state, samples, particles = swarm(state, guider, potential_of(state), watch)
    scores = score_latents(state.reward, samples, state.latent_format)
    on_the_way = len(state.steps) - 1 if state.reward.space == "latent" else 0
    state = replace(state, scored=state.scored + len(samples) * (1 + on_the_way))
    particles = particles.rewarded(tilt_of(state, scores))
    if not torch.isfinite(particles.log_weights).any():
        raise ValueError(
            "TRITSMCSampler: all scores of the last batch (final smc) are NaN or infinite: look for what is wrong with "
            "the scorer"
        )
    _, u = uniforms(state.noise.seed, 2)
    weights = torch.softmax(particles.log_weights, 0)
    index = systematic(weights, u, count)
    first = state.drawn
    given = {
        **state.latent,
        "samples": samples[index],
        "batch_index": [first + i for i in index.tolist()],
    }
    mean = (weights * scores.double().nan_to_num(0, 0, 0)).sum().item()
    return (
        state,
        given,
        (
            f"Last batch by SMC: {len(samples)} images from {len(set(particles.ancestors.tolist()))} beginnings, resampled "
            f"{particles.resampled} times, effective number {effective(particles.log_weights):.1f}, mean reward {mean:.4g}, "
            f"log Z {particles.log_z:.4g} (unbiased Z)."
        ),
    )
