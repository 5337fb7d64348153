"""The cost, the progress line and the report of a run, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from ....mmd_core.tsmc import MAX_SHIFT, BatchSummary
from ...base.counted import counted
from ...base.remark import Remark
from .state import Learned
from .steering import Steered

__all__ = ["PlannedCost", "batch_line", "remarks", "result_line", "run_report"]

SMALL_TAU = 0.1  # all updates below this are worth a remark
SMALL_KL = 0.01  # nats: steering that spends less hardly changes the images
MEGABYTE = 2**20


class PlannedCost(NamedTuple):
    """The cost of a run, before it starts.

    Attributes:
        counts: The number of paths of each batch.
        estimates: The number of denoised estimates: images times steps.
        evaluations: The number of network evaluations, one for each image and conditioning.
        rewards: The number of scores.
        memory: The memory in addition to the model, in bytes.
    """

    counts: tuple[int, ...]
    estimates: int
    evaluations: int
    rewards: int
    memory: int

    @classmethod
    def of(
        cls,
        counts: Sequence[int],
        steps: int,
        entries: int,
        per_estimate: int,
        pilot: bool,
        smc_particles: int = 0,
        scores_each_step: bool = False,
    ) -> PlannedCost:
        """The cost of batches of `counts` paths.

        Arguments:
            steps: T, the number of steps.
            entries: The number of entries of one latent.
            per_estimate: The number of network evaluations for each denoised estimate.
            pilot: Whether the first batch is recorded.
            smc_particles: The number of particles of a last batch by SMC; 0 means none.
            scores_each_step: Whether that batch is scored at each step.
        """
        paths = sum(counts) + smc_particles
        estimates = paths * steps
        rewards = sum(counts) + smc_particles * (steps if scores_each_step else 1)
        recorded = 2 * 2 * counts[0] * (steps - 1) * entries if pilot else 0
        memory = 4 * paths * entries + recorded
        return cls(tuple(counts), estimates, estimates * per_estimate, rewards, memory)

    def __str__(self) -> str:
        batches = " + ".join(map(str, self.counts))
        return (
            f"{counted(sum(self.counts), 'image')} in {_batches(len(self.counts))} ({batches}): "
            f"{self.estimates} denoised estimates, {self.evaluations} network evaluations, "
            f"{self.rewards} rewards, {self.memory / MEGABYTE:.0f} MB in addition to the model"
        )


def _batches(count: int) -> str:
    return counted(count, "batch", "batches")


def batch_line(index: int, batch: BatchSummary) -> str:
    """The result of one batch, in one line."""
    theta = ", ".join(f"{value:.2f}" for value in batch.theta)
    parts = [
        f"reward {batch.reward:.4g}, best {batch.best:.4g}",
        f"ESS {batch.ess:.1f} of {batch.count}",
        f"θ {theta}" if any(batch.theta) else "unsteered",
        f"KL spent {batch.kl_spent:.2f}",
    ]
    if batch.tau is not None:
        parts.append(f"τ {batch.tau:.2f}, KL {batch.kl:.2f}")
    return f"batch {index + 1}: " + " · ".join(parts)


def remarks(state: Learned) -> list[Remark]:
    """All problems of a run that the user should know of."""
    found = [Remark("note", notice) for notice in state.notices]
    if state.learning.constant:
        constant = Remark(
            "reward is constant",
            "The reward is the same for all images of the first batch, so there is nothing to "
            "learn: all images are drawn without steering. Check the nodes that score.",
        )
        return [*found, constant]
    found += [*_weight_remarks(state), *_steering_remarks(state)]
    if state.plan.latent.get("noise_mask") is not None:
        found.append(
            Remark("masked", "With a noise mask, only the masked part is drawn and steered.")
        )
    return found


def _weight_remarks(state: Learned) -> Iterator[Remark]:
    """Problems of the scores, of the weights and of the updates."""
    learning, paths = state.learning, state.count
    if unusable := sum(batch.unusable for batch in learning.summaries):
        scores = counted(unusable, f"of {paths} scores is", f"of {paths} scores are")
        yield Remark(
            "scores missing",
            f"{scores} NaN or infinite: these images have no weight. Check the nodes that score.",
        )
    if learning.ess < 2:
        yield Remark(
            "one image counts",
            "Nearly all weight lies on one image (effective sample size "
            f"{learning.ess:.1f} of {paths}), so log Z and resampled images are unreliable. Lower "
            "reward_scale, or raise particles.",
        )
    taus = [batch.tau for batch in learning.summaries if batch.tau is not None]
    if taus and max(taus) < SMALL_TAU:
        yield Remark(
            "steps stay small",
            f"Each update went less than {SMALL_TAU:.0%} of the way to the target (τ): "
            "reward_scale is large for so few particles. Lower reward_scale, or raise particles or "
            "iterations.",
        )


def _steering_remarks(state: Learned) -> Iterator[Remark]:
    """Problems of the direction and of the strength of steering."""
    config, batches = state.config, state.learning.summaries
    thetas = [batch.theta for batch in batches if any(batch.theta)]
    if any(x * y < 0 for a, b in pairwise(thetas) for x, y in zip(a, b, strict=True)):
        yield Remark(
            "no direction",
            "The strength of steering changed its sign between iterations (θ): the feature does "
            "not show how to raise this reward. Choose another feature, or raise particles.",
        )
    spent = batches[-1].kl_spent
    steered = isinstance(state.steering, Steered)
    if steered and _shortened(state) > 0.5:
        yield Remark(
            "at the limit",
            "At most steps the gradient of the reward was too large and was shortened to its "
            f"limit of {MAX_SHIFT:g} standard deviations of the step's noise. Lower reward_scale.",
        )
    if steered and len(batches) > 1 and spent < SMALL_KL:
        yield Remark(
            "hardly steered",
            f"Steering hardly changed the images (KL spent {spent:.2g}; 1 is usual): they are "
            "selected, not steered. Raise reward_scale, or choose another feature or reward.",
        )
    if spent > 0.95 * config.max_total_kl:
        yield Remark(
            "far from the model",
            f"The images are as far from the model (KL {spent:.1f}) as max_total_kl allows. Lower "
            "reward_scale, and look whether the images are good or only score high.",
        )


def _shortened(state: Learned) -> float:
    """About the fraction of steps at which φ was shortened to `MAX_SHIFT`.

    The features of a step are added up, so it can be above 1.
    """
    noisy = sum(step.noise > 0 for step in state.model.steps)
    traces = torch.diagonal(state.learning.H, dim1=1, dim2=2).sum(1)
    return (traces.mean() / (MAX_SHIFT**2 * noisy)).item()


def result_line(state: Learned) -> str:
    """The result of the run, in one short line for the node."""
    learning = state.learning
    shorts = [remark.short for remark in remarks(state)]
    warnings = [f"⚠ {short}" for short in shorts if short not in ("note", "masked")]
    parts = [f"ESS {learning.ess:.1f} of {state.count}", f"log Z {learning.log_z:.3g}"]
    return " · ".join(parts + warnings)


def run_report(state: Learned, per_estimate: int = 1, more: Sequence[str] = ()) -> str:
    """The report of a run.

    Arguments:
        per_estimate: The number of network evaluations for each denoised estimate.
        more: Additional lines, such as that of a last batch by SMC.
    """
    config, learning, cost = state.config, state.learning, state.cost
    standardized = " (standardized)" if config.standardize else ""
    reward = f", reward {state.reward.name}" if state.reward is not None else ""
    mean, sd = learning.mean, learning.sd
    unit = f", of the reward as (r − {mean:.4g}) / {sd:.4g}" if config.standardize else ""
    finite = torch.where(torch.isfinite(learning.rewards), learning.rewards, 0.0)
    lines = [
        f"TRI-TSMC: {counted(state.count, 'image')} in {_batches(len(learning.summaries))}, "
        f"reward_scale {config.reward_scale:g}{standardized}, feature {state.steering.feature}"
        f"{reward}.",
        f"Cost: {cost.estimates} denoised estimates ({cost.estimates * per_estimate} network "
        f"evaluations), {cost.scores} rewards.",
        *(batch_line(i, batch) for i, batch in enumerate(learning.summaries)),
        f"Tilted distribution: mean reward {(learning.weights * finite).sum().item():.4g}, "
        f"effective sample size {learning.ess:.1f} of {counted(state.count, 'image')}.",
        f"log Z {learning.log_z:.4g} from all images, {learning.summaries[-1].log_z:.4g} from the "
        f"last batch alone (unbiased Z){unit}.",
    ]
    if learning.excludes_pilot and len(learning.summaries) > 1:
        first = counted(learning.counts[0], "image")
        lines.append(
            f"The reward was made from the {first} of the first batch, so these have no weight."
        )
    spent = max(batch.kl_spent for batch in learning.summaries)
    if spent:
        lines.append(
            f"Distance from the model: KL {spent:.2f}; max_total_kl allows {config.max_total_kl:g}."
        )
    return "\n".join([*lines, *more, *(remark.text for remark in remarks(state))])
