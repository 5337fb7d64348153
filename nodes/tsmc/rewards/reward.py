"""The interface of rewards, and the functions that rewards share."""

from typing import Protocol

import torch
from torch import Tensor

from ....mmd_core import KernelConfig
from ....mmd_core.tsmc import Gradient, Witness
from .decode import decoded

GROUP = 16  # decoded images in memory at once


class Reward(Protocol):
    """A score for each sample; higher is better. A reward is immutable: `on` and `settled` return a new one.

    Attributes:
        name: What the reward measures, as text for reports.
        space: The input of the reward: `latent` or `image`.
        vae: Decodes samples for a reward of images; None for a reward of latents.
        fixed: Whether the reward is a fixed function. If not, `settled` must first get samples that the model draws
            without steering; `value` is not available before.
        gradient: ∇r, a function of latents in the space of the model `(B, *)`, with their shape. Only a reward of
            latents has one, once it is fixed and `on` was called; else None.
    """

    name: str
    space: str
    vae: object | None
    fixed: bool
    gradient: Gradient | None

    def on(self, latent_format, device) -> "Reward":
        """The reward for a model with this latent format, computed on `device`. Call it before the other methods.

        Raises:
            ValueError: The reward does not fit the model.
        """

    def check(self, batch: Tensor) -> None:
        """For a reward of latents, called before sampling: raises ValueError if it does not fit latents of this shape."""

    def settled(self, batch: Tensor) -> tuple[Tensor, "Reward"]:
        """The scores of samples that the model drew without steering, and the reward, fixed from now on.

        Arguments:
            batch: As for `value`. A reward that is fixed already only scores it.

        Raises:
            ValueError: No sample is finite, or the reward does not fit the samples.
        """

    def value(self, batch: Tensor) -> Tensor:
        """r, with shape `(B,)`, float32 on the CPU; NaN or infinite for samples that are not finite.

        Arguments:
            batch: Latents in the space of the model `(B, C, *)`, or images `(B, H, W, 3)` in [0, 1].

        Raises:
            ValueError: The reward does not fit the samples.
        """


def score_latents(reward: Reward, samples: Tensor, latent_format) -> Tensor:
    """r of samples as the LATENT socket carries them `(B, C, *)`, with shape `(B,)`, float32 on the CPU."""
    if reward.space == "latent":
        return reward.value(latent_format.process_in(samples))
    return torch.cat([reward.value(decoded(reward.vae, part)) for part in samples.split(GROUP)])


def settle_latents(reward: Reward, samples: Tensor, latent_format) -> tuple[Tensor, Reward]:
    """`Reward.settled` for samples as the LATENT socket carries them, with shape `(B, C, *)`."""
    if reward.space == "latent":
        return reward.settled(latent_format.process_in(samples))
    return reward.settled(decoded(reward.vae, samples))


def settled_witness(
    config: KernelConfig, y: Tensor, weights: Tensor, base: Tensor, node: str
) -> tuple[Tensor, Witness]:
    """The scores of unsteered samples of the model, each compared without itself, and the witness function.

    Samples that are not finite are left out, because one NaN would make all scores NaN. Their own score is NaN.

    Arguments:
        config: The kernel and the feature space.
        y: References, with shape `(N, *)`.
        weights: The weights of the references, with shape `(N,)`, sum 1.
        base: Unsteered samples of the model, with shape `(n, *)`.
        node: The name of the node, for messages.

    Raises:
        ValueError: No sample is finite.
    """
    usable = torch.isfinite(base.flatten(1)).all(1)
    if not usable.any():
        raise ValueError(
            f"{node}: all that the model drew is NaN or infinite: run the model in fp32 or bf16, or take another VAE"
        )
    witness = Witness(config, y, weights, base[usable])
    scores = torch.full((len(base),), torch.nan)
    scores[usable.cpu()] = witness.of_base().float().cpu()
    return scores, witness
