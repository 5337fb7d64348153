"""The cost, the progress line and the report of a run, as text."""

from typing import NamedTuple

import torch

from ....mmd_core.tsmc import MAX_SHIFT, BatchSummary
from ...base.remark import Remark
from .state import Learned
from .steering import Steered

__all__ = ["Budget", "batch_line", "remarks", "result_line", "run_report"]

LITTLE_TAU = 0.1
IDLE = 0.01  # nats
MEGABYTE = 2**20


class Budget(NamedTuple):
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
        counts: list[int],
        steps: int,
        numbers: int,
        evaluations: int,
        pilot: bool,
        swarm: int = 0,
        scored_on_the_way: bool = False,
    ) -> "Budget":
        """The cost of batches of `counts` paths.

        Arguments:
            steps: T, the number of steps.
            numbers: The number of entries of one latent.
            evaluations: The number of network evaluations for each denoised estimate.
            pilot: Whether the first batch is recorded.
            swarm: The number of particles in the final pass of SMC; 0 means no such pass.
            scored_on_the_way: Whether that pass scores the estimates at each step.
        """
        paths = sum(counts)
        estimates = (paths + swarm) * steps
        rewards = paths + swarm * (steps if scored_on_the_way else 1)
        recorded = 2 * 2 * counts[0] * (steps - 1) * numbers if pilot else 0
        memory = 4 * (paths + swarm) * numbers + recorded
        return cls(tuple(counts), estimates, estimates * evaluations, rewards, memory)

    def __str__(self):
        batches = " + ".join(map(str, self.counts))
        return (
            f"{sum(self.counts)} images in {_batches(len(self.counts))} ({batches}): {self.estimates} denoised estimates, "
            f"{self.evaluations} network evaluations, {self.rewards} rewards, {self.memory / MEGABYTE:.0f} MB beside the "
            "model"
        )


def _batches(count: int) -> str:
    return f"{count} batch{'es' * (count > 1)}"


def batch_line(index: int, done: BatchSummary) -> str:
    """The result of one batch, in one line."""
    theta = ", ".join(f"{value:.2f}" for value in done.theta)
    parts = [
        f"reward {done.reward:.4g}, best {done.best:.4g}",
        f"ESS {done.ess:.1f} of {done.count}",
        f"θ {theta}" if any(done.theta) else "unsteered",
        f"KL spent {done.kl_spent:.2f}",
    ]
    if done.tau is not None:
        parts.append(f"τ {done.tau:.2f}, KL {done.kl:.2f}")
    return f"batch {index + 1}: " + " · ".join(parts)


def remarks(state: Learned) -> list[Remark]:
    """All problems of a run that the user should know of."""
    config, learning = state.config, state.learning
    said = [Remark("note", notice) for notice in state.notices]
    done, paths = learning.summaries, state.count
    if learning.constant:
        said.append(
            Remark(
                "reward is constant",
                "The reward is the same for all images of the first batch, so there is nothing to learn: all images are "
                "drawn by the model itself. Look for what is wrong with the scorer.",
            )
        )
        return said
    if unusable := sum(each.unusable for each in done):
        said.append(
            Remark(
                "scores missing",
                f"{unusable} of {paths} scores are NaN or infinite: these images have no weight. Look for what is wrong "
                "with the scorer.",
            )
        )
    if learning.ess < 2:
        said.append(
            Remark(
                "one image counts",
                f"Nearly all weight lies on one image (effective number {learning.ess:.1f} of {paths}), so log Z and "
                "resampled images are unreliable. Lower reward_scale, or raise particles.",
            )
        )
    taus = [each.tau for each in done if each.tau is not None]
    if taus and max(taus) < LITTLE_TAU:
        said.append(
            Remark(
                "steps stay small",
                f"Each iteration went less than {LITTLE_TAU:.0%} of its way (τ), since reward_scale is large for so few "
                "particles. Lower reward_scale, or raise particles or iterations.",
            )
        )
    thetas = [each.theta for each in done if any(each.theta)]
    flips = [
        k
        for a, b in zip(thetas, thetas[1:], strict=False)
        for k in range(len(a))
        if a[k] * b[k] < 0
    ]
    if flips:
        said.append(
            Remark(
                "no direction",
                "The strength θ changed its sign between iterations: what turns the chain tells nothing about this reward. "
                "Take another feature, or raise particles.",
            )
        )
    if isinstance(state.steering, Steered) and _limited(state) > 0.5:
        said.append(
            Remark(
                "at the limit",
                f"At most steps the reward's gradient is larger than what may move an image ({MAX_SHIFT:g} standard deviations "
                "of the step's noise) and was cut. Lower reward_scale.",
            )
        )
    if isinstance(state.steering, Steered) and len(done) > 1 and done[-1].kl_spent < IDLE:
        said.append(
            Remark(
                "hardly steered",
                f"What turns the chain hardly moved the images (KL spent {done[-1].kl_spent:.2g}; 1 is usual): they are chosen, not "
                "steered. Raise reward_scale, or take another feature or reward.",
            )
        )
    if done[-1].kl_spent > 0.95 * config.max_total_kl:
        said.append(
            Remark(
                "far from the model",
                f"The images lie as far from the model (KL {done[-1].kl_spent:.1f}) as max_total_kl allows: look whether they "
                "please the reward only. Lower reward_scale.",
            )
        )
    if state.plan.latent.get("noise_mask") is not None:
        said.append(
            Remark("masked", "With a noise mask only the part that is drawn anew is steered.")
        )
    return said


def _limited(state: Learned) -> float:
    """About the fraction of steps at which φ had its largest norm `MAX_SHIFT`, summed over the features of a step."""
    drawing = sum(step.noise > 0 for step in state.model.steps)
    traces = torch.diagonal(state.learning.H, dim1=1, dim2=2).sum(1)
    return (traces.mean() / (MAX_SHIFT**2 * drawing)).item()


def result_line(state: Learned) -> str:
    """The result of the run, in one short line for the node."""
    learning = state.learning
    said = [
        f"⚠ {remark.short}" for remark in remarks(state) if remark.short not in ("note", "masked")
    ]
    parts = [f"ESS {learning.ess:.1f} of {state.count}", f"log Z {learning.log_z:.3g}"]
    return " · ".join(parts + said)


def run_report(state: Learned, per_estimate: int = 1, more: tuple[str, ...] = ()) -> str:
    """The report of a run.

    Arguments:
        per_estimate: The number of network evaluations for each denoised estimate.
        more: Additional lines, such as that of the final pass of SMC.
    """
    config, learning = state.config, state.learning
    reward = f", reward {state.reward.name}" if state.reward is not None else ""
    lines = [
        f"TRI-TSMC: {state.count} images in {_batches(len(learning.summaries))}, reward_scale {config.reward_scale:g}"
        f"{' (standardized)' if config.standardize else ''}, feature {state.steering.feature}{reward}.",
        f"Cost: {state.cost.estimates} denoised estimates ({state.cost.estimates * per_estimate} network evaluations), "
        f"{state.cost.scores} rewards.",
    ]
    lines += [batch_line(i, done) for i, done in enumerate(learning.summaries)]
    tilted = torch.where(torch.isfinite(learning.rewards), learning.rewards, 0.0)
    mean = (learning.weights * tilted).sum().item()
    unit = (
        f", of the reward as (r − {learning.mean:.4g}) / {learning.sd:.4g}"
        if config.standardize
        else ""
    )
    lines += [
        f"Tilted distribution: mean reward {mean:.4g}; effective number {learning.ess:.1f} of {state.count} images.",
        f"log Z {learning.log_z:.4g} from all images, {learning.summaries[-1].log_z:.4g} from the last batch alone (unbiased Z)"
        f"{unit}.",
    ]
    if learning.excludes_pilot and len(learning.summaries) > 1:
        lines.append(
            f"The reward was made of the {learning.counts[0]} images of the first batch, so these have no weight."
        )
    spent = max(done.kl_spent for done in learning.summaries)
    if spent:
        lines.append(
            f"How far steering led from the model: KL {spent:.2f} of {config.max_total_kl:g} allowed."
        )
    return "\n".join([*lines, *more, *(remark.text for remark in remarks(state))])
