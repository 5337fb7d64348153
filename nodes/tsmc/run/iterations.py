"""Learns from the scores of a batch, which `drawing.py` draws."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ....mmd_core.tsmc import (
    DenoiserJacobian,
    Gradient,
    Learning,
    TSMCConfig,
    fitted,
    replayed,
    white,
)
from ..rewards.reward import FixedReward, ModelReward, Reward, fix_by_latents, score_latents
from .state import Learned, Pilot, PilotProposed, Proposed
from .steering import Steered, Steering, Unsteered

__all__ = [
    "add_scores",
    "batch_sizes",
    "feature_for",
    "first_batch_size",
    "score_batch",
    "with_reward",
]


def batch_sizes(config: TSMCConfig, feature: str) -> list[int]:
    """The number of paths of each batch.

    A surrogate is fitted to the first batch, which then has twice as many paths. There is one batch
    less, so that the total number of paths is the same.
    """
    if feature == "surrogate" and config.iterations > 1:
        return [2 * config.particles] + [config.particles] * (config.iterations - 1)
    return [config.particles] * (config.iterations + 1)


def first_batch_size(config: TSMCConfig) -> int:
    """The number of paths of the first batch of TSMCPropose, whose scores come from other nodes."""
    return config.particles * (2 if config.feature in ("auto", "surrogate") else 1)


def feature_for(feature: str, reward: Reward | None, node: str) -> str:
    """The feature in use: `gradient`, `surrogate` or `none`.

    Arguments:
        feature: The setting, which may be `auto`.
        reward: The reward; None if only scores are known.
        node: The name of the node, for messages.

    Raises:
        ValueError: `feature` is `gradient`, but the reward has no gradient.
    """
    has_gradient = reward is not None and reward.space == "latent"
    if feature == "auto":
        return "gradient" if has_gradient else "surrogate"
    if feature == "gradient" and not has_gradient:
        raise ValueError(
            f"{node}: feature is gradient, but this reward has no gradient: set feature to "
            "surrogate or auto"
        )
    return feature


def with_reward(state: Pilot, reward: Reward, node: str) -> Pilot | Learned:
    """The state with the reward that will score all batches.

    The result is `Learned`, without a pilot batch, if the reward is fixed, not standardized, and
    needs no surrogate.

    Raises:
        ValueError: The reward does not fit the model or the settings.
    """
    config, model = state.config, state.model
    feature = feature_for(config.feature, reward, node)
    ours = reward.for_model(model.latent_format, model.device)
    if config.standardize or feature == "surrogate" or not ours.fixed:
        return replace(state, reward=ours)
    steering: Steering = Unsteered(feature=feature)
    if feature == "gradient":
        gradient = scaled(ours.gradient, config.reward_scale)
        steering = Steered(feature=feature, gradient=gradient)
    return Learned(
        plan=state.plan, notices=state.notices, model=model, reward=ours, cost=state.cost,
        learning=Learning.start(config, steering.size(config.time_blocks)), steering=steering,
    )  # fmt: skip


def scaled(gradient: Gradient, factor: float) -> Gradient:
    """The function `factor` times `gradient`."""
    return lambda x0: gradient(x0) * factor


def score_batch(state: PilotProposed | Proposed, reward: ModelReward) -> Learned:
    """Scores the waiting batch with `reward`, then calls `add_scores`."""
    samples, model = state.batch.samples, state.model
    if reward.fixed:
        return add_scores(state, score_latents(reward, samples, model), reward)
    scores, fixed = fix_by_latents(reward, samples, model)
    return add_scores(state, scores, fixed, unfixed=reward)


def add_scores(
    state: PilotProposed | Proposed,
    scores: Tensor,
    reward: FixedReward | None = None,
    unfixed: ModelReward | None = None,
) -> Learned:
    """Adds the scores of the waiting batch, and learns θ of the next one.

    Arguments:
        scores: r of each path, with shape `(B,)`; a path whose score is NaN or infinite has no
            weight.
        reward: The reward that gave the scores; None if other nodes gave them.
        unfixed: The reward before `fixed_by`; None if this batch did not fix it.

    Raises:
        ValueError: No score is finite.
    """
    scores = scores.detach().cpu().double()
    if isinstance(state, Proposed):
        learning = state.learning.learned(state.batch.h, state.batch.H, scores)
        return state.with_scores(learning, reward)
    config = state.config
    feature = feature_for(config.feature, reward, "TSMCUpdate")
    samples = state.model.latents(state.batch.samples)
    steering, h, H = PilotFit(state, samples, scores, feature, reward, unfixed).fit()
    learning = Learning.piloted(config, h, H, scores, excludes_pilot=unfixed is not None)
    if learning.constant:
        steering = Unsteered(feature="none", surrogate=steering.surrogate)
        learning = Learning.piloted(config, h[:, :0], H[:, :0, :0], scores)
    return Learned(
        plan=state.plan, notices=state.notices, model=state.model, reward=reward,
        cost=state.cost.plus(scores=len(scores)), learning=learning, steering=steering,
        scored=(state.batch.samples,),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class PilotFit:
    """What is known when a gradient is fitted to the pilot batch.

    Attributes:
        state: The pilot batch and its run.
        samples: The final samples in the latent space of the model, with shape `(B, *)`.
        scores: r of each path, with shape `(B,)`.
        feature: The feature in use.
        reward: The fixed reward; None if the scores came from other nodes.
        unfixed: The reward before `fixed_by`; None if this batch did not fix it.
    """

    state: PilotProposed
    samples: Tensor
    scores: Tensor
    feature: str
    reward: FixedReward | None
    unfixed: ModelReward | None

    def fit(self) -> tuple[Steering, Tensor, Tensor]:
        """The steering of the next batches, and h and H of the pilot batch under it.

        h and H are leave-one-out: for each path, the gradient is fitted to the other paths only.
        Else the weight of a path would depend on a function that was fitted to the path itself.
        """
        model, blocks, batch = self.state.model, self.state.config.time_blocks, self.state.batch
        n = len(self.scores)
        finite = torch.isfinite(self.samples.flatten(1)).all(1).cpu()
        usable = finite & torch.isfinite(self.scores)
        if self.feature == "none" or usable.sum() < 2:
            h, H = (torch.zeros(n, *size, dtype=torch.float64) for size in ((0,), (0, 0)))
            return Unsteered(feature=self.feature), h, H
        sums = []
        for i, path in enumerate(batch.recording.paths()):
            others = usable & (torch.arange(n) != i)
            twist = self._steering_by(others).twist(model, blocks, batch.mask)
            sums.append(replayed(path, model.steps, twist, model.device))
        h, H = (torch.cat(each) for each in zip(*sums, strict=True))
        return self._steering(usable, self.reward), h, H

    def _steering_by(self, which: Tensor) -> Steered:
        """As `_steering`, with the reward that these samples alone fix."""
        reward = self.reward
        if self.feature == "gradient" and self.unfixed is not None:
            _, reward = self.unfixed.fixed_by(self.samples[which.to(self.samples.device)])
        return self._steering(which, reward)

    def _steering(self, which: Tensor, reward: FixedReward | None) -> Steered:
        """The steering that some samples of the batch give.

        Arguments:
            which: True for the samples to use, with shape `(B,)`.
            reward: The reward whose gradient steers; not used by a surrogate.
        """
        config, feature = self.state.config, self.feature
        mean, sd = Learning.scale_of(self.scores) if config.standardize else (0.0, 1.0)
        sd, chosen = sd or 1.0, self.samples[which.to(self.samples.device)]
        jacobians = (white, DenoiserJacobian(chosen))
        if feature == "surrogate":
            surrogate = fitted(chosen, config.reward_scale * (self.scores[which] - mean) / sd)
            return Steered(
                feature=feature, surrogate=surrogate, gradient=surrogate.gradient,
                jacobians=jacobians,
            )  # fmt: skip
        gradient = scaled(reward.gradient, config.reward_scale / sd)
        return Steered(feature=feature, gradient=gradient, jacobians=jacobians)
