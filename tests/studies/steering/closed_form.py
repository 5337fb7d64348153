"""What is true of a world of one Gaussian: its chain is affine, each coordinate by itself, x' = A x + c + s ξ."""

import math

import torch
from mmd_tests.studies.steering.quadrature import Truth
from mmd_tests.studies.steering.worlds import Linear, World
from torch import Tensor


def affine(world: World) -> list[tuple[float, Tensor, float]]:
    """A, c and s of each step."""
    prior, found = world.prior, []
    for step in world.steps:
        signal = 1 - step.sigma if world.flow else 1.0
        kept = signal * prior.variance / (signal**2 * prior.variance + step.sigma**2)
        c = step.of_x0 * (1 - kept * signal) * prior.means[0]
        found.append((step.of_x + step.of_x0 * kept, c, step.noise))
    return found


def last(world: World) -> tuple[Tensor, float]:
    """Mean and variance of z."""
    mean, variance = torch.zeros_like(world.prior.means[0]), world.start_variance
    for a, c, s in affine(world):
        mean, variance = a * mean + c, a**2 * variance + s**2
    return mean, variance


def truth(world: World) -> Truth:
    """Of a linear reward, and of −½ ‖z − c‖²."""
    mean, v = last(world)
    scale = world.scale
    if isinstance(world.reward, Linear):
        a = world.reward.a
        of_reward = (a @ mean + scale * v * a @ a).item()
        log_z = (scale * a @ mean + 0.5 * scale**2 * v * a @ a).item()
    else:
        off = (mean - world.reward.center).square().sum().item()
        wide = 1 + scale * v
        log_z = -0.5 * scale * off / wide - 0.5 * world.dim * math.log(wide)
        of_reward = -0.5 * (off / wide**2 + world.dim * v / wide)
    return Truth(log_z, of_reward, scale * of_reward - log_z)


class Optimal:
    """The optimal twist of a linear reward: u_i = b_{i+1}, with b_T = λ a and b_i = A_i b_{i+1}.

    Attributes:
        first: b_0, by which the noise to begin with is moved.
    """

    size = 1

    def __init__(self, world: World):
        b, self.drifts = world.scale * world.reward.a, []
        for a, _, _ in reversed(affine(world)):
            self.drifts.append(b)
            b = a * b
        self.drifts.reverse()
        self.first = b

    def __call__(self, x0: Tensor, step: int) -> tuple[slice, Tensor]:
        return slice(0, 1), self.drifts[step].expand_as(x0)[:, None]
