"""What is true of a world on a line: ψ*_i by Gauss-Hermite quadrature, backwards along the chain.

ψ*_T = e^{λ r},   ψ*_i(x) = E[ψ*_{i+1}(μ_i(x) + s_i ξ)],   Z = E[ψ*_0(x_0)]
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from mmd_tests.studies.steering.worlds import World

NODES, PLACES, REACH = 61, 4001, 9.0


@dataclass(frozen=True)
class Truth:
    """log Z, E_π[r], and KL(π ‖ P) in nats; `error` is the standard error of log Z, `mean_error` that of E_π[r]."""

    log_z: float
    mean: float
    kl: float
    error: float = 0.0
    mean_error: float = 0.0


def log_twists(world: World) -> list[tuple[np.ndarray, np.ndarray]]:
    """log ψ*_i on a grid, for i = 0 … T−1."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    weights = np.log(weights / math.sqrt(2 * math.pi))
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for i in reversed(range(len(world.steps))):
        step = world.steps[i]
        signal = 1 - step.sigma if world.flow else 1.0
        reach = REACH * math.hypot(signal, step.sigma)
        x = torch.linspace(-reach, reach, PLACES, dtype=torch.float64)[:, None]
        mean = step.mean(x, world.denoise(x, i))
        if step.noise == 0:
            log_psi = world.tilt(mean).numpy()
        else:
            after = np.interp(mean.numpy() + step.noise * nodes, *found[-1])
            log_psi = np.logaddexp.reduce(after + weights, axis=1)
        found.append((x[:, 0].numpy(), log_psi))
    return found[::-1]


def log_z(world: World) -> float:
    """log Z of a world of one dimension."""
    x, log_psi = log_twists(world)[0]
    density = -0.5 * x**2 / world.start_variance - 0.5 * math.log(
        2 * math.pi * world.start_variance
    )
    return float(np.logaddexp.reduce(log_psi + density) + math.log(x[1] - x[0]))


def truth(world: World, change: float = 1e-3) -> Truth:
    """E_π[r] is the derivative of log Z in λ."""
    low, here, high = (log_z(replace(world, scale=world.scale + d)) for d in (-change, 0.0, change))
    mean = (high - low) / (2 * change)
    return Truth(here, mean, world.scale * mean - here)
