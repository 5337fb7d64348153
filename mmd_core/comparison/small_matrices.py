"""Decomposition of small matrices, always on the CPU.

Not every device has it (Apple's and those of DirectML do not), and a GPU is slower at it.
"""

import torch
from torch import Tensor

from ..kernels.transfers import placed

__all__ = ["eigh"]


def eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues, ascending, and the eigenvectors of symmetric matrices.

    Arguments:
        matrices: With shape `(*, n, n)`.

    Returns:
        Values with shape `(*, n)`, and vectors as columns with shape `(*, n, n)`, on the device of
        `matrices`.
    """
    values, vectors = torch.linalg.eigh(matrices.cpu())
    both = placed(torch.cat([values.unsqueeze(-2), vectors], -2), matrices)
    return both[..., 0, :], both[..., 1:, :]
