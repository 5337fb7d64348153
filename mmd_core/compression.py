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

from .config import KernelConfig
from .herding import ROUNDS, Centred, best_weights, herd
from .kernels import DotKernel, Gram, Kernel
from .prompt import caption_bandwidth, prompt_weights

__all__ = ["Compressed", "compress"]

CHUNK = 2048  # references that are compared with each other at a time, where not all can be
TOGETHER = 1024  # references chosen together; more are chosen in several parts
EXACT = 20_000  # references, at most, whose pairs are all looked at, if only to know MMD²

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
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    members, q = members[order], q[order]  # at random, for `Similarity`
    kernel = PiecewiseKernel(latents, features, prompts, memory, device)
    kernel.resolve(kernel_config, members[: min(CHUNK, limit // 2)])

    choice = Choice(kernel, limit)
    chosen = choice(members, q, count, part(progress, 0, 0.7)).sort().values
    similarity = choice.similarity
    if not similarity.exact and n <= EXACT:
        similarity = kernel.similarity(members, q, part(progress, 0.7, 0.85))
    mean = kernel.embedding(chosen, members, q, part(progress, 0.85, 1))
    centred = kernel.matrix(chosen).double()
    centred += similarity.norm
    centred -= mean
    centred -= mean[:, None]
    w = best_weights(centred)
    kept, mmd2 = w > 0, max(float(w @ centred @ w), 0.0)
    alike = q.max() < q.min() * (1 + 1e-5)
    mmd2_random = similarity.spread / count * ((n - count) / (n - 1) if alike else 1)
    return Compressed(chosen[kept], w[kept].float(), mmd2, mmd2_random, similarity.exact)


class Similarity:
    """How similar the set is to itself: ‖μ‖² = Σ q_i q_j k(y_i, y_j), from the pairs seen so far.

    Pairs i ≠ j not seen are taken to be like the others. With chunks drawn at random that is unbiased,
    and nearly exact: how much a reference is like all cancels in the sum over chunks.
    """

    def __init__(self):
        self.own = self.diagonal = self.squares = self.others = self.pairs = 0.0

    def within(self, total: Tensor, diagonal: Tensor, q: Tensor) -> None:
        """Takes in Σ q_i q_j k_ij over all pairs of some references, k_ii and q_i of these."""
        squares = q.square()
        own = float(squares @ diagonal.double())
        self.own += own
        self.diagonal += float(q @ diagonal.double())
        self.squares += float(squares.sum())
        self.between(total - own, q.sum().square() - squares.sum())

    def between(self, total: Tensor, pairs: Tensor) -> None:
        """Takes in Σ q_i q_j k_ij and Σ q_i q_j over pairs of different references."""
        self.others += float(total)
        self.pairs += float(pairs)

    @property
    def exact(self) -> bool:
        """Whether all pairs were seen."""
        return self.pairs + self.squares > 1 - 1e-9

    @property
    def norm(self) -> float:
        """‖μ‖²."""
        return self.own + self.others / self.pairs * (1 - self.squares)

    @property
    def spread(self) -> float:
        """Σ q_i k̃(y_i, y_i): MMD² to expect of one reference, drawn at random by its weight."""
        return self.diagonal - self.norm


class PiecewiseKernel:
    """The kernel between references, few of which are in memory at a time."""

    def __init__(self, latents, features, prompts, memory: int, device):
        self.latents, self.features, self.device = latents, features, device
        self.prompts, self.of_prompts = prompts, None
        self.kernel: Kernel = DotKernel()
        self.centre: Tensor | float = 0.0
        self.dim = self.rows(torch.tensor([0])).shape[1]
        # A quarter of the memory for three copies of two pieces, an eighth for their kernel values.
        longest = max(self.dim, latents[0].numel())
        self.step = max(1, min(memory // (4 * 24 * longest), math.isqrt(memory // 512), CHUNK))

    def resolve(self, config: KernelConfig, sample: Tensor) -> None:
        """Becomes the kernel of `config`, with bandwidths from a sample of the references."""
        if config.radial:
            total = sum(self.rows(some).sum(0) for some in sample.split(self.step))
            self.centre = total / len(sample)
        self.kernel = config.resolve(self.matrix(sample), self.dim)
        if config.prompt_kernel != "none":
            h = config.prompt_bandwidth or caption_bandwidth(self.prompts[sample])
            self.of_prompts = lambda p, r: prompt_weights(config.prompt_kernel, p, r, h)

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
                if self.of_prompts:
                    pair = self.prompts[a[rows]], self.prompts[b[columns]]
                    values = values * self.of_prompts(*pair)
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
        """The exact similarity of the set `members`, whose weights are `q`, with itself."""
        found = Similarity()
        for rows, columns, values in self.blocks(members, members, upper=True):
            total = q[rows] @ (values.double() @ q[columns])
            if rows == columns:
                found.within(total, values.diagonal(), q[rows])
            else:
                found.between(2 * total, 2 * q[rows].sum() * q[columns].sum())
            progress(_above(rows, columns, len(q)))
        return found

    def embedding(self, indices: Tensor, members: Tensor, q: Tensor, progress: Progress) -> Tensor:
        """μ at references `indices`: Σ q_j k(·, y_j) over all members j, with shape `(n,)`."""
        mean = torch.zeros(len(indices), dtype=torch.float64)
        members, order = members.sort()  # a file is read from start to end
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


class Choice:
    """Chooses references, in chunks where it must, and learns how similar the set is to itself."""

    def __init__(self, kernel: PiecewiseKernel, limit: int):
        self.kernel, self.limit = kernel, limit
        self.similarity = Similarity()

    def __call__(self, members: Tensor, q: Tensor, count: int, progress: Progress) -> Tensor:
        """`count` references that stand for `members`, whose weights are `q`."""
        parts = math.ceil(count / min(TOGETHER, self.limit // 2))
        chosen = []
        for p, (some, weights) in enumerate(deal(members, q, parts)):
            told = part(progress, p / parts, (p + 1) / parts)
            share = count // parts + (p < count % parts)
            thinned = False
            while len(some) > self.limit:
                some, weights = self.thin(some, weights, share, thinned, part(told, 0, 0.7))
                thinned, told = True, part(told, 0.7, 1)
            chosen.append(self.coreset(some, weights, share, thinned, told)[0])
        return torch.cat(chosen)

    def thin(self, members, q, count, thinned, progress) -> tuple[Tensor, Tensor]:
        """Weighted subsets of chunks: a fraction of `members`, yet many more than `count`, with weights."""
        chunks = math.ceil(len(members) / min(CHUNK, self.limit))
        size = len(members) // chunks
        kept = min(size // 4, max(self.limit // chunks, size // 32))
        kept = max(kept, 2 * count // chunks, 1)
        found = [
            self.coreset(*chunk, kept, thinned, part(progress, i / chunks, (i + 1) / chunks), 0)
            for i, chunk in enumerate(deal(members, q, chunks))
        ]
        members, q = map(torch.cat, zip(*found, strict=True))
        return members, q

    def coreset(self, members, q, count, thinned, progress, rounds=ROUNDS):
        """`count` references that stand for `members`, and weights with the same sum."""
        values = self.kernel.matrix(members, part(progress, 0, 0.7))
        total = q.sum()
        centred = Centred(values, q / total)
        if not thinned:
            self.similarity.within(centred.norm * total.square(), values.diagonal(), q)
        chosen = herd(centred, count, rounds, part(progress, 0.7, 1))
        return members[chosen], total * best_weights(centred.rows(chosen)[:, chosen])


def deal(members: Tensor, q: Tensor, hands: int) -> list[tuple[Tensor, Tensor]]:
    """References and weights dealt like cards."""
    return [(members[i::hands], q[i::hands]) for i in range(hands)]
