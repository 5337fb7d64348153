"""Guidance on smooth latents, and MMD² by autograd: what the tests of the core have in common."""

import torch
from mmd_pack.mmd_core import (
    Execution,
    Guidance,
    Latents,
    Schedule,
    Window,
)
from mmd_pack.mmd_core.kernels.kernels import Gram

F64 = torch.float64
SIGMAS = [14.0, 6.0, 2.5, 1.0, 0.4, 0.0]
EVERYWHERE = Window(1e9, 0.0)


def guidance(config, y, sigmas=SIGMAS, window=EVERYWHERE, record=False, **options):
    weights = torch.full((len(y),), 1 / len(y), dtype=y.dtype)
    of_schedule = {name: options.pop(name) for name in ("noise", "carry") if name in options}
    schedule = Schedule(sigmas, window, **of_schedule)
    return Guidance(
        config, Latents(y, weights), schedule, execution=Execution(record=record), **options
    )


def make(rng, batch=5, n=9, dtype=F64):
    y, x0 = latents(rng, n).to(dtype), latents(rng, batch, 0.4).to(dtype)
    return y, x0, x0 + 2.5 * torch.randn(x0.shape, generator=rng, dtype=F64).to(dtype)


def equal(n):
    return torch.full((n,), 1 / n, dtype=F64)


def latents(rng, n, shift=0.0, shape=(4, 12, 10)):
    """Smooth latents: low frequencies dominate, as in pictures."""
    noise = torch.randn(n, *shape, generator=rng, dtype=F64)
    if len(shape) >= 3:
        noise = noise + noise.mean((-2, -1), keepdim=True) * 8
    return noise + shift


def autograd_mmd2(x, y, kernel, weights):
    """MMD² in plain differences of rows, leaving out the pairs i = i that are constant or singular."""
    x, y, q = x.flatten(1), y.flatten(1), weights / weights.sum()

    def values(a, b):
        if not kernel.radial:
            return kernel.values(Gram(a @ b.T, None, None))
        d2 = (a[:, None] - b).square().sum(2)
        return kernel.values(Gram(torch.zeros_like(d2), d2.new_zeros(len(a)), d2))

    kxx = values(x, x[torch.arange(len(x))])
    if kernel.radial:
        i, j = torch.triu_indices(len(x), len(x), offset=1)
        pairs = (x[i] - x[j]).square().sum(1)[None]
        kxx = 2 * kernel.values(Gram(torch.zeros_like(pairs), pairs.new_zeros(1), pairs))
    return kxx.sum() / len(x) ** 2 - 2 * (values(x, y) @ q).mean()
