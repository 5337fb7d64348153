"""What the trust region is for: a drift that is free at every step and in every direction, so that p is large."""

import math
from dataclasses import dataclass

import torch
from mmd_pack.mmd_core.tsmc import effective, log_mean_exp, propose
from mmd_pack.mmd_core.tsmc.trust_region import project, tempered
from mmd_tests.studies.steering.worlds import F64, World, gaussian
from torch import Tensor

ITERATIONS = 8


def world(scale: float = 4.0) -> World:
    """16 steps that draw, 5 directions: p = 80."""
    return gaussian("linear", 5, steps=17, scale=scale)


class Free:
    """φ of a step: the axes."""

    def __init__(self, world: World):
        self.dim = world.dim
        self.size = world.dim * sum(step.noise > 0 for step in world.steps)

    def __call__(self, x0: Tensor, step: int) -> tuple[slice, Tensor]:
        axes = torch.eye(self.dim, dtype=x0.dtype).expand(len(x0), -1, -1)
        return slice(step * self.dim, (step + 1) * self.dim), axes


@dataclass(frozen=True)
class Learned:
    """Of the last batch: log Ẑ, the effective number by that of paths, and the standard deviation of log R."""

    log_z: float
    ess: float
    spread: float


def learned(world: World, particles: int, budget: float, seed: int) -> Learned:
    """Iterations from θ = 0 without prior and without earlier batches; a `budget` of infinity is no trust region."""
    rng = torch.Generator().manual_seed(seed)
    twist = Free(world)
    theta = none = torch.zeros(twist.size, dtype=F64)
    for k in range(ITERATIONS + 1):
        paths = propose(
            world.denoise, world.start(particles, rng), world.steps,
            lambda i: torch.randn(particles, world.dim, generator=rng, dtype=F64), twist, theta,
        )  # fmt: skip
        own = paths.h @ theta - 0.5 * torch.einsum("p,npq,q->n", theta, paths.H, theta)
        log_ratios = world.tilt(paths.z) - own
        if k < ITERATIONS:
            weights = tempered(log_ratios, budget).weights
            theta = project(theta, weights, paths.h, paths.H, budget, none, math.inf)
    ess = effective(log_ratios) / particles
    return Learned(log_mean_exp(log_ratios), ess, log_ratios.std().item())
