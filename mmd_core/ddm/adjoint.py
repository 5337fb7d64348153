"""The exact gradient of a loss through the sampler.

The MMD needs the whole batch, and plain backpropagation through K calls of the model needs the
memory of K calls for each sample. This method needs the memory of one call for one micro-batch:

    pass 1   draw all samples without a graph, micro-batch by micro-batch; store u_k
    loss     λ = ∂L/∂x for all samples together
    pass 2   from the last call to the first, micro-batch by micro-batch, each call on its own:
             G_k = C_Kk λ + Σ_{l>k} C_lk μ_l,   μ_k = (∂D_k/∂u_k)ᵀ G_k
             ∂L/∂θ += (∂D_k/∂θ)ᵀ G_k

with the coefficients C of `chain.py`. The cost is that of gradient checkpointing: two forward
passes and one backward pass.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .chain import LinearChain

__all__ = ["Denoise", "Drawn", "Penalty", "accumulate", "draw", "micro_batches"]

Denoise = Callable[[Tensor, float, Sequence[int]], Tensor]
"""`(x, sigma, indices)` to x̂0 of the samples `indices` of the batch, with shape `(b, *)`."""


class Drawn(NamedTuple):
    """N samples and the model inputs that led to them.

    Attributes:
        samples: The samples, with shape `(N, *)`.
        states: u_k, the input of each call, with shape `(K, N, *)`; empty if not kept.
    """

    samples: Tensor
    states: Tensor


@dataclass(frozen=True, eq=False)
class Penalty:
    """The penalty β · mean (D_θ(u_k) − D_base(u_k))², which is added to the loss.

    The mean is over samples, calls and entries. The gradient also passes through u_k. If the
    gradient passes only through the last calls, only those contribute.

    Attributes:
        base: The model without adapters.
        weight: β, above 0.
    """

    base: Denoise
    weight: float


def micro_batches(count: int, size: int) -> Iterator[range]:
    """Splits `count` samples into micro-batches of `size`; yields the indices of each."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


@torch.no_grad()
def draw(
    chain: LinearChain, denoise: Denoise, start: Tensor, noise: Tensor, micro_batch: int,
    keep: bool = True,
) -> Drawn:  # fmt: skip
    """Draws samples with the chain, without gradients.

    Arguments:
        chain: The sampler.
        denoise: The model.
        start: x_0, noise at the first σ, with shape `(N, *)`.
        noise: ξ, the noise that the sampler adds between calls, with shape `(R, N, *)`.
        micro_batch: The number of samples in one call of the model.
        keep: Whether to keep u_k, which `accumulate` needs.
    """
    samples = torch.empty_like(start)
    states = start.new_empty(len(chain) if keep else 0, *start.shape)
    for indices in micro_batches(len(start), micro_batch):
        piece = slice(indices.start, indices.stop)
        estimates, drawn = [], list(noise[:, piece])
        for k, sigma in enumerate(chain.sigmas):
            u = chain.state(k, start[piece], estimates, drawn)
            if keep:
                states[k, piece] = u
            estimates.append(denoise(u, sigma, indices))
        samples[piece] = chain.state(len(chain), start[piece], estimates, drawn)
    return Drawn(samples, states)


def accumulate(
    chain: LinearChain, denoise: Denoise, states: Tensor, gradient: Tensor,
    parameters: list[Tensor], micro_batch: int, last: int = 0, penalty: Penalty | None = None,
) -> None:  # fmt: skip
    """Adds ∂L/∂θ to `.grad` of the parameters.

    Arguments:
        chain: The sampler.
        denoise: The model.
        states: u_k from `draw`, with shape `(K, N, *)`.
        gradient: λ = ∂L/∂x of the samples, with shape `(N, *)`.
        parameters: The trained tensors θ.
        micro_batch: The number of samples in one call of the model.
        last: The gradient passes only through this number of last calls; 0 means all. Fewer are
            cheaper but biased.
        penalty: A penalty on the distance from the untrained model, or None.
    """
    calls = len(chain)
    first = max(0, calls - last) if last else 0
    numbers = calls * gradient.numel()
    for indices in micro_batches(gradient.shape[0], micro_batch):
        piece = slice(indices.start, indices.stop)
        pulled: dict[int, Tensor] = {calls: gradient[piece]}  # l: μ_l; for the final sample, λ
        for k in range(calls - 1, first - 1, -1):
            shares = chain.of_estimates[:, k].tolist()
            upstream = sum(shares[later] * mu for later, mu in pulled.items() if shares[later] != 0)
            x = states[k, piece].detach().requires_grad_(k > first)
            with torch.enable_grad():
                estimate = denoise(x, chain.sigmas[k], indices)
            drift = None
            if penalty is not None:
                with torch.no_grad():
                    drift = estimate - penalty.base(x, chain.sigmas[k], indices)
                drift *= 2 * penalty.weight / numbers
                upstream = upstream + drift
            if not isinstance(upstream, Tensor) or not estimate.requires_grad:
                continue  # the sampler does not use this estimate, or no parameter is trained in it
            inputs = [x, *parameters] if x.requires_grad else parameters
            torch.autograd.backward(estimate, upstream.to(estimate), inputs=inputs)
            if x.requires_grad and drift is not None:
                with torch.enable_grad():
                    untrained = penalty.base(x, chain.sigmas[k], indices)
                torch.autograd.backward(untrained, -drift.to(untrained), inputs=[x])
            if x.requires_grad:
                pulled[k] = x.grad
