"""Draws a mixture whose modes are known, with its exact denoiser and Euler's method."""

from itertools import pairwise

import torch
from mmd_pack.mmd_core import Guidance, NoiseModel
from mmd_tests.studies.benchmarks.latent_world import LatentWorld
from mmd_tests.studies.benchmarks.our_call import SIGMAS, WINDOW
from torch import Tensor

__all__ = ["SIGMAS", "WINDOW", "draw", "modes", "noise_of"]


def noise_of(world: LatentWorld, batch: int, seed: int) -> Tensor:
    """What a batch begins with, but for its size, with shape `(B, C, side, side)`."""
    return torch.randn(batch, *world.shape, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def draw(
    world: LatentWorld,
    guidance: Guidance | None,
    noise: Tensor,
    sigmas: list[float],
    model: NoiseModel = NoiseModel(),  # noqa: B008  it cannot be changed
    prompts: Tensor | None = None,
) -> Tensor:
    """The samples that come of the noise, with its shape."""
    x = sigmas[0] * noise
    for sigma, after in pairwise(sigmas):
        clean, level = x.cpu() / model.signal(sigma), torch.full((len(x),), model.level(sigma))
        x0 = world.basis.inverse(world.model.denoise(world.basis(clean), level)).to(x)
        if guidance is not None:
            x0 = guidance(x0, x, sigma, prompts)
        x = torch.lerp(x0, x, after / sigma)
    return x


def modes(world: LatentWorld, samples: Tensor) -> Tensor:
    """The mode of each sample, with shape `(B,)`."""
    return world.model.nearest_mode(world.basis(samples.cpu()))
