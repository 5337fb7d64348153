"""Decompositions of small matrices, always on the CPU.

Not every device has them (Apple's and those of DirectML do not), and a GPU is slower at them.
"""

import torch
from torch import Tensor

__all__ = ["eigh", "singular_values"]


def eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues, ascending, and the eigenvectors of symmetric matrices.

    Arguments:
        matrices: With shape `(*, n, n)`.

    Returns:
        Values with shape `(*, n)`, and vectors as columns with shape `(*, n, n)`, on the device of
        `matrices`.
    """
    values, vectors = torch.linalg.eigh(matrices.cpu())
    # In one copy, because a GPU waits for each.
    both = torch.cat([values.unsqueeze(-2), vectors], -2).to(matrices.device)
    return both[..., 0, :], both[..., 1:, :]


def singular_values(matrix: Tensor) -> Tensor:
    """The singular values of a matrix, descending, on the CPU."""
    return torch.linalg.svdvals(matrix.cpu())
