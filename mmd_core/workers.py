"""One batch drawn by several workers: P̂ is a property of all images that are being drawn.

Each of W workers draws b of the B = W·b samples, and has all references. Per model call they exchange

    x̂0               b·D numbers of each, all-gathered: samples repel those of all workers
    x̂0 · [x̂0; z]     b·(B + M) numbers of each, all-gathered: each computes its own rows only

and a few norms. Sub-steps then run on the same B×(B + M) numbers everywhere, and each worker forms the displacement of
its own samples. W workers with batch b so draw what one would draw with batch W·b, up to rounding.

What it costs each worker per model call:

    products     2·b·(M + B)·D multiply-adds     alone: 2·b·(M + b)·D
    a sub-step   B·(M + B)·(M + 2B) + 28·B³      alone: the same with b for B
    traffic      4·B·(D + M + B) bytes received

For 64 GPUs with 4 images of SDXL each (B = 256, D = 65 536), M = 500 references and 12 sub-steps that is 0.4 G
multiply-adds of products, 8 G of sub-steps and 67 MB: at 10 T multiply-adds and 25 GB per second 0.04 + 0.8 + 2.7 ms,
below 1 % of a step of the network that takes 0.4 s. Beyond some hundred workers it would be cheaper to exchange slices
of D instead of whole latents (each worker computes the inner products of one slice of all samples): 8·b·D + 8·B·(B + M)
bytes.
"""

from typing import Any

import torch
from torch import Tensor

__all__ = ["ALONE", "DistributedWorkers", "Workers"]


class Workers:
    """A single worker, who has all samples."""

    rank, size = 0, 1

    def gather(self, own: Tensor) -> Tensor:
        """The rows of all workers in order, with shape `(W·b, *)`, of each one's own, with shape `(b, *)`."""
        return own

    def own(self, batch: int) -> slice:
        """Which of a batch of all workers are this one's."""
        share = batch // self.size
        return slice(self.rank * share, (self.rank + 1) * share)


ALONE = Workers()


class DistributedWorkers(Workers):
    """The processes of a `torch.distributed` group; all make the same calls with batches of the same size.

    Arguments:
        group: The process group; None for all processes.
    """

    def __init__(self, group: Any = None):
        import torch.distributed as distributed  # not every build of torch has it

        self._distributed, self._group = distributed, group
        self.rank = distributed.get_rank(group)
        self.size = distributed.get_world_size(group)

    def gather(self, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(self.size)]
        self._distributed.all_gather(parts, own.contiguous(), group=self._group)
        return torch.cat(parts)
