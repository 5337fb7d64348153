"""What of samples is compared with references: their latents, these at several scales, or what the network sees."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LatentFeatures", "NetworkFeatures", "pyramid"]

SCALES = (2, 4)
NOISE_PERCENT = (
    0.75  # where in the schedule the network looks: little noise, objects stay what they are
)


def pyramid(x: Tensor) -> Tensor:
    """Latents and their averages over 2×2 and 4×4 places, each scaled to be an orthonormal projection; `(b, F)`."""
    planes = x.reshape(len(x), -1, *x.shape[-2:])
    levels = [x.flatten(1)]
    for s in SCALES:
        if min(planes.shape[-2:]) >= s:
            levels.append(s * F.avg_pool2d(planes, s).flatten(1))
    return torch.cat(levels, 1)


class LatentFeatures:
    """Features of latents alone, in the model's space.

    Arguments:
        rows: Makes rows `(b, F)` of latents `(b, C, *)`.
    """

    def __init__(self, rows):
        self.rows = rows

    def __call__(self, x: Tensor, noise: Tensor, prompts) -> Tensor:
        return self.rows(x)


class NetworkFeatures:
    """What the middle of the untrained network makes of samples with a little noise: means over places, normalised.

    As in Starodubcev et al., Scale-wise Distillation of Diffusion Models, arXiv 2503.16397.

    Arguments:
        engine: The model that is trained.

    Raises:
        ValueError: A network without a middle that is known.
    """

    def __init__(self, engine):
        self.engine, self.middle = engine, middle(engine.network)
        self.sigma = float(engine.sampling.percent_to_sigma(NOISE_PERCENT))

    def __call__(self, x: Tensor, noise: Tensor, prompts) -> Tensor:
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
        # Patches of the model may ask more than once, and several entries of positive go together.
        seen = _of_places(outputs[0], x[0, 0].numel())[: len(x)].float()
        # (b, C, *places) of networks with convolutions, (b, tokens, C) of transformers
        means = (
            seen.flatten(2).mean(2)
            if seen.ndim > 3
            else seen.reshape(len(x), -1, seen.shape[-1]).mean(1)
        )
        return F.layer_norm(means, means.shape[1:])


def _of_places(output: Tensor | tuple, places: int) -> Tensor:
    """What a block says of places, where it says something of the prompt's tokens too."""
    outputs = output if isinstance(output, tuple) else (output,)
    found = [output for output in outputs if isinstance(output, Tensor)]
    if len(found) > 1:  # tokens of patches of 1, 2 × 2 or 4 × 4 numbers
        fitting = [
            output for output in found if places in [s * output.shape[1] for s in (1, 4, 16)]
        ]
        found = fitting or sorted(found, key=lambda output: -output.shape[1])
    return found[0]


def middle(network: nn.Module) -> nn.Module:
    """The last part of a U-Net's middle, or the middle one of a transformer's blocks."""
    block = getattr(network, "middle_block", None)
    if block is not None:
        return block[-1]
    lists = [part for part in network.children() if isinstance(part, nn.ModuleList) and len(part)]
    if not lists:
        raise ValueError(
            "this network has no middle block to look at: set features to latent or pyramid"
        )
    longest = max(lists, key=len)
    return longest[len(longest) // 2]
