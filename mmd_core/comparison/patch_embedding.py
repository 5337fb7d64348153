"""Images as rows whose linear kernel approximates the mean kernel between their patches."""

import torch
from torch import Tensor

from ..kernels.config import KernelConfig
from ..kernels.kernels import Gram
from ..kernels.precision import full_precision
from .landmarks import Landmarks
from .latents import Latents
from .small_matrices import eigh
from .tilings import tile, tiling

__all__ = ["PatchEmbedding"]


class PatchEmbedding:
    """Images as rows whose linear kernel approximates K (Nyström's method).

    The row of an image is the projection of the mean embedding of its patches onto the embeddings
    of the landmarks. The embeddings are relative to the mean of the landmarks. This changes the
    inner products, but not MMD².

    Arguments:
        config: The kernel between patches.
        references: Latents with shape `(N, C, *)`, fp32 or better.
        weights: Weights of the references, with shape `(N,)`, sum 1.

    References:
        Williams, Seeger, Using the Nyström Method to Speed Up Kernel Machines, NIPS 2000.
    """

    @full_precision()
    def __init__(self, config: KernelConfig, references: Tensor, weights: Tensor) -> None:
        landmarks = Landmarks(config, Latents(references, weights))
        self.size, self.centre, self.rows = landmarks.size, landmarks.centre, landmarks.rows
        self.kernel = landmarks.kernel
        values = self.kernel.values(Gram.within(landmarks.gram))
        # Relative to the mean, the matrix has no negative eigenvalues for the energy kernel either.
        self.means = values.mean(0)
        values = values - self.means - self.means[:, None] + self.means.mean()
        eigenvalues, vectors = eigh(values.cpu().double())  # a GPU may lack float64
        kept = eigenvalues > 1e-6 * eigenvalues[-1]
        self.root = (vectors[:, kept] * eigenvalues[kept].rsqrt()).to(self.rows)

    @full_precision()
    def __call__(self, x: Tensor) -> Tensor:
        """The rows of images `x`, with shape `(n, F)`; `x` has the shape `(n, C, *)`."""
        places, regular = tiling(x.shape[2:], self.size, (0,) * len(self.size))
        learned = (self.rows, self.centre, self.means, self.root)
        rows, centre, means, root = (part.to(x.device) for part in learned)
        embedded = []
        for patches in tile(x.to(rows.dtype), places[regular].to(x.device)) - centre:
            values = self.kernel.values(Gram.of(patches, rows))
            embedded.append((values - values.mean(1, keepdim=True)).mean(0) - means)
        return (torch.stack(embedded) + means.mean()) @ root
