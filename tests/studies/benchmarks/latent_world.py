"""Data like latents: a mixture of six Gaussians with the spectrum of SD's latents, and its exact denoiser."""

import torch
from mmd_tests.studies.quality.mixture import Dct, Mixture
from mmd_tests.studies.quality.mixture_worlds import MODES, TARGET, spectrum
from torch import Tensor

SEPARATION = 0.05  # of the variance lies between modes
FEATURES = 768  # of a prompt, as SD 1.5's text encoder has
PIECE = 100  # latents drawn at a time


class LatentWorld:
    """Latents of one size.

    Arguments:
        shape: `(C, side, side)`.
        device: Where they lie.
    """

    def __init__(self, shape: tuple[int, int, int], device: str):
        channels, side = shape[0], shape[-1]
        v = spectrum(side)[:1].expand(*shape)
        rng = torch.Generator().manual_seed(channels * side)
        means = torch.randn(MODES, *shape, generator=rng) * v.sqrt()
        means = means - means.mean(0)
        means = means * (SEPARATION / means.square().mean()).sqrt()
        equal = torch.full((MODES,), 1 / MODES)
        self.shape, self.device, self.dim = shape, device, means[0].numel()
        self.model = Mixture(equal, means, (1 - SEPARATION) * v)
        self.target = Mixture(torch.tensor(TARGET), means, (1 - SEPARATION) * v)
        self.basis = Dct(side)

    def references(self, n: int) -> Tensor:
        """Latents of the target, with shape `(n, C, side, side)`."""
        return self._draw(self.target, n, seed=1).to(self.device)

    def finished(self, n: int) -> Tensor:
        """Latents of the model, with shape `(n, C, side, side)`."""
        return self._draw(self.model, n, seed=2).to(self.device)

    def call(self, batch: int, sigma: float) -> tuple[Tensor, Tensor]:
        """(x̂0, x) of a model call: the exact posterior mean of noisy latents, and these."""
        rng = torch.Generator().manual_seed(3)
        x = self._draw(self.model, batch, seed=4)
        x = x + sigma * torch.randn(x.shape, generator=rng)
        x0 = self.basis.inverse(self.model.denoise(self.basis(x), torch.full((batch,), sigma)))
        return x0.to(self.device), x.to(self.device)

    def prompts(self, n: int, seed: int) -> Tensor:
        """Features of prompts that have something in common, with shape `(n, FEATURES)`."""
        rng = torch.Generator().manual_seed(seed)
        return (torch.randn(n, FEATURES, generator=rng) + 0.5).to(self.device)

    def _draw(self, mixture: Mixture, n: int, seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        latents = torch.empty(n, *self.shape)
        for piece in latents.split(PIECE):
            modes = mixture.sample_modes(len(piece), rng)
            piece.copy_(self.basis.inverse(mixture.sample(modes, rng)))
        return latents
