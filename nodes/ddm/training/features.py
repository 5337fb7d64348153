"""The features of samples that the MMD compares with those of references.

These are the latents, the latents at several scales, or activations of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["LatentFeatures", "NetworkFeatures", "middle_block", "pyramid"]

SCALES = (2, 4)
# Position in the schedule for `NetworkFeatures`: so little noise that objects do not change.
NOISE_PERCENT = 0.75


def pyramid(x: Tensor) -> Tensor:
    """Latents and their averages over 2×2 and 4×4 places, with shape `(b, F)`.

    Each scale is an orthonormal projection.
    """
    planes = x.reshape(len(x), -1, *x.shape[-2:])
    levels = [x.flatten(1)]
    for s in SCALES:
        if min(planes.shape[-2:]) >= s:
            levels.append(s * F.avg_pool2d(planes, s).flatten(1))
    return torch.cat(levels, 1)


class LatentFeatures:
    """Features that depend on the latents only.

    Arguments:
        rows: A function from latents `(b, C, *)`, in the units of the network, to features
            `(b, F)`.
    """

    def __init__(self, rows: Callable[[Tensor], Tensor]) -> None:
        self.rows = rows

    def __call__(self, x: Tensor, noise: Tensor, prompts: Sequence[int]) -> Tensor:
        return self.rows(x)


class NetworkFeatures:
    """Activations in the middle of the untrained network, for samples with a little noise.

    They are averaged over places and normalised, as in Starodubcev et al., Scale-wise Distillation
    of Diffusion Models. https://arxiv.org/abs/2503.16397

    Arguments:
        engine: The model that is trained.

    Raises:
        ValueError: The network has no middle block.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.middle = engine, middle_block(engine.network)
        self.sigma = float(engine.sampling.percent_to_sigma(NOISE_PERCENT))

    def __call__(self, x: Tensor, noise: Tensor, prompts: Sequence[int]) -> Tensor:
        engine, outputs = self.engine, []
        noisy = engine.sampling.noise_scaling(x.new_tensor([self.sigma]), noise.clone(), x, False)
        hook = self.middle.register_forward_hook(
            lambda module, args, output: outputs.append(output)
        )
        try:
            with engine.lora.set_active(False):
                engine.estimate(noisy, self.sigma, prompts, guided=False)
        finally:
            hook.remove()
        # Model patches may call the network several times. Several entries of `positive` are one
        # batch.
        seen = _image_output(outputs[0], x[0, 0].numel())[: len(x)].float()
        # (b, C, *places) in convolutional networks, (b, tokens, C) in transformers
        means = (
            seen.flatten(2).mean(2)
            if seen.ndim > 3
            else seen.reshape(len(x), -1, seen.shape[-1]).mean(1)
        )
        return F.layer_norm(means, means.shape[1:])


def _image_output(output: Tensor | tuple, places: int) -> Tensor:
    """The output of a block for the image, if it also has one for the tokens of the prompt."""
    outputs = output if isinstance(output, tuple) else (output,)
    found = [output for output in outputs if isinstance(output, Tensor)]
    if len(found) > 1:  # tokens are patches of 1, 2 × 2 or 4 × 4 places
        fitting = [
            output for output in found if places in [s * output.shape[1] for s in (1, 4, 16)]
        ]
        found = fitting or sorted(found, key=lambda output: -output.shape[1])
    return found[0]


def middle_block(network: nn.Module) -> nn.Module:
    """The last layer of the middle block of a U-Net, or the middle block of a transformer.

    Raises:
        ValueError: The network has no middle block.
    """
    block = getattr(network, "middle_block", None)
    if block is not None:
        return block[-1]
    lists = [part for part in network.children() if isinstance(part, nn.ModuleList) and len(part)]
    if not lists:
        raise ValueError(
            "this network has no middle block for features unet: set features to latent or pyramid"
        )
    longest = max(lists, key=len)
    return longest[len(longest) // 2]
