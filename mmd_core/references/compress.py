"""Compresses references to a weighted subset with a small MMD² to the whole set.

If the kernel values of all pairs do not fit into memory, the set is divided: each chunk is reduced
to a weighted subset, and the union of these subsets is compressed in place of the whole set.

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
from ..kernels.precision import full_precision
from .herding import ROUNDS, CenteredKernel, herd, optimal_weights
from .piecewise_kernel import (
    CHUNK,
    PiecewiseKernel,
    Progress,
    Similarity,
    estimated_similarity,
    no_progress,
    stage,
)

__all__ = ["Compressed", "compress"]

TOGETHER = 1024  # references chosen in one herding run; more are chosen in several runs
EXACT = 20_000  # for more references, MMD² is estimated, because all pairs would take too long


class Compressed(NamedTuple):
    """A weighted subset.

    Attributes:
        indices: The chosen references, ascending, with shape `(K,)`.
        weights: Their weights, with shape `(K,)`, positive, sum 1.
        mmd2: Biased MMD² between the whole set and the subset.
        mmd2_random: The expected MMD² of equally many references drawn at random.
        exact: Whether the two values use all pairs of references; otherwise they are estimates.
    """

    indices: Tensor
    weights: Tensor
    mmd2: float
    mmd2_random: float
    exact: bool


@full_precision()
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
    progress: Progress = no_progress,
) -> Compressed:
    """A weighted subset of at most `count` references with a small MMD² to the whole set.

    The result is deterministic.

    Arguments:
        latents: References, with shape `(N, *shape)`. They are read in pieces, so they may be
            memory-mapped.
        weights: Their weights, with shape `(N,)`, not negative; they are normalized here.
        count: The maximum size of the subset.
        kernel_config: The kernel. Median distances are those of at most 2048 references.
        features: Makes rows `(n, F)` of latents `(n, *shape)`, both on `device`; the kernel
            compares these rows.
        prompts: Caption features, with shape `(N, E)`, for a prompt kernel.
        memory: Bytes that may be used besides the latents.
        device: The device that computes kernel values, in float32; the rest is done on the CPU.
        progress: Is called with the fraction of the work that is done, in [0, 1]; it may raise an
            exception to stop.

    Raises:
        ValueError: `count` is below 1, or more than `memory` allows.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    q = weights.detach().cpu().double()
    members = q.nonzero().flatten()
    q = q[members] / q.sum()
    n = len(members)
    if n <= count:
        return Compressed(members, q.float(), 0.0, 0.0, True)
    limit = max(64, math.isqrt(memory // 16))  # references whose kernel matrix fits into memory
    if count > limit:
        needed = 16 * count**2 / 2**30
        raise ValueError(f"count {count} needs {needed:.1f} GB: raise memory or lower count")
    # In random order, because chunks and samples must not depend on the order of folders.
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    members, q = members[order], q[order]
    kernel = PiecewiseKernel(latents, features, prompts, memory, device, stage(progress, 0, 0.1))
    kernel.resolve(kernel_config, members[: min(CHUNK, limit // 2)])

    selector = _Selector(kernel, limit)
    chosen, w = selector.select(members, q, count, stage(progress, 0.1, 0.7))
    mean = kernel.embedding(chosen, members, q, stage(progress, 0.7, 0.85))
    similarity, last = selector.similarity, stage(progress, 0.85, 1)
    if similarity is None and n <= EXACT:
        similarity = kernel.similarity(members, q, last)
    elif similarity is None:
        similarity = estimated_similarity(kernel, members, q, chosen, w, mean, last)
    gram = kernel.matrix(chosen).double()
    gram += similarity.norm
    gram -= mean
    gram -= mean[:, None]  # now the centered kernel k̃ of the subset
    w = optimal_weights(gram)
    mmd2 = max(float(w @ gram @ w), 0.0)
    progress(1.0)
    chosen, w = chosen[w > 0], w[w > 0]
    order = chosen.argsort()
    mmd2_random = similarity.mmd2_random(q, count)
    return Compressed(chosen[order], w[order].float(), mmd2, mmd2_random, similarity.exact)


class _Selector:
    """Selects references, in chunks if the kernel matrix of all does not fit into memory.

    Arguments:
        kernel: The kernel between references.
        limit: The maximum number of references whose kernel matrix is in memory.

    Attributes:
        similarity: The similarity of the whole set, if its kernel matrix fitted into memory.
    """

    def __init__(self, kernel: PiecewiseKernel, limit: int) -> None:
        self.kernel, self.limit = kernel, limit
        self.similarity: Similarity | None = None

    def select(
        self, members: Tensor, q: Tensor, count: int, progress: Progress
    ) -> tuple[Tensor, Tensor]:
        """`count` references that approximate `members` with weights `q`, and their weights."""
        parts = math.ceil(count / min(TOGETHER, self.limit // 2))
        found = []
        for p, (some, weights) in enumerate(_split(members, q, parts)):
            this = stage(progress, p / parts, (p + 1) / parts)
            share = count // parts + (p < count % parts)
            while len(some) > self.limit:
                some, weights = self._thinned(some, weights, share, stage(this, 0, 0.7))
                this = stage(this, 0.7, 1)
            whole = len(some) == len(members)
            found.append(self._coreset(some, weights, share, this, whole))
        return _joined(found)

    def _thinned(
        self, members: Tensor, q: Tensor, count: int, progress: Progress
    ) -> tuple[Tensor, Tensor]:
        """A fraction of `members`, but at least about `2 * count`, chosen chunk by chunk."""
        chunks = math.ceil(len(members) / min(CHUNK, self.limit))
        size = len(members) // chunks
        kept = min(size // 4, max(self.limit // chunks, size // 32))
        kept = max(kept, 2 * count // chunks, 1)
        return _joined(
            [
                self._coreset(*chunk, kept, stage(progress, i / chunks, (i + 1) / chunks), rounds=0)
                for i, chunk in enumerate(_split(members, q, chunks))
            ]
        )

    def _coreset(
        self,
        members: Tensor,
        q: Tensor,
        count: int,
        progress: Progress,
        whole: bool = False,
        rounds: int = ROUNDS,
    ) -> tuple[Tensor, Tensor]:
        """`count` of `members`, chosen by herding, and weights with the sum of `q`.

        If `members` is the whole set, `whole` stores its similarity.
        """
        members, order = members.sort()  # so that a file is read from start to end
        q, total = q[order], q.sum()
        kernel = CenteredKernel(self.kernel.matrix(members, stage(progress, 0, 0.7)), q / total)
        if whole:
            diagonal = float(q @ kernel.values.diagonal().double())
            self.similarity = Similarity(float(kernel.norm), diagonal)
        chosen = herd(kernel, count, rounds, stage(progress, 0.7, 1))
        return members[chosen], total * optimal_weights(kernel.rows(chosen)[:, chosen])


def _split(members: Tensor, q: Tensor, parts: int) -> list[tuple[Tensor, Tensor]]:
    """The references and their weights in `parts` parts, each with every `parts`-th one."""
    return [(members[i::parts], q[i::parts]) for i in range(parts)]


def _joined(found: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """All references and all weights of several subsets."""
    members, q = map(torch.cat, zip(*found, strict=True))
    return members, q
