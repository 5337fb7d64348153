"""Fewer references that stand for all: a weighted subset with a small MMD² to the whole set.

A set whose kernel values do not fit into memory is divided and conquered: chunks of it become weighted
subsets, and the union of these, which stands for the whole set, is compressed like a set.

References:
    Shetty, Dwivedi, Mackey, Distribution Compression in Near-Linear Time, ICLR 2022 (Compress++).
    https://arxiv.org/abs/2111.07941
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.config import KernelConfig
from .herding import ROUNDS, Centred, best_weights, herd
from .piecewise_kernel import (
    CHUNK,
    PiecewiseKernel,
    Progress,
    Similarity,
    estimated_similarity,
    part,
    silent,
)

__all__ = ["Compressed", "compress"]

TOGETHER = 1024  # references chosen together; more are chosen in several parts
EXACT = 20_000  # references, at most, whose pairs are all looked at, if only to know MMD²


class Compressed(NamedTuple):
    """A weighted subset.

    Attributes:
        indices: The references chosen, ascending, with shape `(K,)`.
        weights: Their weights, with shape `(K,)`, above 0, sum 1.
        mmd2: Biased MMD² between the whole set and the subset.
        mmd2_random: What to expect of as many references drawn at random.
        exact: Whether the two come from all pairs of references, or are estimated from many.
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
    progress: Progress = silent,
) -> Compressed:
    """At most `count` references, with weights, that stand for all; the same ones every time.

    Arguments:
        latents: References, with shape `(N, *shape)`; read in pieces, so that they may lie in a file.
        weights: Their weights, with shape `(N,)`, not negative; normalised here.
        kernel_config: The kernel. Median distances are those of at most 2048 references.
        features: What the kernel compares: makes rows `(n, F)` of latents `(n, *shape)` on `device`.
        prompts: Caption features, with shape `(N, E)`, for a prompt kernel.
        memory: Bytes to stay within, besides the latents.
        device: Where kernel values are computed, in float32; all else happens on the CPU.
        progress: Called with the share of the work that is done, in [0, 1]; may raise, to stop.

    Raises:
        ValueError: A count below 1, or more than `memory` allows.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    q = weights.detach().cpu().double()
    members = q.nonzero().flatten()
    q = q[members] / q.sum()
    n = len(members)
    if n <= count:
        return Compressed(members, q.float(), 0.0, 0.0, True)
    limit = max(64, math.isqrt(memory // 16))  # of rows whose kernel values are held at once
    if count > limit:
        raise ValueError(
            f"{count} references need {16 * count**2 / 2**30:.1f} GB: raise memory or lower count"
        )
    # In random order: neither chunks nor samples may depend on how folders are sorted.
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    members, q = members[order], q[order]
    kernel = PiecewiseKernel(latents, features, prompts, memory, device, part(progress, 0, 0.1))
    kernel.resolve(kernel_config, members[: min(CHUNK, limit // 2)])

    choice = Choice(kernel, limit)
    chosen, w = choice(members, q, count, part(progress, 0.1, 0.7))
    mean = kernel.embedding(chosen, members, q, part(progress, 0.7, 0.85))
    itself, told = choice.itself, part(progress, 0.85, 1)
    if itself is None and n <= EXACT:
        itself = kernel.similarity(members, q, told)
    elif itself is None:
        itself = estimated_similarity(kernel, members, q, chosen, w, mean, told)
    gram = kernel.matrix(chosen).double()
    gram += itself.norm
    gram -= mean
    gram -= mean[:, None]  # now k̃ about the mean embedding of the whole set
    w = best_weights(gram)
    mmd2 = max(float(w @ gram @ w), 0.0)
    progress(1.0)
    chosen, w = chosen[w > 0], w[w > 0]
    order = chosen.argsort()
    random = itself.of_random(q, count)
    return Compressed(chosen[order], w[order].float(), mmd2, random, itself.exact)


class Choice:
    """Chooses references, in chunks where it must.

    Attributes:
        itself: How similar the set is to itself, if all its kernel values were at hand.
    """

    def __init__(self, kernel: PiecewiseKernel, limit: int):
        self.kernel, self.limit = kernel, limit
        self.itself: Similarity | None = None

    def __call__(self, members, q, count: int, progress: Progress) -> tuple[Tensor, Tensor]:
        """`count` references that stand for `members`, whose weights are `q`, and their weights."""
        parts = math.ceil(count / min(TOGETHER, self.limit // 2))
        found = []
        for p, (some, weights) in enumerate(deal(members, q, parts)):
            told = part(progress, p / parts, (p + 1) / parts)
            share = count // parts + (p < count % parts)
            while len(some) > self.limit:
                some, weights = self.thinned(some, weights, share, part(told, 0, 0.7))
                told = part(told, 0.7, 1)
            found.append(self.coreset(some, weights, share, told, len(some) == len(members)))
        return joined(found)

    def thinned(self, members, q, count: int, progress: Progress) -> tuple[Tensor, Tensor]:
        """Weighted subsets of chunks: a fraction of `members`, but at least about twice `count`."""
        chunks = math.ceil(len(members) / min(CHUNK, self.limit))
        size = len(members) // chunks
        kept = min(size // 4, max(self.limit // chunks, size // 32))
        kept = max(kept, 2 * count // chunks, 1)
        return joined(
            [
                self.coreset(*chunk, kept, part(progress, i / chunks, (i + 1) / chunks), rounds=0)
                for i, chunk in enumerate(deal(members, q, chunks))
            ]
        )

    def coreset(self, members, q, count: int, progress: Progress, whole=False, rounds=ROUNDS):
        """`count` references that stand for `members`, and weights with the same sum."""
        members, order = members.sort()  # a file is read from start to end
        q, total = q[order], q.sum()
        kernel = Centred(self.kernel.matrix(members, part(progress, 0, 0.7)), q / total)
        if whole:
            own = float(q @ kernel.values.diagonal().double())
            self.itself = Similarity(float(kernel.norm), own)
        chosen = herd(kernel, count, rounds, part(progress, 0.7, 1))
        return members[chosen], total * best_weights(kernel.rows(chosen)[:, chosen])


def deal(members: Tensor, q: Tensor, hands: int) -> list[tuple[Tensor, Tensor]]:
    """References and weights dealt like cards."""
    return [(members[i::hands], q[i::hands]) for i in range(hands)]


def joined(found: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    members, q = map(torch.cat, zip(*found, strict=True))
    return members, q
