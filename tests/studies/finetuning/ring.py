"""The world: a ring of 8 Gaussians, a small network that denoises it, samplers, and how near samples come to the truth."""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from mmd_pack.mmd_core.ddm import LinearChain, draw
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHTS = Path(__file__).with_name("ring.safetensors")
BASES = {
    "long": (8000, True),
    "brief": (2000, False),
}  # training steps of 512 points, and whether the rate falls
MODES, SPREAD = 8, 0.1  # Gaussians on the unit circle, and their standard deviation
HIGHEST, LOWEST = 10.0, 0.02  # noise levels
HELD_OUT = 4000
WIDTHS = (0.25, 0.5, 1.0, 2.0)  # of the kernel, in median distances
MEDIAN = 1.42  # the median distance between two points


def centres() -> Tensor:
    """With shape `(8, 2)`."""
    angle = torch.arange(MODES) * 2 * math.pi / MODES
    return torch.stack([angle.cos(), angle.sin()], 1)


def points(count: int, random: torch.Generator) -> Tensor:
    """Of the ring, with shape `(count, 2)`."""
    chosen = torch.randint(MODES, (count,), generator=random)
    return centres()[chosen] + SPREAD * torch.randn(count, 2, generator=random)


class Network(nn.Module):
    """x̂0 of noisy points; 4 layers of width 128 between the scalings of Karras et al. (2022)."""

    def __init__(self, width: int = 128):
        super().__init__()
        sizes = (3, width, width, width, 2)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """`x` with shape `(n, 2)`, `sigma` with shape `(n, 1)`."""
        data = math.sqrt(0.5 + SPREAD**2)  # standard deviation of a coordinate
        scale = (sigma**2 + data**2).rsqrt()
        h = torch.cat([x * scale, sigma.log() / 4], 1)
        for layer in self.layers[:-1]:
            h = F.silu(layer(h))
        return x * (data * scale) ** 2 + sigma * data * scale * self.layers[-1](h)


def train_base(steps: int, decayed: bool, seed: int = 7990) -> Network:
    """A network that denoises the ring, from denoising alone."""
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for i in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - i / steps if decayed else 1)
        y = points(512, random)
        sigma = torch.exp(torch.randn(512, 1, generator=random) * 1.4 - 0.8)
        found = network(y + sigma * torch.randn(512, 2, generator=random), sigma)
        weight = (sigma**2 + 0.51) / (sigma**2 * 0.51)
        optimizer.zero_grad()
        (weight * (found - y) ** 2).mean().backward()
        optimizer.step()
    return network.requires_grad_(False)


def train_bases() -> None:
    """Writes both networks to the file; a minute or two."""
    state = {}
    for name, (steps, decayed) in BASES.items():
        for key, value in train_base(steps, decayed).state_dict().items():
            state[f"{name}.{key}"] = value
    save_file(state, WEIGHTS)


def base(name: str) -> Network:
    """One of `BASES`, from the file."""
    state = load_file(WEIGHTS)
    network = Network()
    network.load_state_dict(
        {key.removeprefix(f"{name}."): v for key, v in state.items() if key.startswith(f"{name}.")}
    )
    return network.requires_grad_(False)


# --- samplers, as ComfyUI has them: `(model, x, noise_sampler)` to the sample ----------------------


def karras(steps: int) -> list[float]:
    """Noise levels of Karras et al. (2022) with ρ = 7, and 0."""
    low, high = LOWEST ** (1 / 7), HIGHEST ** (1 / 7)
    return [*((high + torch.linspace(0, 1, steps) * (low - high)) ** 7).tolist(), 0.0]


def euler(model, x, noise_sampler, sigmas):
    for high, low in zip(sigmas, sigmas[1:], strict=False):
        x = x + (x - model(x, high)) * (low / high - 1)
    return x


def dpmpp_2m(model, x, noise_sampler, sigmas):
    """DPM-Solver++(2M), Lu et al. (2022): each step also takes the estimate of the one before."""
    before = last = None
    for high, low in zip(sigmas, sigmas[1:], strict=False):
        found = model(x, high)
        if low == 0:
            return found
        step, taken = math.log(high / low), found
        if before is not None:
            taken = found + (found - before) * step / (2 * last)
        x = low / high * x - math.expm1(-step) * taken
        before, last = found, step
    return x


def euler_ancestral(model, x, noise_sampler, sigmas):
    """Each step goes below its end, and noise is added."""
    for high, low in zip(sigmas, sigmas[1:], strict=False):
        found = model(x, high)
        up = low * math.sqrt(1 - (low / high) ** 2)
        down = math.sqrt(low**2 - up**2)
        x = found + down / high * (x - found)
        if low:
            x = x + up * noise_sampler(high, low)
    return x


SAMPLERS: dict[str, Callable] = {
    "euler": euler,
    "dpmpp_2m": dpmpp_2m,
    "euler_ancestral": euler_ancestral,
}


def chain(steps: int, sampler: str = "euler") -> LinearChain:
    """A sampler of so many steps, as the pack reads it."""
    sigmas = karras(steps)

    def run(model, x, noise_sampler):
        return SAMPLERS[sampler](model, x, noise_sampler, sigmas)

    return LinearChain.of(run, steps + 2)


def denoise(network: nn.Module) -> Callable:
    """As the pack asks a model."""

    def of(x: Tensor, sigma: float, rows) -> Tensor:
        return network(x, x.new_full((len(x), 1), sigma))

    return of


def samples(network: nn.Module, through: LinearChain, count: int, seed: int) -> Tensor:
    """What the network draws, with shape `(count, 2)`."""
    random = torch.Generator().manual_seed(seed)
    start = HIGHEST * torch.randn(count, 2, generator=random)
    noise = torch.randn(through.draws, count, 2, generator=random)
    return draw(through, denoise(network), start, noise, count, keep=False).samples


# --- how near samples are to the ring -------------------------------------------------------------


class Nearness(NamedTuple):
    """How near samples are to the ring.

    Attributes:
        exact: Unbiased MMD² from the ring itself, whose part in it is known in closed form.
        held_out: Unbiased MMD² from held-out points, with the same kernel.
        energy: Unbiased energy distance from held-out points.
        sliced: W1 to held-out points, the mean over 128 directions; not 0 for points of the ring either.
        inliers: The share within 3 standard deviations of a centre; 0.989 of the ring.
        frechet: Between Gaussians with the same mean and covariance as samples and held-out points.
    """

    exact: float
    held_out: float
    energy: float
    sliced: float
    inliers: float
    frechet: float


def nearness(x: Tensor, seed: int) -> Nearness:
    """Of samples `(n, 2)`, n a multiple of 4000; `seed` draws the held-out points.

    The exact MMD² is the mean over parts of 4000; the others are of the first part.
    """
    exact = mmd2(x)
    x = x[:HELD_OUT]
    y, kyy, dyy = _held_out(seed)
    kxx, dxx = _pairs(x, x)
    kxy, dxy = _pairs(x, y)
    return Nearness(
        exact, kxx + kyy - 2 * kxy, 2 * dxy - dxx - dyy, _sliced(x, y), inliers(x), _frechet(x.double(), y.double()),
    )  # fmt: skip


def mmd2(x: Tensor) -> float:
    """Unbiased MMD² of samples `(n, 2)` from the ring itself, the mean over parts of 4000."""
    parts = x.split(HELD_OUT)
    found = [_pairs(part, part)[0] + _ring_with_itself() - 2 * _with_ring(part) for part in parts]
    return sum(found) / len(found)


def inliers(x: Tensor) -> float:
    """The share of samples `(n, 2)` within 3 standard deviations of a centre."""
    return (torch.cdist(x, centres()).amin(1) < 3 * SPREAD).double().mean().item()


@cache
def _held_out(seed: int) -> tuple[Tensor, float, float]:
    y = points(HELD_OUT, torch.Generator().manual_seed(100_000 + seed))
    return y, *_pairs(y, y)


def _pairs(x: Tensor, z: Tensor) -> tuple[float, float]:
    """The mean kernel and the mean distance of pairs; if both are the same, without points with themselves."""
    kernel = distance = 0.0
    for part in x.split(250):  # few enough for the CPU cache
        d2 = torch.cdist(part, z, compute_mode="donot_use_mm_for_euclid_dist")
        distance += d2.sum(dtype=torch.float64).item()
        k = d2.square_().mul_(-0.5 / (WIDTHS[-1] * MEDIAN) ** 2).exp_()
        for _ in WIDTHS:  # of half a width it is the 4th power
            kernel += k.sum(dtype=torch.float64).item() / len(WIDTHS)
            k.square_().square_()
    if x is z:
        return (kernel - len(x)) / len(x) / (len(x) - 1), distance / len(x) / (len(x) - 1)
    return kernel / len(x) / len(z), distance / len(x) / len(z)


def _smoothed(x: Tensor, variance: float) -> float:
    """The mean kernel between points `(n, 2)` and centres, when their difference has that variance more."""
    d2 = torch.cdist(x.double(), centres().double()).square()
    total = 0.0
    for width in WIDTHS:
        h2 = (width * MEDIAN) ** 2
        wide = h2 + variance
        total += (h2 / wide * torch.exp(-d2 / (2 * wide))).mean().item() / len(WIDTHS)
    return total


def _with_ring(x: Tensor) -> float:
    return _smoothed(x, SPREAD**2)


def _ring_with_itself() -> float:
    return _smoothed(centres(), 2 * SPREAD**2)


def _sliced(x: Tensor, y: Tensor) -> float:
    angle = torch.arange(128) * math.pi / 128
    along = torch.stack([angle.cos(), angle.sin()])
    both = [(z @ along).sort(0).values for z in (x, y)]
    return (both[0] - both[1]).abs().mean().item()


def _frechet(x: Tensor, y: Tensor) -> float:
    a, b = torch.cov(x.T), torch.cov(y.T)
    product = a @ b  # of a 2 × 2 matrix, tr √M = √(tr M + 2 √det M)
    root = (product.trace() + 2 * product.det().sqrt()).sqrt()
    return ((x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace() - 2 * root).item()
