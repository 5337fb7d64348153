"""One batch drawn by several workers: P̂ is a property of all images that are being drawn.

Each of W workers draws b of the B = W·b samples, and has all references. Per model call they exchange

    x̂0               b·D numbers of each, all-gathered: samples repel those of all workers
    x̂0 · [x̂0; z]     b·(B + M) numbers of each, all-gathered: each computes its own rows only

and a few norms. Sub-steps then run on the same B×(B + M) numbers everywhere, and each worker forms the displacement of
its own samples. W workers with batch b so draw what one would draw with batch W·b, up to rounding.

What it costs each worker per model call (`tests/studies/distributed/cost.py`; the tests count it):

    products     2·b·(M + B)·D multiply-adds           alone: 2·b·(M + b)·D
    a sub-step   B·(M + B)·(M + 6B) + 11·B³ at most    alone: the same with b for B
    traffic      4·B·(D + M + B) bytes received

For 64 GPUs with 4 images of SDXL each (B = 256, D = 65 536), M = 500 references and 12 sub-steps that is 0.4 G
multiply-adds of products, 7 G of sub-steps and 68 MB: at 10 T multiply-adds and 25 GB per second 0.04 + 0.7 + 2.7 ms,
below 1 % of a step of the network that takes 0.4 s.

What is not done, since so little is left to gain:
    Slices of D. Each worker would compute the inner products of one slice of all samples, for as many multiply-adds and
    8·b·D + 8·B·(B + M) bytes (all-to-all there and back, all-reduce). That is less from a few workers on; for
    the 64 GPUs 3.6 MB, a 19th, which saves 2.6 ms or 0.6 % of the step.
    Shared sub-steps. All workers compute all rows. With M = 5000 that is 108 G multiply-adds or 11 ms, 3 % of the step.

Two cases cost more. Where not even the inner products between references find room (`gram_space.py`) there are two
more all-gathers of B·D numbers at each sub-step. And each worker moves the `patches` of all images, not of its own only.
"""

from typing import Any

import torch
from torch import Tensor

__all__ = ["ALONE", "DistributedWorkers", "Workers"]

SAME = 1e-4  # relative; what workers compute for themselves differs by rounding


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

    def agree(self, device: torch.device, **numbers: float) -> None:
        """Makes sure that all workers come with the same numbers, before they wait for one another in vain.

        Raises:
            ValueError: They do not; raised by every worker.
        """


ALONE = Workers()


class DistributedWorkers(Workers):
    """The processes of a `torch.distributed` group; all make the same calls with batches of the same size.

    A worker that is ended lets the others wait: the group's own timeout ends them.

    Arguments:
        group: The process group; None for all processes.
    """

    def __init__(self, group: Any = None):
        import torch.distributed as distributed  # not every build of torch has it

        self._distributed, self._group = distributed, group
        self.rank = distributed.get_rank(group)
        self.size = distributed.get_world_size(group)

    def gather(self, own: Tensor) -> Tensor:
        every = own.new_empty(self.size * len(own), *own.shape[1:])
        self._distributed.all_gather_into_tensor(every, own.contiguous(), group=self._group)
        return every

    def agree(self, device: torch.device, **numbers: float) -> None:
        own = torch.tensor([list(numbers.values())], dtype=torch.float64, device=device)
        for name, told in zip(numbers, self.gather(own).T.tolist(), strict=True):
            if max(told) - min(told) > SAME * max(map(abs, told)):
                each = ", ".join(f"{number:g}" for number in told)
                raise ValueError(
                    f"workers that draw one batch must make the same calls, but their {name} differ "
                    f"({each}): give each worker as many images, and the same settings and schedule"
                )
