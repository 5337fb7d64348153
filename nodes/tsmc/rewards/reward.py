"""What a reward is to the sampler, and what rewards share."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ....mmd_core import KernelConfig
from ....mmd_core.tsmc import Witness
from .decode import decoded

GROUP = 16  # pictures that are held at once


class Reward(Protocol):
    """A number for each sample, to be large. It never changes: what it learns is a new one.

    Attributes:
        name: What it measures, in words, for reports.
        space: What it looks at: `latent` or `image`.
        vae: What decodes samples for a reward of images; None for one of latents.
        fixed: Whether it is a fixed function; else it first needs samples that the model draws by itself, see
            `settled`, and has no `value` before.
        gradient: ∇r, a function of latents in the space of the model `(B, *)`, with their shape; only a reward of
            latents has one, once it is fixed and `on` was called, and else None.
    """

    name: str
    space: str
    vae: object | None
    fixed: bool
    gradient: Callable[[Tensor], Tensor] | None

    def on(self, latent_format, device) -> "Reward":
        """The same for a model with this latent format, to be computed on `device`; to be called first.

        Raises:
            ValueError: The reward does not fit the model.
        """

    def check(self, batch: Tensor) -> None:
        """Raises ValueError unless a reward of latents fits latents like these; asked before anything is drawn."""

    def settled(self, batch: Tensor) -> tuple[Tensor, "Reward"]:
        """Scores of samples that the model drew by itself, and the reward that stays fixed from now on.

        Arguments:
            batch: As for `value`. A reward that is fixed already only scores it.

        Raises:
            ValueError: No sample is finite, or the reward does not fit them.
        """

    def value(self, batch: Tensor) -> Tensor:
        """r, with shape `(B,)`, float32 on the CPU; not finite of samples that are not.

        Arguments:
            batch: Latents in the space of the model `(B, C, *)`, or pictures `(B, H, W, 3)` in [0, 1].

        Raises:
            ValueError: The reward does not fit them.
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
    """The witness against samples of the model, and its scores of these, each without itself.

    Samples that are not finite are left out, lest they spoil all; their score is NaN.

    Arguments:
        y: References, with shape `(N, *)`.
        weights: Of the references, with shape `(N,)`, sum 1.
        base: Samples of the model, with shape `(n, *)`.
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
