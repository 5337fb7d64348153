"""The two families of models as which ComfyUI knows the world: flow matching, and EPS."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from mmd_pack.mmd_core import NoiseModel
from mmd_tests.demo.emoji.flow import lean
from torch import Tensor

TIMESTEPS = 1000


@dataclass(frozen=True)
class Family:
    """How noise is added and removed.

    Attributes:
        noise: x = (1 − σ)·x0 + σ·n, or x = x0 + σ·n.
        levels: The schedule of so many steps, decreasing to 0, with shape `(steps + 1,)`.
        level_at: The σ at a share of the schedule, in [0, 1].
    """

    noise: NoiseModel
    levels: Callable[[int], Tensor]
    level_at: Callable[[float], float]

    def signal_in(self, sigma: float) -> float:
        """The factor from x to what the network takes, (1 − t)·x0 + t·n with t = factor · σ."""
        return 1.0 if self.noise.flow_matching else 1 / (1 + sigma)

    def start(self, noise: Tensor, sigma: float) -> Tensor:
        """The noisy latents at which sampling starts."""
        return noise * (sigma if self.noise.flow_matching else math.sqrt(1 + sigma**2))


def _flow_levels(steps: int) -> Tensor:
    return lean(torch.linspace(1, 0, steps + 1))


def _flow_level_at(percent: float) -> float:
    return float(lean(torch.tensor(1 - percent)))


def _eps_table() -> Tensor:
    """σ of each time step of Stable Diffusion, increasing."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64).square()
    signal = (1 - betas).cumprod(0)
    return ((1 - signal) / signal).sqrt().float()


def _eps_levels(steps: int) -> Tensor:
    times = torch.linspace(TIMESTEPS - 1, 0, steps).round().long()
    return torch.cat([_eps_table()[times], torch.zeros(1)])


def _eps_level_at(percent: float) -> float:
    if percent in (0.0, 1.0):
        return math.inf if percent == 0 else 0.0
    time = (1 - percent) * (TIMESTEPS - 1)
    low, logs = math.floor(time), _eps_table().log()
    return math.exp(torch.lerp(logs[low], logs[low + 1], time - low))


FAMILIES = {
    "flow": Family(NoiseModel(flow_matching=True), _flow_levels, _flow_level_at),
    "eps": Family(NoiseModel(), _eps_levels, _eps_level_at),
}
"""As Flux, and as Stable Diffusion."""
