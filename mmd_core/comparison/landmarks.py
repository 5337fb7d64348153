"""A random subset of the patches of references, from which sums over all patches are estimated."""

import torch

from ..kernels.config import KernelConfig
from .latents import Latents
from .patches import patch_rows

__all__ = ["LANDMARKS", "Landmarks"]

LANDMARKS = 512  # landmarks of the references, of the finished samples, and of the batch, each


class Landmarks:
    """A random subset of the patches of the references, and the kernel between patches.

    Arguments:
        config: The kernel. Its median bandwidth is the median distance between landmarks.
        references: Latents with shape `(N, C, *)`.

    Attributes:
        size: The side lengths of a patch, one for each spatial axis.
        centre: What is subtracted from all patches, with shape `(d,)`.
        rows: The landmarks minus `centre`, with shape `(m, d)`.
        owners: The index of the reference from which each landmark is taken, with shape `(m,)`.
        gram: The inner products of the landmarks, with shape `(m, m)`.
        kernel: The kernel between patches.
    """

    def __init__(self, config: KernelConfig, references: Latents) -> None:
        self.size = tuple(min(config.patch_size, n) for n in references.shape[1:])
        rows, self.owners = patch_rows(references, self.size, LANDMARKS)
        # As in `Rows`: subtracting the mean reduces the rounding error of distances. Kernels of dot
        # products need the true origin.
        self.centre = rows.mean(0) if config.radial else torch.zeros_like(rows[0])
        self.rows = rows - self.centre
        self.gram = self.rows @ self.rows.T
        self.kernel = config.resolve(self.gram, rows.shape[1], self.centre)
