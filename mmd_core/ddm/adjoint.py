"""The exact gradient of a loss of all samples through the sampler, with the memory of a few.

The MMD of a batch needs the whole batch, backpropagation through K calls of the model the memory of K calls for each of
its samples. Neither has to be held at once:

    pass 1   draw all samples without a graph, micro-batch by micro-batch; keep u_k
    loss     λ = ∂L/∂x for all samples together
    pass 2   from the last call to the first, micro-batch by micro-batch, each call on its own:
             G_k = C_Kk λ + Σ_{l>k} C_lk μ_l,   μ_k = (∂D_k/∂u_k)ᵀ G_k,   ∂L/∂θ += (∂D_k/∂θ)ᵀ G_k

with the coefficients C of `chain.py`. One call is in memory at a time, and the work is that of checkpointing: two
forward passes and one backward.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .chain import LinearChain

__all__ = ["Denoise", "Drawn", "accumulate", "draw", "parts"]

Denoise = Callable[[Tensor, float, Sequence[int]], Tensor]
"""`(x, sigma, rows)` to x̂0 of the samples `rows` of the batch, with shape `(b, *)`."""


class Drawn(NamedTuple):
    """N samples and how they came about.

    Attributes:
        samples: With shape `(N, *)`.
        states: u_k of each call, with shape `(K, N, *)`; empty unless kept.
    """

    samples: Tensor
    states: Tensor


def parts(count: int, size: int) -> Iterator[range]:
    """The micro-batches of `size` that `count` samples fall into."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


@torch.no_grad()
def draw(
    chain: LinearChain, denoise: Denoise, start: Tensor, noise: Tensor, micro_batch: int,
    keep: bool = True,
) -> Drawn:  # fmt: skip
    """Samples of the chain.

    Arguments:
        start: x_0, noise at the first σ, with shape `(N, *)`.
        noise: ξ, with shape `(R, N, *)`.
        micro_batch: How many samples the model is handed at once.
        keep: Whether u_k are kept, for `accumulate`.
    """
    samples = torch.empty_like(start)
    states = start.new_empty(len(chain) if keep else 0, *start.shape)
    for rows in parts(len(start), micro_batch):
        piece = slice(rows.start, rows.stop)
        estimates, drawn = [], list(noise[:, piece])
        for k, sigma in enumerate(chain.sigmas):
            u = chain.state(k, start[piece], estimates, drawn)
            if keep:
                states[k, piece] = u
            estimates.append(denoise(u, sigma, rows))
        samples[piece] = chain.state(len(chain), start[piece], estimates, drawn)
    return Drawn(samples, states)


def accumulate(
    chain: LinearChain, denoise: Denoise, states: Tensor, gradient: Tensor, parameters: list[Tensor],
    micro_batch: int, last: int = 0, base: Denoise | None = None, penalty: float = 0.0,
) -> None:  # fmt: skip
    """Adds ∂L/∂θ to `.grad` of the parameters.

    Arguments:
        states: u_k, with shape `(K, N, *)`, of `draw`.
        gradient: λ = ∂L/∂x of the samples, with shape `(N, *)`.
        last: How many calls the gradient goes back through; 0: all. Fewer are cheaper and biased.
        base: The model without what is trained, for the penalty.
        penalty: β of β · mean (D_θ(u_k) − D_base(u_k))², the mean over samples, calls and entries, which is added to
            the loss; both change with u_k. With `last`, of those calls only.
    """
    calls = len(chain)
    first = max(0, calls - last) if last else 0
    numbers = calls * gradient.numel()
    for rows in parts(gradient.shape[0], micro_batch):
        piece = slice(rows.start, rows.stop)
        pulled: dict[int, Tensor] = {calls: gradient[piece]}  # μ_l; of the sample λ itself
        for k in range(calls - 1, first - 1, -1):
            shares = chain.of_estimates[:, k].tolist()
            upstream = sum(shares[later] * mu for later, mu in pulled.items() if shares[later] != 0)
            x = states[k, piece].detach().requires_grad_(k > first)
            with torch.enable_grad():
                estimate = denoise(x, chain.sigmas[k], rows)
            away = None
            if base is not None and penalty > 0:
                with torch.no_grad():
                    away = estimate - base(x, chain.sigmas[k], rows)
                away *= 2 * penalty / numbers
                upstream = upstream + away
            if not isinstance(upstream, Tensor) or not estimate.requires_grad:
                continue  # the sampler does not use it, or nothing of it can be trained
            inputs = [x, *parameters] if x.requires_grad else parameters
            torch.autograd.backward(estimate, upstream.to(estimate), inputs=inputs)
            if x.requires_grad and away is not None:
                with torch.enable_grad():
                    untouched = base(x, chain.sigmas[k], rows)
                torch.autograd.backward(untouched, -away.to(untouched), inputs=[x])
            if x.requires_grad:
                pulled[k] = x.grad
