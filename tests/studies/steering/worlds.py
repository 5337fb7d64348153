"""Worlds in which steering can be checked: a mixture of Gaussians with its exact denoiser, a schedule, a reward.

All in float64, of latents `(B, d)`. What is true there is told by `closed_form.py`, `quadrature.py` and `truths.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from mmd_pack.mmd_core import KernelConfig, NoiseModel
from mmd_pack.mmd_core.tsmc import (
    GradientTwist,
    Transition,
    Witness,
    propose,
    transitions,
)
from torch import Tensor

F64 = torch.float64
STEPS = 15


def karras(
    steps: int = STEPS, most: float = 14.6, least: float = 0.03, rho: float = 7.0
) -> list[float]:
    """The noise levels of Karras et al. 2022 (https://arxiv.org/abs/2206.00364), then 0."""
    ends = most ** (1 / rho), least ** (1 / rho)
    levels = [(ends[0] + i / (steps - 1) * (ends[1] - ends[0])) ** rho for i in range(steps)]
    return [*levels, 0.0]


def even(steps: int = STEPS, shift: float = 3.0) -> list[float]:
    """The noise levels of a flow model from 1 to 0, shifted towards noise as those of SD3 are."""
    times = [1 - i / steps for i in range(steps + 1)]
    return [shift * t / (1 + (shift - 1) * t) for t in times]


@dataclass(frozen=True, eq=False)
class Mixture:
    """Clean samples: modes of the shares `weights` `(K,)` at `means` `(K, d)`, with one `variance` in all directions."""

    weights: Tensor
    means: Tensor
    variance: float

    def denoise(self, x: Tensor, sigma: float, signal: float = 1.0) -> Tensor:
        """E[x0 | x] of x = signal·x0 + σ·n."""
        spread = signal**2 * self.variance + sigma**2
        deviations = x[:, None] - signal * self.means
        shares = (self.weights.log() - deviations.square().sum(2) / (2 * spread)).softmax(1)
        kept = signal * self.variance / spread
        return shares @ (self.means * (1 - kept * signal)) + kept * x

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        modes = torch.multinomial(self.weights, n, replacement=True, generator=rng)
        noise = torch.randn(n, self.means.shape[1], generator=rng, dtype=F64)
        return self.means[modes] + math.sqrt(self.variance) * noise


class Reward(Protocol):
    def value(self, x: Tensor) -> Tensor:
        """r of latents `(B, d)`, with shape `(B,)`."""

    def gradient(self, x: Tensor) -> Tensor:
        """∇r, with the shape of `x`."""


@dataclass(frozen=True, eq=False)
class Linear:
    """a·z."""

    a: Tensor

    def value(self, x: Tensor) -> Tensor:
        return x @ self.a

    def gradient(self, x: Tensor) -> Tensor:
        return self.a.expand_as(x)


@dataclass(frozen=True, eq=False)
class Quadratic:
    """−½ ‖z − c‖²."""

    center: Tensor

    def value(self, x: Tensor) -> Tensor:
        return -0.5 * (x - self.center).square().sum(1)

    def gradient(self, x: Tensor) -> Tensor:
        return self.center - x


@dataclass(frozen=True, eq=False)
class World:
    """A model with a reward.

    Attributes:
        prior: What clean samples are like.
        steps: The chain; `flow` is whether x = (1 − σ) x0 + σ n.
        scale: λ.
    """

    name: str
    prior: Mixture
    steps: Sequence[Transition]
    flow: bool
    reward: Reward
    scale: float

    @property
    def dim(self) -> int:
        return self.prior.means.shape[1]

    @property
    def start_variance(self) -> float:
        """Of the noise to begin with, as ComfyUI scales it where nothing is left of an image."""
        return 1.0 if self.flow else 1 + self.steps[0].sigma ** 2

    def start(self, n: int, rng: torch.Generator) -> Tensor:
        return math.sqrt(self.start_variance) * torch.randn(n, self.dim, generator=rng, dtype=F64)

    def denoise(self, x: Tensor, i: int) -> Tensor:
        sigma = self.steps[i].sigma
        return self.prior.denoise(x, sigma, 1 - sigma if self.flow else 1.0)

    def tilt(self, z: Tensor) -> Tensor:
        """λ r."""
        return self.scale * self.reward.value(z)

    def tilt_gradient(self, x: Tensor) -> Tensor:
        """∇(λ r)."""
        return self.scale * self.reward.gradient(x)

    def twist(self, blocks: int = 1) -> GradientTwist:
        """That of the reward's own gradient."""
        return GradientTwist(self.tilt_gradient, self.steps, blocks)

    def samples(self, n: int, rng: torch.Generator) -> Tensor:
        """What the model draws by itself."""
        noise = lambda i: torch.randn(n, self.dim, generator=rng, dtype=F64)  # noqa: E731
        return propose(self.denoise, self.start(n, rng), self.steps, noise).z


def chain(flow: bool = False, eta: float = 1.0, steps: int = STEPS) -> tuple[Transition, ...]:
    return transitions(even(steps) if flow else karras(steps), NoiseModel(flow), eta)


def normals(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# ---- the worlds of the table

SHARES = (0.4, 0.3, 0.2, 0.1)


def modes(dim: int, variance: float = 0.25) -> Mixture:
    """Four modes about 0; an entry of a clean sample has a variance of 1 on average."""
    weights, means = torch.tensor(SHARES, dtype=F64), normals(dim, len(SHARES), dim)
    means = means - weights @ means
    means = means * math.sqrt((1 - variance) / (weights @ means.square()).mean().item())
    return Mixture(weights, means, variance)


def direction(dim: int) -> Tensor:
    """A unit vector that all modes differ along."""
    a = normals(100 + dim, dim)
    return a / a.norm()


def gaussian(
    kind: str = "linear", dim: int = 5, flow: bool = False, scale: float = 2.0, **options
) -> World:
    """One mode, of which everything is known."""
    prior = Mixture(torch.ones(1, dtype=F64), 0.5 * normals(7, 1, dim), 0.8)
    reward = Linear(direction(dim)) if kind == "linear" else Quadratic(normals(8, dim))
    name = f"{dim}-D Gaussian, {kind}{', flow' * flow}"
    return World(name, prior, chain(flow, **options), flow, reward, scale)


def line(flow: bool = False, scale: float = 2.8, **options) -> World:
    """Three modes on a line, the reward largest where the fewest samples are; known by quadrature."""
    weights, means = (0.7, 0.25, 0.05), (-0.8, 0.6, 2.0)
    prior = Mixture(torch.tensor(weights, dtype=F64), torch.tensor(means, dtype=F64)[:, None], 0.15)
    reward = Linear(torch.ones(1, dtype=F64))
    return World(f"1-D linear{', flow' * flow}", prior, chain(flow, **options), flow, reward, scale)


def linear(dim: int, scale: float, flow: bool = False) -> World:
    """The modes differ along the reward, and it also goes on beyond them."""
    name = f"{dim}-D linear{', flow' * flow}"
    return World(name, modes(dim), chain(flow), flow, Linear(direction(dim)), scale)


def quadratic(dim: int, scale: float) -> World:
    """The nearer to a point between the two rarer modes the better."""
    prior = modes(dim)
    reward = Quadratic(prior.means[2:].mean(0))
    return World(f"{dim}-D quadratic", prior, chain(), False, reward, scale)


def witness(dim: int, scale: float, references: int = 64, base: int = 64) -> World:
    """References of the two rarer modes only, narrower and moved by two of their standard deviations."""
    prior = modes(dim)
    rng = torch.Generator().manual_seed(200 + dim)
    bare = World("", prior, chain(), False, Linear(direction(dim)), 0.0)
    target = replace(prior, weights=torch.tensor((0, 0, 0.5, 0.5), dtype=F64), variance=0.2)
    y = target.sample(references, rng) + direction(dim)
    share = torch.full((references,), 1 / references, dtype=F64)
    reward = Witness(KernelConfig(), y, share, bare.samples(base, rng))
    return replace(bare, name=f"{dim}-D witness", reward=reward, scale=scale)


# How far the target lies from the model is about as in the table that these worlds follow.
MIXTURES = {
    "2-D linear": lambda: linear(2, 3.5),
    "16-D linear": lambda: linear(16, 8.0),
    "16-D linear, flow": lambda: linear(16, 8.0, flow=True),
    "64-D quadratic": lambda: quadratic(64, 0.6),
    "64-D witness": lambda: witness(64, 150.0),
}
