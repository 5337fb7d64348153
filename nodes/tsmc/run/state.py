"""The state of a run of TRI-TSMC. Each stage of a run has its own class.

    Planned ─→ Pilot ─→ PilotProposed ─→ Learned ⇄ Proposed

TSMCInit makes a `Planned`. With a guider it becomes a `Pilot`, whose first batch is drawn without
steering. A batch that waits for its scores is a `PilotProposed` or a `Proposed`; its scores make it
a `Learned`, which can draw the next batch. TRITSMCSampler skips the pilot if the scale of its
reward is known already.

States are immutable: each node returns a new one, so ComfyUI may cache them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....mmd_core.tsmc import Learning, Recording, TSMCConfig, Twist
from ...host.particle_noise import InitialNoise
from ..rewards.reward import FixedReward, ModelReward
from .plan import Latent, ModelInfo, Plan, one_image, plan_notices
from .steering import Steering

__all__ = [
    "Batch",
    "Cost",
    "Learned",
    "Pilot",
    "PilotBatch",
    "PilotProposed",
    "Planned",
    "Proposed",
    "TSMCState",
    "planned_state",
]


@dataclass(frozen=True)
class Cost:
    """The cost of a run so far.

    Attributes:
        estimates: The number of denoised estimates: images times steps.
        scores: The number of scores.
    """

    estimates: int = 0
    scores: int = 0

    def plus(self, estimates: int = 0, scores: int = 0) -> Cost:
        """The sum of this cost and another one."""
        return Cost(self.estimates + estimates, self.scores + scores)


@dataclass(frozen=True, eq=False)
class PilotBatch:
    """Unsteered paths whose scores are not known yet.

    Attributes:
        samples: The final samples as raw LATENT, with shape `(B, C, *)`.
        recording: The recording of the paths. From it, h and H follow for a later twist.
        mask: Where images are drawn anew, with shape `(1, *)`; None means everywhere.
    """

    samples: Tensor
    recording: Recording
    mask: Tensor | None


@dataclass(frozen=True, eq=False)
class Batch:
    """Paths of the current proposal whose scores are not known yet.

    Attributes:
        samples: The final samples as raw LATENT, with shape `(B, C, *)`.
        h, H: As in `Paths`.
    """

    samples: Tensor
    h: Tensor
    H: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class TSMCState:
    """What all stages have in common.

    Attributes:
        plan: The settings.
        notices: Sentences for the user.
    """

    plan: Plan
    notices: tuple[str, ...] = ()

    @property
    def config(self) -> TSMCConfig:
        return self.plan.config


@dataclass(frozen=True, eq=False, kw_only=True)
class Planned(TSMCState):
    """Only the settings are known."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Running(TSMCState):
    """What all stages with a guider have in common.

    Attributes:
        model: The facts about the model of the guider.
        reward: The reward that scores the batches; None if the scores come from other nodes.
        cost: The cost so far.
    """

    model: ModelInfo
    reward: ModelReward | None = None
    cost: Cost = Cost()


@dataclass(frozen=True, eq=False, kw_only=True)
class Pilot(Running):
    """The next batch is the first one. It is drawn without steering, and recorded."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PilotProposed(Running):
    """The first batch waits for its scores."""

    batch: PilotBatch


@dataclass(frozen=True, eq=False, kw_only=True)
class Learned(Running):
    """θ of the next batch is known.

    Attributes:
        learning: All scored paths and θ.
        steering: What steers the next batch.
        scored: The final samples of each scored batch as raw LATENT, with shapes `(B, C, *)`.
    """

    learning: Learning
    steering: Steering
    scored: tuple[Tensor, ...] = ()

    @property
    def samples(self) -> Tensor:
        """The final samples of all scored paths as raw LATENT, with shape `(n, C, *)`."""
        return torch.cat(self.scored)

    @property
    def count(self) -> int:
        """n, the number of scored paths."""
        return sum(map(len, self.scored))

    def twist(self, mask: Tensor | None) -> Twist | None:
        """As `Steering.twist`, with the model and the settings of this run."""
        return self.steering.twist(self.model, self.config.time_blocks, mask)


@dataclass(frozen=True, eq=False, kw_only=True)
class Proposed(Learned):
    """A batch of the current proposal waits for its scores."""

    batch: Batch

    def with_scores(self, learning: Learning, reward: FixedReward | None) -> Learned:
        """The next stage, once `learning` holds the scores that `reward` gave this batch."""
        return Learned(
            plan=self.plan, notices=self.notices, model=self.model, reward=reward,
            cost=self.cost.plus(scores=len(self.batch.samples)), learning=learning,
            steering=self.steering, scored=(*self.scored, self.batch.samples),
        )  # fmt: skip


def planned_state(
    config: TSMCConfig,
    noise: InitialNoise,
    sigmas: Tensor,
    latent: Latent,
    micro_batch: int,
    node: str,
) -> Planned:
    """The first state of a run.

    Arguments:
        latent: The initial LATENT; only its first image is used.
        node: The name of the node, for messages.

    Raises:
        ValueError: The LATENT is nested.
    """
    plan = Plan(config, noise, sigmas, one_image(latent, node), micro_batch)
    return Planned(plan=plan, notices=plan_notices(config, len(latent["samples"])))
