"""Fewer references that stand for all: a weighted subset with a small MMD² to the whole set.

A set whose kernel values do not fit into memory is divided and conquered: chunks of it become weighted
subsets, and the union of these, which stands for the whole set, is compressed like a set.

References:
    Shetty, Dwivedi, Mackey, Distribution Compression in Near-Linear Time, ICLR 2022 (Compress++).
    https://arxiv.org/abs/2111.07941
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.config import KernelConfig
from ..kernels.kernels import DotKernel, Gram, Kernel
from ..kernels.prompts import caption_bandwidth, prompt_weights
from .herding import (
    ROUNDS,
    Centred,
    best_weights,
    herd,
)

__all__ = ["Compressed", "compress"]

CHUNK = 2048  # references that are compared with each other at a time, where not all can be
TOGETHER = 1024  # references chosen together; more are chosen in several parts
EXACT = 20_000  # references, at most, whose pairs are all looked at, if only to know MMD²
SAMPLE = 1024  # references that stand for all in one term of MMD², if there are more

Progress = Callable[[float], None]


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


def silent(share: float) -> None:
    """Tells nobody."""


def part(progress: Progress, start: float, end: float) -> Progress:
    """The progress of a part of the work, told as progress of the whole."""
    return lambda share: progress(start + (end - start) * share)


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


class Similarity(NamedTuple):
    """How similar the set is to itself.

    Attributes:
        norm: ‖μ‖² = Σ q_i q_j k(y_i, y_j).
        own: Σ q_i k(y_i, y_i).
        exact: Whether these are sums over all references.
    """

    norm: float
    own: float
    exact: bool = True

    def of_random(self, q: Tensor, count: int) -> float:
        """MMD² to expect of `count` references drawn at random; by their weights, if these differ."""
        n = len(q)
        unlike = 1.0 if q.max() > q.min() * (1 + 1e-5) else (n - count) / (n - 1)  # no repeats
        return (self.own - self.norm) / count * unlike


class PiecewiseKernel:
    """The kernel between references, few of which are in memory at a time."""

    def __init__(self, latents, features, prompts, memory: int, device, progress: Progress):
        self.latents, self.features, self.device = latents, features, device
        self.prompts, self.prompt_kernel = prompts, None
        self.kernel: Kernel = DotKernel()
        self.centre: Tensor | float = 0.0
        self.dim, long = self.rows(torch.tensor([0])).shape[1], latents[0].numel()
        self.step = self.rows_at_once(memory, max(self.dim, long))
        if self.dim < long and 4 * len(latents) * self.dim <= memory // 8:
            rows = torch.empty(len(latents), self.dim)
            for piece in torch.arange(len(latents)).split(self.step):
                rows[piece] = self.rows(piece).cpu()
                progress(float(piece[-1]) / len(latents))
            self.latents, self.features = rows, lambda rows: rows
            self.step = self.rows_at_once(memory, self.dim)

    @staticmethod
    def rows_at_once(memory: int, longest: int) -> int:
        """A quarter of the memory for three copies of two pieces, an eighth for their kernel values."""
        return max(1, min(memory // (4 * 24 * longest), math.isqrt(memory // 512), CHUNK))

    def resolve(self, config: KernelConfig, sample: Tensor) -> None:
        """Becomes the kernel of `config`, with bandwidths from a sample of the references."""
        if config.radial:
            total = sum(self.rows(some).sum(0) for some in sample.split(self.step))
            self.centre = total / len(sample)
        self.kernel = config.resolve(self.matrix(sample), self.dim)
        if config.prompt_kernel != "none":
            h = config.prompt_bandwidth or caption_bandwidth(self.prompts[sample])
            self.prompt_kernel = lambda p, r: prompt_weights(config.prompt_kernel, p, r, h)

    def rows(self, indices: Tensor) -> Tensor:
        """What is compared, relative to the centre, with shape `(n, F)`."""
        return self.features(self.latents[indices].to(self.device)).float() - self.centre

    def blocks(self, a: Tensor, b: Tensor, upper: bool = False) -> Iterator[tuple]:
        """Slices of references a and b, and the kernel values between them, on the CPU.

        `upper` leaves out what lies below the diagonal, where a and b are the same.
        """
        for i in range(0, len(a), self.step):
            x = self.rows(a[i : i + self.step])
            for j in range(i if upper else 0, len(b), self.step):
                same = upper and i == j
                z = x if same else self.rows(b[j : j + self.step])
                gram = Gram.within(x @ x.T) if same else Gram.of(x, z)
                values = self.kernel.values(gram).cpu()
                rows, columns = slice(i, i + len(x)), slice(j, j + len(z))
                if self.prompt_kernel:
                    pair = self.prompts[a[rows]], self.prompts[b[columns]]
                    values = values * self.prompt_kernel(*pair)
                yield rows, columns, values

    def matrix(self, indices: Tensor, progress: Progress = silent) -> Tensor:
        """The kernel values between all of some references, with shape `(n, n)`."""
        n = len(indices)
        matrix = torch.empty(n, n)
        for rows, columns, values in self.blocks(indices, indices, upper=True):
            matrix[rows, columns] = values
            matrix[columns, rows] = values.T
            progress(_above(rows, columns, n))
        return matrix

    def similarity(self, members: Tensor, q: Tensor, progress: Progress) -> Similarity:
        """How similar the set of all `members`, whose weights are `q`, is to itself."""
        norm = own = 0.0
        for rows, columns, values in self.blocks(members, members, upper=True):
            total = float(q[rows] @ (values.double() @ q[columns]))
            norm += total if rows == columns else 2 * total
            own += float(q[rows] @ values.diagonal().double()) if rows == columns else 0.0
            progress(_above(rows, columns, len(q)))
        return Similarity(norm, own)

    def embedding(
        self, indices: Tensor, members: Tensor, q: Tensor, progress: Progress = silent
    ) -> Tensor:
        """Σ q_j k(·, y_j) over members j at references `indices`, with shape `(n,)`, float64."""
        mean = torch.zeros(len(indices), dtype=torch.float64)
        members, order = members.sort()
        q = q[order]
        for rows, columns, values in self.blocks(indices, members):
            mean[rows] += values.double() @ q[columns]
            done = rows.start * len(q) + (rows.stop - rows.start) * columns.stop
            progress(done / (len(indices) * len(q)))
        return mean


def _above(rows: slice, columns: slice, n: int) -> float:
    """The share of the values on and above the diagonal that lies before the end of a block."""
    height = rows.stop - rows.start
    done = rows.start * (n - rows.start / 2) + height * (columns.stop - rows.start - height / 2)
    return min(done / (n * n / 2), 1.0)


def estimated_similarity(
    kernel: PiecewiseKernel, members, q, chosen, w, mean, progress: Progress
) -> Similarity:
    """How similar the set is to itself, from a sample of it.

    With ν the embedding of the subset, whose weights are w, ‖μ‖² = ⟨μ, μ − ν⟩ + ⟨μ, ν⟩. The last term is known,
    as μ is known at the subset (`mean`); the first is small and nearly the same everywhere.
    """
    sample, share = members[:SAMPLE], q[:SAMPLE] / q[:SAMPLE].sum()
    difference = kernel.embedding(sample, members, q, progress) - kernel.embedding(
        sample, chosen, w
    )
    own = torch.cat([kernel.matrix(some).diagonal() for some in sample.split(32)]).double()
    return Similarity(float(share @ difference + w @ mean), float(share @ own), exact=False)


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
