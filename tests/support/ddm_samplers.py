"""Samplers written out by hand, `(model, x, noise_sampler)` to the sample, and a network that is linear in nothing."""

import math

import torch
from torch import nn

F64 = torch.float64
SIGMAS = (7.0, 4.0, 1.5, 0.6, 0.0)


def euler(sigmas=SIGMAS):
    def run(model, x, noise_sampler):
        for sigma, after in zip(sigmas, sigmas[1:], strict=False):
            x = x + (x - model(x, sigma)) / sigma * (after - sigma)
        return x

    return run


def heun(sigmas=SIGMAS):
    """Second order: two calls a step, the last one Euler's."""

    def run(model, x, noise_sampler):
        for sigma, after in zip(sigmas, sigmas[1:], strict=False):
            slope = (x - model(x, sigma)) / sigma
            ahead = x + slope * (after - sigma)
            if after > 0:
                slope = (slope + (ahead - model(ahead, after)) / after) / 2
            x = x + slope * (after - sigma)
        return x

    return run


def multistep(sigmas=SIGMAS):
    """DPM-Solver++(2M): each step also uses the estimate of the one before."""

    def run(model, x, noise_sampler):
        before, last = None, None
        for sigma, after in zip(sigmas, sigmas[1:], strict=False):
            found = model(x, sigma)
            if after == 0:
                return found
            step = math.log(sigma / after)
            estimate = found
            if before is not None:
                ratio = last / step
                estimate = (1 + 1 / (2 * ratio)) * found - before / (2 * ratio)
            x = after / sigma * x - math.expm1(-step) * estimate
            before, last = found, step
        return x

    return run


def ancestral(sigmas=SIGMAS):
    """Euler's, with noise after each step but the last."""

    def run(model, x, noise_sampler):
        for sigma, after in zip(sigmas, sigmas[1:], strict=False):
            up = after * math.sqrt(1 - after**2 / sigma**2)
            down = math.sqrt(after**2 - up**2)
            x = x + (x - model(x, sigma)) / sigma * (down - sigma)
            if after > 0:
                x = x + up * noise_sampler(sigma, after)
        return x

    return run


def wasteful(sigmas=SIGMAS):
    """Euler's, with calls before, within and after it, of which nothing comes."""

    def run(model, x, noise_sampler):
        model(x, sigmas[0])
        x = euler(sigmas[:3])(model, x, noise_sampler)
        model(2 * x, 1.0)
        x = euler(sigmas[2:])(model, x, noise_sampler)
        model(x, 0.1)
        return x

    return run


SAMPLERS = {
    "euler": euler, "heun": heun, "multistep": multistep, "ancestral": ancestral, "wasteful": wasteful,
}  # fmt: skip


class Network(nn.Module):
    """An arbitrary smooth x̂0 of `(b, dim)`; each sample of the batch may have its own label."""

    def __init__(self, dim=3, dtype=F64, seed=0, labels=1):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        sizes = {
            "first": (16, dim + 1),
            "second": (16, 16),
            "last": (dim, 16),
            "label": (labels, 16),
        }
        for name, size in sizes.items():
            value = torch.randn(size, generator=random, dtype=F64) / math.sqrt(size[1])
            self.register_parameter(name, nn.Parameter(value.to(dtype)))

    def forward(self, x, sigma, labels=None):
        x = torch.cat([x, x.new_full((len(x), 1), math.log(sigma))], 1)
        h = (x @ self.first.T).tanh()
        if labels is not None:
            h = h + self.label[labels]
        return (h @ self.second.T).sin() @ self.last.T
