"""The kernel between references of a set that may be larger than the memory."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.config import KernelConfig
from ..kernels.kernels import DotKernel, Gram, Kernel
from ..kernels.prompts import caption_bandwidth, prompt_weights

__all__ = [
    "CHUNK",
    "PiecewiseKernel",
    "Progress",
    "Similarity",
    "estimated_similarity",
    "no_progress",
    "stage",
]

CHUNK = 2048  # references that are compared with each other at a time if there are more
SAMPLE = 1024  # references that estimate ⟨μ, μ − ν⟩ in `estimated_similarity` if there are more

Progress = Callable[[float], None]  # gets the fraction of the work that is done, in [0, 1]


def no_progress(share: float) -> None:
    """Ignores the progress."""


def stage(progress: Progress, start: float, end: float) -> Progress:
    """The progress of a stage that takes the whole work from `start` to `end`."""
    return lambda share: progress(start + (end - start) * share)


class Similarity(NamedTuple):
    """The mean kernel values of a reference set with weights q.

    Attributes:
        norm: ‖μ‖² = Σ q_i q_j k(y_i, y_j), over all pairs.
        diagonal: Σ q_i k(y_i, y_i), of the references with themselves.
        exact: Whether all references were used; otherwise these are estimates.
    """

    norm: float
    diagonal: float
    exact: bool = True

    def mmd2_random(self, q: Tensor, count: int) -> float:
        """The expected MMD² between the set and `count` references drawn at random.

        If the weights are equal, they are drawn without replacement, otherwise with replacement, in
        proportion to the weights.
        """
        n = len(q)
        correction = 1.0 if q.max() > q.min() * (1 + 1e-5) else (n - count) / (n - 1)
        return (self.diagonal - self.norm) / count * correction


class PiecewiseKernel:
    """The kernel between references, computed on pieces that fit into memory.

    Arguments:
        latents: References, with shape `(N, *shape)`.
        features: Makes rows `(n, F)` of latents `(n, *shape)`, both on `device`.
        prompts: Caption features, with shape `(N, E)`, for a prompt kernel.
        memory: Bytes that may be used besides `latents`.
        device: The device that computes features and kernel values, in float32.
        progress: The progress of computing all features, if these fit into memory.
    """

    def __init__(
        self,
        latents: Tensor,
        features: Callable[[Tensor], Tensor],
        prompts: Tensor | None,
        memory: int,
        device: torch.device | str,
        progress: Progress,
    ) -> None:
        self.latents, self.features, self.device = latents, features, device
        self.prompts, self.prompt_kernel = prompts, None
        self.kernel: Kernel = DotKernel()
        self.center: Tensor = torch.zeros(())
        self.dim, numbers = self.rows(torch.tensor([0])).shape[1], latents[0].numel()
        self.step = self._rows_at_once(memory, max(self.dim, numbers))
        if self.dim < numbers and 4 * len(latents) * self.dim <= memory // 8:
            rows = torch.empty(len(latents), self.dim)
            for piece in torch.arange(len(latents)).split(self.step):
                rows[piece] = self.rows(piece).cpu()
                progress(float(piece[-1]) / len(latents))
            self.latents, self.features = rows, lambda rows: rows
            self.step = self._rows_at_once(memory, self.dim)

    @staticmethod
    def _rows_at_once(memory: int, longest: int) -> int:
        """How many rows of `longest` numbers one piece has.

        A quarter of the memory is for three copies of two pieces, an eighth for kernel values.
        """
        return max(1, min(memory // (4 * 24 * longest), math.isqrt(memory // 512), CHUNK))

    def resolve(self, config: KernelConfig, sample: Tensor) -> None:
        """Sets the kernel to that of `config`, with bandwidths from the references `sample`."""
        if config.radial:
            total = sum(self.rows(some).sum(0) for some in sample.split(self.step))
            self.center = total / len(sample)
        self.kernel = config.resolve(self.matrix(sample), self.dim, self.center)
        if config.prompt_kernel != "none":
            h = config.prompt_bandwidth or caption_bandwidth(self.prompts[sample])
            self.prompt_kernel = lambda p, r: prompt_weights(config.prompt_kernel, p, r, h)

    def rows(self, indices: Tensor) -> Tensor:
        """The features of references, relative to the center, with shape `(n, F)`."""
        return self.features(self.latents[indices].to(self.device)).float() - self.center

    def blocks(
        self, a: Tensor, b: Tensor, upper: bool = False
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """The kernel values between the references `a` and `b`, block by block, on the CPU.

        Yields a slice of `a`, a slice of `b` and the kernel values between them. If `upper` is set,
        `a` and `b` must be the same, and the blocks below the diagonal are left out.
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

    def matrix(self, indices: Tensor, progress: Progress = no_progress) -> Tensor:
        """The kernel values between all pairs of the given references, with shape `(n, n)`."""
        n = len(indices)
        matrix = torch.empty(n, n)
        for rows, columns, values in self.blocks(indices, indices, upper=True):
            matrix[rows, columns] = values
            matrix[columns, rows] = values.T
            progress(_upper_share(rows, columns, n))
        return matrix

    def similarity(self, members: Tensor, q: Tensor, progress: Progress) -> Similarity:
        """The exact similarity of the references `members` with weights `q`."""
        norm = diagonal = 0.0
        for rows, columns, values in self.blocks(members, members, upper=True):
            total = float(q[rows] @ (values.double() @ q[columns]))
            norm += total if rows == columns else 2 * total
            diagonal += float(q[rows] @ values.diagonal().double()) if rows == columns else 0.0
            progress(_upper_share(rows, columns, len(q)))
        return Similarity(norm, diagonal)

    def embedding(
        self, indices: Tensor, members: Tensor, q: Tensor, progress: Progress = no_progress
    ) -> Tensor:
        """The mean embedding Σ q_j k(·, y_j) over `members`, at the references `indices`.

        The result has shape `(n,)`, float64.
        """
        mean = torch.zeros(len(indices), dtype=torch.float64)
        members, order = members.sort()
        q = q[order]
        for rows, columns, values in self.blocks(indices, members):
            mean[rows] += values.double() @ q[columns]
            done = rows.start * len(q) + (rows.stop - rows.start) * columns.stop
            progress(done / (len(indices) * len(q)))
        return mean


def _upper_share(rows: slice, columns: slice, n: int) -> float:
    """The fraction of the upper triangle of an `n × n` matrix that is done after this block."""
    height = rows.stop - rows.start
    done = rows.start * (n - rows.start / 2) + height * (columns.stop - rows.start - height / 2)
    return min(done / (n * n / 2), 1.0)


def estimated_similarity(
    kernel: PiecewiseKernel,
    members: Tensor,
    q: Tensor,
    chosen: Tensor,
    w: Tensor,
    mean: Tensor,
    progress: Progress,
) -> Similarity:
    """The similarity of `members` with weights `q`, estimated from a sample of them.

    ‖μ‖² = ⟨μ, μ − ν⟩ + ⟨μ, ν⟩, where ν is the mean embedding of the subset. The second term is
    exact. The first is estimated: it is small and varies little between references.

    Arguments:
        kernel: The kernel.
        members: The references of the whole set, with shape `(n,)`, in random order.
        q: Their weights, with shape `(n,)`, float64, sum 1.
        chosen: The references of the subset, with shape `(K,)`.
        w: Their weights, with shape `(K,)`, float64, sum 1.
        mean: μ at the subset, with shape `(K,)`, float64.
        progress: The progress of the estimate.
    """
    sample, share = members[:SAMPLE], q[:SAMPLE] / q[:SAMPLE].sum()
    difference = kernel.embedding(sample, members, q, progress)
    difference = difference - kernel.embedding(sample, chosen, w)
    diagonal = torch.cat([kernel.matrix(some).diagonal() for some in sample.split(32)]).double()
    return Similarity(float(share @ difference + w @ mean), float(share @ diagonal), exact=False)
