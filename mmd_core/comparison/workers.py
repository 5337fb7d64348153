"""One batch drawn by several processes, the workers.

Each of W workers draws b of the B = W·b samples, and has all references. MMD compares the whole
batch with the references, so each worker gathers x̂0 and x of all samples before guidance, guides
the whole batch, and keeps its own share. W workers with batch b therefore draw what one process
draws with batch W·b, up to rounding.

The cost for each worker and model call, with D numbers per latent and M references and finished
samples (`tests/studies/distributed/cost.py`; the tests count it):

    products     2·B·(M + B)·D multiply-adds
    a sub-step   B·(M + B)·(M + 6B) + 11·B³ multiply-adds at most
    received     8·B·D bytes

Example: 64 GPUs with 4 images of SDXL each (B = 256, D = 65 536), M = 500 references, 12 sub-steps.
Products take 25 G multiply-adds, sub-steps 7 G, and each GPU receives 134 MB. At 10 T multiply-adds
and 25 GB per second this takes 2.5 + 0.7 + 5.4 ms, 2 % of a model call of 0.4 s.

Splitting the products over the workers would save most of the first number, but every part of the
comparison would have to know which rows are its own.
"""

from typing import Any

import torch
from torch import Tensor

__all__ = ["ALONE", "DistributedWorkers", "Workers"]

SAME = 1e-4  # largest relative difference of equal numbers: workers may round differently


class Workers:
    """A single process, which draws the whole batch."""

    rank, size = 0, 1

    def gather(self, own: Tensor) -> Tensor:
        """The rows of all workers, in order.

        Arguments:
            own: The rows of this worker, with shape `(b, *)`.

        Returns:
            A tensor with shape `(W·b, *)`.
        """
        return own

    def share(self, rows: Tensor) -> Tensor:
        """The rows of this worker, with shape `(b, *)`.

        Arguments:
            rows: The rows of all workers, with shape `(W·b, *)`.
        """
        return rows

    def least(self, number: float, device: torch.device) -> float:
        """The smallest of the numbers that the workers pass."""
        return number

    def agree(self, device: torch.device, **numbers: float) -> None:
        """Checks that all workers pass equal numbers, as they do if they make the same calls.

        Without this check, workers that make different calls would wait for each other forever.

        Raises:
            ValueError: The numbers differ. Every worker raises it.
        """


ALONE = Workers()


class DistributedWorkers(Workers):
    """The processes of a `torch.distributed` group.

    All must make the same calls, with batches of the same size. If one process ends, the others
    wait until the timeout of the group.

    Arguments:
        group: The process group; None for all processes.
    """

    def __init__(self, group: Any = None) -> None:
        import torch.distributed as distributed  # not every build of torch has it

        self._distributed, self._group = distributed, group
        self.rank = distributed.get_rank(group)
        self.size = distributed.get_world_size(group)

    def gather(self, own: Tensor) -> Tensor:
        every = own.new_empty(self.size * len(own), *own.shape[1:])
        self._distributed.all_gather_into_tensor(every, own.contiguous(), group=self._group)
        return every

    def share(self, rows: Tensor) -> Tensor:
        b = len(rows) // self.size
        return rows[self.rank * b : (self.rank + 1) * b]

    def least(self, number: float, device: torch.device) -> float:
        own = torch.tensor([number], device=device)  # float32: a GPU may lack float64
        return self.gather(own).min().item()

    def agree(self, device: torch.device, **numbers: float) -> None:
        own = torch.tensor([list(numbers.values())], dtype=torch.float32, device=device)
        for name, found in zip(numbers, self.gather(own).T.tolist(), strict=True):
            if max(found) - min(found) > SAME * max(map(abs, found)):
                each = ", ".join(f"{number:g}" for number in found)
                raise ValueError(
                    f"give each worker as many images, and the same settings and schedule: workers "
                    f"that draw one batch must make the same calls, but their {name} differ "
                    f"({each})"
                )
