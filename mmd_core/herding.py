"""Fewer references that stand for all: a weighted subset whose MMD² to the whole set is small.

With the kernel centred about the mean embedding μ(x) = Σ q_j k(x, y_j) of the N references,

    k̃(x, z) = k(x, z) − μ(x) − μ(z) + ‖μ‖²        MMD²(set, subset) = Σ w_s w_t k̃(s, t)

and the best weights of a subset S leave MMD² = 1 / (1ᵀ K̃_S⁻¹ 1). References are chosen greedily by
what they do to this figure, then exchanged one by one while that helps. Looking ahead to the best
weights is what classical herding, with equal ones, lacks; `tests/benchmarks/compress.py` compares.

A set whose kernel values do not fit into memory is divided and conquered: random chunks become weighted
subsets, and the union of these, which stands for the whole set, is compressed.

References:
    Chen, Welling, Smola, Super-Samples from Kernel Herding, UAI 2010. https://arxiv.org/abs/1203.3472
    Huszár, Duvenaud, Optimally-Weighted Herding is Bayesian Quadrature, UAI 2012: the greedy choice under
    the best weights. https://arxiv.org/abs/1204.1664
    Dwivedi, Mackey, Kernel Thinning, COLT 2021: refinement by exchange (KT-SWAP).
    https://arxiv.org/abs/2105.05842
    Shetty, Dwivedi, Mackey, Distribution Compression in Near-Linear Time, ICLR 2022: divide and conquer
    (Compress++). https://arxiv.org/abs/2111.07941
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .config import KernelConfig
from .kernels import DotKernel, Gram
from .prompt import caption_bandwidth, prompt_weights

__all__ = ["Compressed", "best_weights", "compress", "select"]

CHUNK = 2048  # references that are compared with each other at a time, where all do not fit
MOST = 1024  # references chosen together; more are chosen in as many parts as it takes
ENOUGH = 0.01  # a round of exchanges that lowers MMD² by less was the last one
# Of the mean k̃(x, x), added to the diagonal: keeps weights from growing and inverses exact, and
# costs nothing before MMD² is a thousandth of a random subset's.
RIDGE = 1e-3


class Compressed(NamedTuple):
    """A weighted subset.

    Arguments:
        indices: The references chosen, ascending, with shape `(K,)`.
        weights: Their weights, with shape `(K,)`, above 0, sum 1.
        mmd2: Biased MMD² between the whole set and the subset.
        mmd2_random: Its expectation for as many references drawn at random by their weights.
        exact: Whether the similarity of the set with itself, which enters both figures, was summed over
            all pairs of references, or else estimated from a part of them.
    """

    indices: Tensor
    weights: Tensor
    mmd2: float
    mmd2_random: float
    exact: bool = True


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
    progress: Callable[[float], None] = lambda share: None,
) -> Compressed:
    """At most `count` references, with weights, that stand for all of them.

    Deterministic. References of weight 0 are never chosen.

    Arguments:
        latents: References, with shape `(N, *shape)`; may be mapped from a file, as it is read in pieces.
        weights: Their weights, with shape `(N,)`, not negative; normalised here.
        kernel_config: The kernel; the median distance is that of up to 2048 references.
        features: What the kernel compares: from `(n, *shape)` to rows `(n, F)`.
        prompts: Caption features, with shape `(N, E)`, for a prompt kernel.
        memory: Bytes of working memory to stay within, besides the latents.
        device: Where kernel values are computed, in float32; all else is done on the CPU.
        progress: Called with the share of the work that is done; may raise to stop.

    Raises:
        ValueError: A count below 1 or too large for the memory, or a prompt kernel without prompts.
    """
    limit = max(int(math.sqrt(memory / 16)), 64)
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    q = weights.double().cpu() / weights.double().sum().cpu()
    members = q.nonzero().flatten()
    if len(members) <= count:
        return Compressed(members, q[members].float(), 0.0, 0.0)
    if count > limit:
        raise ValueError(
            f"{count} references at once need {16e-9 * count**2:.1f} GB: raise memory or lower count"
        )
    order = torch.randperm(len(members), generator=torch.Generator().manual_seed(0))
    members = members[order]
    pairs = _Pairs(latents, features, prompts, kernel_config, memory, device)
    pairs.resolve(members[: min(CHUNK, limit)].sort().values)

    search = _Search(pairs, limit)
    chosen, w = search.reduce(members, q[members], count, _part(progress, 0, 0.8))
    chosen, place = chosen.sort()
    values = pairs.matrix(chosen)
    if search.divided:
        mean = pairs.embedding(chosen, q, _part(progress, 0.8, 1))
        w = best_weights(values.double() - mean[:, None] - mean + search.self_similarity())
    else:
        mean, w = search.mean[place], w[place]
    similarity = search.self_similarity()
    mmd2 = float(w @ values.double() @ w - 2 * (w @ mean) + similarity)
    mmd2_random = 0
    progress(1.0)
    return Compressed(chosen[w > 0], w[w > 0].float(), max(mmd2, 0.0), mmd2_random)
