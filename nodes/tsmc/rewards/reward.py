"""The interface of rewards, and the functions that rewards share.

    Reward ─ for_model ─→ ModelReward ─ fixed_by ─→ FixedReward

A `Reward` is what the socket carries. Most rewards are fixed functions. The others compare with
samples that the model draws without steering, and `fixed_by` gets these samples. One class may
implement several stages. Rewards are immutable: each stage is a new object, or the same one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ....mmd_core import KernelConfig
from ....mmd_core.tsmc import Gradient, Witness
from .decode import decoded

if TYPE_CHECKING:
    from comfy.latent_formats import LatentFormat
    from comfy.sd import VAE

    from ..run.plan import ModelInfo

GROUP = 16  # decoded images in memory at once


class Reward(Protocol):
    """A score for each sample; higher is better.

    Attributes:
        name: What the reward measures, as text for reports.
        space: The input of the reward: `latent` or `image`.
        vae: Decodes samples for a reward of images; None for a reward of latents.
        fixed: Whether `for_model` gives a `FixedReward`.
    """

    name: str
    space: str
    vae: VAE | None
    fixed: bool

    def for_model(self, latent_format: LatentFormat, device: torch.device) -> ModelReward:
        """The reward for a model with this latent format, computed on `device`.

        Raises:
            ValueError: The reward does not fit the model.
        """


class ModelReward(Reward, Protocol):
    """A reward for one model. If `fixed` is true, it is a `FixedReward`."""

    def check(self, batch: Tensor) -> None:
        """Checks latents before sampling; only a reward of latents has this method.

        Raises:
            ValueError: The reward does not fit latents of this shape.
        """

    def fixed_by(self, batch: Tensor) -> tuple[Tensor, FixedReward]:
        """The scores of samples that the model drew without steering, and the fixed reward.

        A reward that is fixed already only scores the samples.

        Arguments:
            batch: As for `FixedReward.value`.

        Raises:
            ValueError: No sample is finite, or the reward does not fit the samples.
        """


class FixedReward(ModelReward, Protocol):
    """A reward that is a fixed function.

    Attributes:
        gradient: ∇r, a function of latents in the space of the model `(B, *)`, with their shape;
            None for a reward of images.
    """

    gradient: Gradient | None

    def value(self, batch: Tensor) -> Tensor:
        """r, with shape `(B,)`, float32 on the CPU; not finite for samples that are not finite.

        Arguments:
            batch: Latents in the space of the model `(B, C, *)`, on the device that `for_model`
                was given; or images `(B, H, W, 3)` in [0, 1], on the CPU.

        Raises:
            ValueError: The reward does not fit the samples.
        """


def score_latents(reward: FixedReward, samples: Tensor, model: ModelInfo) -> Tensor:
    """r of raw LATENT samples `(B, C, *)`, with shape `(B,)`, float32 on the CPU."""
    if reward.space == "latent":
        return reward.value(model.latents(samples))
    return torch.cat([reward.value(decoded(reward.vae, part)) for part in samples.split(GROUP)])


def fix_by_latents(
    reward: ModelReward, samples: Tensor, model: ModelInfo
) -> tuple[Tensor, FixedReward]:
    """`ModelReward.fixed_by` for raw LATENT samples `(B, C, *)`."""
    if reward.space == "latent":
        return reward.fixed_by(model.latents(samples))
    return reward.fixed_by(decoded(reward.vae, samples))


def fixed_witness(
    config: KernelConfig, y: Tensor, weights: Tensor, base: Tensor, node: str
) -> tuple[Tensor, Witness]:
    """The witness function, and the scores of its base samples, each compared without itself.

    Samples that are not finite are left out, because one NaN would make all scores NaN. Their own
    score is NaN.

    Arguments:
        config: The kernel and the feature space.
        y: References, with shape `(N, *)`.
        weights: The weights of the references, with shape `(N,)`, sum 1.
        base: Samples of the model without steering, with shape `(n, *)`.
        node: The name of the node, for messages.

    Returns:
        The scores, with shape `(n,)`, float32 on the CPU, and the witness function.

    Raises:
        ValueError: No sample is finite.
    """
    usable = torch.isfinite(base.flatten(1)).all(1)
    if not usable.any():
        raise ValueError(
            f"{node}: all images that the model drew are NaN or infinite: run the model in fp32 or "
            "bf16, or connect another VAE"
        )
    witness = Witness(config, y, weights, base[usable])
    scores = torch.full((len(base),), torch.nan)
    scores[usable.cpu()] = witness.of_base().float().cpu()
    return scores, witness
