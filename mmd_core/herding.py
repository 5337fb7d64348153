"""Fewer references that stand for all: a weighted subset whose MMD² to the whole set is small.

With the kernel centred about the mean embedding μ(x) = Σ q_j k(x, y_j) of the N references,

    k̃(x, z) = k(x, z) − μ(x) − μ(z) + ‖μ‖²        MMD²(set, subset) = Σ w_s w_t k̃(s, t)

and the best weights of a subset S, with sum 1, leave MMD² = 1 / (1ᵀ K̃_S⁻¹ 1). References are chosen
greedily by what they do to that, and then exchanged, one at a time, as long as it helps.

A set whose kernel values do not fit into memory is divided and conquered: chunks of it become weighted
subsets, and the union of these, which stands for the whole set, is compressed.

References:
    Chen, Welling, Smola, Super-Samples from Kernel Herding, UAI 2010. https://arxiv.org/abs/1203.3472
    Huszár, Duvenaud, Optimally-Weighted Herding is Bayesian Quadrature, UAI 2012: choosing under the
    best weights. https://arxiv.org/abs/1204.1664
    Dwivedi, Mackey, Kernel Thinning, COLT 2021: exchanging what was chosen (KT-SWAP).
    https://arxiv.org/abs/2105.05842
    Shetty, Dwivedi, Mackey, Distribution Compression in Near-Linear Time, ICLR 2022: divide and conquer
    (Compress++). https://arxiv.org/abs/2111.07941
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .config import KernelConfig
from .kernels import DotKernel, Gram, Kernel
from .prompt import caption_bandwidth, prompt_weights

__all__ = ["Compressed", "best_weights", "compress", "select"]

CHUNK = 2048  # references whose kernel values are computed together, where not all of them fit
TOGETHER = 1024  # references chosen together; more are chosen in as many parts as it takes
ENOUGH = 0.01  # a round of exchanges that lowers MMD² by less is the last one
# Added to the diagonal of K̃, in units of its mean. It keeps inverses exact and weights positive, and
# plays no part before MMD² is a thousandth of a random subset's.
RIDGE = 1e-3
STEPS = 2000  # at most, for the weights
GAP = 0.01  # of MMD²: how far weights may be from the best ones

Progress = Callable[[float], None]


class Compressed(NamedTuple):
    """A weighted subset.

    Arguments:
        indices: The references chosen, ascending, with shape `(K,)`.
        weights: Their weights, with shape `(K,)`, above 0, sum 1.
        mmd2: Biased MMD² between the whole set and the subset.
        mmd2_random: What to expect of as many references drawn at random.
        exact: Whether both figures come from all pairs of references, or from a part of them.
    """

    indices: Tensor
    weights: Tensor
    mmd2: float
    mmd2_random: float
    exact: bool


def compress(
    latents: Tensor,
    weights: Tensor,
    count: int,
    kernel_config: KernelConfig,
    *,
    features: Callable[[Tensor], Tensor] = lambda latents: latents.flatten(1),
    prompts: Tensor | None = None,
    memory: int = 2**31,
    device: torch.device | str = "cpu",
    progress: Progress = lambda share: None,
) -> Compressed:
    """At most `count` references, with weights, that stand for all of them.

    References of weight 0 are never chosen. Always the same result for the same arguments.

    Arguments:
        latents: References, with shape `(N, *shape)`; read in pieces, so they may lie in a file.
        weights: Their weights, with shape `(N,)`, not negative; normalised here.
        kernel_config: The kernel. Median distances are those of up to 2048 references.
        features: What the kernel compares: makes rows `(n, F)` of latents `(n, *shape)` on `device`.
        prompts: Caption features, with shape `(N, E)`, for a prompt kernel.
        memory: Bytes to stay within, besides the latents.
        device: Where kernel values are computed, in float32. Everything else happens on the CPU.
        progress: Called with the share of the work done, in [0, 1]; may raise, to stop.

    Raises:
        ValueError: A count below 1, or more than fit into `memory`.
    """
    q = weights.detach().cpu().double()
    q = q / q.sum()
    members = q.nonzero().flatten()
    n, limit = len(members), max(64, math.isqrt(memory // 16))
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    if n <= count:
        return Compressed(members, q[members].float(), 0.0, 0.0, True)
    if count > limit:
        raise ValueError(
            f"{count} references at once need {16e-9 * count**2:.1f} GB of memory: raise memory, or "
            "lower count"
        )
    # Chunks have to be random, or what is alike in neighbours would be missing in `Similarity`.
    members = members[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    pairs = _Pairs(latents, features, prompts, memory, device)
    pairs.resolve(kernel_config, members[: min(CHUNK, limit)])

    reduction = _Reduction(pairs, limit, _part(progress, 0, 0.8))
    chosen, w = reduction(members, q[members], count)
    chosen, place = chosen.sort()
    values = pairs.matrix(chosen)
    similarity = reduction.similarity()
    mean = pairs.embedding(chosen, q, _part(progress, 0.8, 1.0))
    if reduction.divided:
        w = best_weights(values.double() - mean[:, None] - mean + similarity)
    else:
        w = w[place]
    mmd2 = w @ (values.double() @ w) - 2 * (w @ mean) + similarity
    return Compressed(chosen, w)
