"""The iterations of TRI-TSMC on a state: a batch is drawn (`drawing.py`), scored, and learned from."""

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
    """How many paths each batch has.

    A surrogate is fitted to the first batch, which then has twice as many; there is one less of them, so that the
    whole costs the same.
    """
    if feature == "surrogate" and config.iterations > 1:
        return [2 * config.particles] + [config.particles] * (config.iterations - 1)
    return [config.particles] * (config.iterations + 1)


def first_count(config: TSMCConfig) -> int:
    """How many paths the first batch has where rewards are scores from elsewhere."""
    return config.particles * (2 if config.feature in ("auto", "surrogate") else 1)


def resolved(feature: str, reward, node: str) -> str:
    """What turns the chain: `gradient`, `surrogate` or `none`.

    Raises:
        ValueError: The gradient of a reward that has none.
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
    """With the reward that all batches will be scored by.

    A reward whose scale and generated half are known needs no pilot: learning starts at once.
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
    """`factor` times a gradient."""
    return lambda x0: gradient(x0) * factor


def model_space(state: TSMCState, samples: Tensor) -> Tensor:
    """Latents as the model sees them, on its device."""
    return state.latent_format.process_in(samples).to(state.device)


def scored_by(state: TSMCState, reward) -> TSMCState:
    """With the batch that waits scored by `reward`, see `scored`."""
    samples = state.batch.samples
    if reward.fixed:
        return scored(state, score_latents(reward, samples, state.latent_format), reward)
    scores, settled = settle_latents(reward, samples, state.latent_format)
    return scored(state, scores, settled, reward)


def scored(state: TSMCState, scores: Tensor, reward=None, unsettled=None) -> TSMCState:
    """With the scores of the batch that waits for them, and the twist that they teach.

    Arguments:
        scores: r of each path, with shape `(B,)`; NaN or infinite ones are left out.
        reward: The reward that they come from, as it stays from now on.
        unsettled: What it was before it saw the batch, if that changed it.

    Raises:
        ValueError: None of the scores is usable.
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
    """What turns the chain from now on, and h and H of the first batch under it.

    A path must not be weighed by what was learned from itself: h and H of each are those of what the others teach.
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
    """With what turns the chain as some samples of the first batch teach it.

    Arguments:
        drawn: All samples in the space of the model.
        which: Those that count, with shape `(B,)`.
        unsettled: The reward before it saw any, if that changed it; None takes it as it is.
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
    """λ r of scores, standardised as learning does."""
    learning = state.learning
    return state.config.reward_scale * (scores.double() - learning.mean) / learning.sd


def chosen(state: TSMCState, mode: str, count: int) -> list[int]:
    """Which of all paths to hand out: `best` by reward, `resample` by weight, or `all`."""
    learning = state.learning
    if mode == "all":
        return list(range(state.drawn))
    if mode == "best":
        rewards = learning.rewards.nan_to_num(-torch.inf, -torch.inf, -torch.inf)
        return rewards.argsort(descending=True, stable=True)[:count].tolist()
    (u,) = uniforms(state.noise.seed, 1)
    return systematic(learning.weights, u, count).tolist()
