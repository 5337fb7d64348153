"""The iterations of TRI-TSMC: `drawing.py` draws a batch; this module scores it and updates the state."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ....mmd_core.tsmc import (
    DenoiserJacobian,
    Learning,
    TSMCConfig,
    fitted,
    replayed,
    systematic,
    white,
)
from ...host.particle_noise import uniforms
from ..rewards.reward import score_latents, settle_latents
from .state import TSMCState

__all__ = [
    "begun",
    "chosen",
    "first_count",
    "passes",
    "resolved",
    "scored",
    "scored_by",
    "tilt_of",
]


def passes(config: TSMCConfig, feature: str) -> list[int]:
    """The number of paths of each batch.

    A surrogate is fitted to the first batch, which then has twice as many paths. There is one batch less, so that the
    total number of paths is the same.
    """
    if feature == "surrogate" and config.iterations > 1:
        return [2 * config.particles] + [config.particles] * (config.iterations - 1)
    return [config.particles] * (config.iterations + 1)


def first_count(config: TSMCConfig) -> int:
    """The number of paths of the first batch of TSMCPropose, where the scores come from other nodes."""
    return config.particles * (2 if config.feature in ("auto", "surrogate") else 1)


def resolved(feature: str, reward, node: str) -> str:
    """The feature in use: `gradient`, `surrogate` or `none`.

    Raises:
        ValueError: `feature` is `gradient`, but the reward has no gradient.
    """
    has = reward is not None and reward.space == "latent"
    if feature == "auto":
        return "gradient" if has else "surrogate"
    if feature == "gradient" and not has:
        raise ValueError(
            f"{node}: feature is gradient, but this reward is only known by its scores: set feature to surrogate or auto"
        )
    return feature


def begun(state: TSMCState, reward, node: str) -> TSMCState:
    """The state with the reward that will score all batches.

    A pilot batch is not needed if the reward is fixed, not standardised, and needs no surrogate: `learning` is then set.
    """
    feature = resolved(state.config.feature, reward, node)
    reward = reward.on(state.latent_format, state.device)
    state = replace(state, reward=reward, feature=feature)
    if state.config.standardize or feature == "surrogate" or not reward.fixed:
        return state
    if feature == "gradient":
        slope = scaled(reward.gradient, state.config.reward_scale)
        state = replace(state, slope=slope)
    return replace(state, learning=Learning.start(state.config, state.size))


def scaled(gradient: Callable[[Tensor], Tensor], factor: float) -> Callable[[Tensor], Tensor]:
    """The function `factor` times `gradient`."""
    return lambda x0: gradient(x0) * factor


def model_space(state: TSMCState, samples: Tensor) -> Tensor:
    """Raw LATENT samples in the latent space of the model, on its device."""
    return state.latent_format.process_in(samples).to(state.device)


def scored_by(state: TSMCState, reward) -> TSMCState:
    """Scores the waiting batch with `reward`, then calls `scored`."""
    samples = state.batch.samples
    if reward.fixed:
        return scored(state, score_latents(reward, samples, state.latent_format), reward)
    scores, settled = settle_latents(reward, samples, state.latent_format)
    return scored(state, scores, settled, reward)


def scored(state: TSMCState, scores: Tensor, reward=None, unsettled=None) -> TSMCState:
    """Adds the scores of the waiting batch, and updates the twist.

    Arguments:
        scores: r of each path, with shape `(B,)`; a path whose score is NaN or infinite has no weight.
        reward: The reward that gave the scores, in its fixed form.
        unsettled: The reward before `settled`, if the batch settled it.

    Raises:
        ValueError: No score is finite.
    """
    batch, scores = state.batch, scores.detach().cpu().double()
    state = replace(state, reward=reward, scored=state.scored + len(scores))
    if state.learning is None:
        state, h, H = _piloted(state, scores, unsettled)
        learning = Learning.start(state.config, state.size, pilot=True)
        learning = learning.piloted(h, H, scores, apart=unsettled is not None)
        if learning.constant:
            state = replace(state, slope=None, feature="none")
            learning = Learning.start(state.config, 0, pilot=True)
            learning = learning.piloted(h[:, :0], H[:, :0, :0], scores)
    else:
        learning = state.learning.learned(batch.h, batch.H, scores)
    samples = batch.samples if state.samples is None else torch.cat([state.samples, batch.samples])
    return replace(state, learning=learning, samples=samples, batch=None)


def _piloted(state: TSMCState, scores: Tensor, unsettled) -> tuple[TSMCState, Tensor, Tensor]:
    """The state with the gradient that steers from now on, and h and H of the pilot batch under this steering.

    h and H are leave-one-out: for each path, the gradient is fitted to the other paths only. Else the weight of a path
    would depend on a function that was fitted to the path itself.
    """
    feature = state.feature or resolved(state.config.feature, state.reward, "TSMCUpdate")
    state, batch = replace(state, feature=feature), state.batch
    drawn = model_space(state, batch.samples)
    usable = torch.isfinite(drawn.flatten(1)).all(1).cpu() & torch.isfinite(scores)
    if feature == "none" or usable.sum() < 2:
        return state, batch.h, batch.H
    sums = []
    for i, part in enumerate(batch.recording.paths()):
        others = usable & (torch.arange(len(scores)) != i)
        twist = _turned(state, drawn, scores, others, unsettled).twist(batch.mask)
        sums.append(replayed(part, state.steps, twist, state.device))
    h, H = (torch.cat(each) for each in zip(*sums, strict=True))
    return _turned(state, drawn, scores, usable, None), h, H


def _turned(state: TSMCState, drawn: Tensor, scores: Tensor, which: Tensor, unsettled) -> TSMCState:
    """The state with the gradient and the Jacobians that are fitted to some samples of the pilot batch.

    Arguments:
        drawn: All samples of the batch, in the latent space of the model.
        scores: The scores of all samples, with shape `(B,)`.
        which: True for the samples to use, with shape `(B,)`.
        unsettled: The reward before `settled`, which these samples then settle; None takes `state.reward` as it is.
    """
    config, reward = state.config, state.reward
    mean, sd = Learning.scale_of(scores) if config.standardize else (0.0, 1.0)
    sd, some = sd or 1.0, drawn[which.to(drawn.device)]
    state = replace(state, jacobians=(white, DenoiserJacobian(some)))
    if state.feature == "surrogate":
        surrogate = fitted(some, config.reward_scale * (scores[which] - mean) / sd)
        return replace(state, slope=surrogate.gradient, surrogate=surrogate)
    if unsettled is not None:
        _, reward = unsettled.settled(some)
    return replace(state, slope=scaled(reward.gradient, config.reward_scale / sd))


def tilt_of(state: TSMCState, scores: Tensor) -> Tensor:
    """λ (r − mean)/sd of scores, with the mean and sd of `state.learning`."""
    learning = state.learning
    return state.config.reward_scale * (scores.double() - learning.mean) / learning.sd


def chosen(state: TSMCState, mode: str, count: int) -> list[int]:
    """The indices of the selected paths: the `best` by reward, a `resample` by weight, or `all`."""
    learning = state.learning
    if mode == "all":
        return list(range(state.drawn))
    if mode == "best":
        rewards = learning.rewards.nan_to_num(-torch.inf, -torch.inf, -torch.inf)
        return rewards.argsort(descending=True, stable=True)[:count].tolist()
    (u,) = uniforms(state.noise.seed, 1)
    return systematic(learning.weights, u, count).tolist()
