"""Copies between host and device, for which the host waits as rarely as possible.

A copy from pinned memory is queued like any other work. A number that the host reads makes it wait
for all that is queued, so numbers are read together.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Asked", "placed"]


def placed(tensor: Tensor, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor on the device of `like`; the host does not wait for the copy to a GPU.

    Arguments:
        tensor: On any device.
        like: A tensor on the device that computes.
        dtype: The dtype of the result; None for that of `like`.
    """
    dtype = like.dtype if dtype is None else dtype
    if like.device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(like.device, dtype)
    return tensor.to(dtype).pin_memory().to(like.device, non_blocking=True)


class Asked:
    """Tensors that the host reads in one copy, once it needs one of them."""

    def __init__(self) -> None:
        self._asked: list[Tensor] = []
        self._read: list[Tensor] = []

    def later(self, tensor: Tensor) -> Callable[[], Tensor]:
        """A function that returns `tensor` on the CPU.

        Arguments:
            tensor: On the device that computes, with the dtype of all others.
        """
        number = len(self._read) + len(self._asked)
        self._asked.append(tensor)
        return lambda: self._all()[number]

    def now(self, tensor: Tensor) -> Tensor:
        """The tensor on the CPU, with all that was asked before."""
        return self.later(tensor)()

    def read(self) -> None:
        """Reads all that was asked; later the host does not wait for it."""
        self._all()

    def _all(self) -> list[Tensor]:
        asked, self._asked = self._asked, []
        if asked and asked[0].device.type != "cpu":
            shapes = [tensor.shape for tensor in asked]
            numbers = torch.cat([tensor.flatten() for tensor in asked]).cpu()
            parts = numbers.split([shape.numel() for shape in shapes])
            asked = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        self._read += asked
        return self._read
