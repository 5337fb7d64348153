"""The kernel between references of a large set, few of which are in memory at a time."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.config import KernelConfig
from ..kernels.kernels import DotKernel, Gram, Kernel
from ..kernels.prompts import caption_bandwidth, prompt_weights

__all__ = ["PiecewiseKernel", "Progress", "Similarity", "estimated_similarity", "part", "silent"]

CHUNK = 2048  # references that are compared with each other at a time, where not all can be
SAMPLE = 1024  # references that stand for all in one term of MMD², if there are more

Progress = Callable[[float], None]


def silent(share: float) -> None:
    """Tells nobody."""


def part(progress: Progress, start: float, end: float) -> Progress:
    """The progress of a part of the work, told as progress of the whole."""
    return lambda share: progress(start + (end - start) * share)


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
