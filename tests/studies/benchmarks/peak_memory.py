"""How many bytes of tensors a function makes: PyTorch's own count on a GPU, counted here on a CPU."""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that come to life within it, and their peak."""

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.peak = set(), 0, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        # What lived before, a view of which may be made in here, is not made in here.
        before = {_place(t) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and _place(tensor) not in before:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage):
        place, size = storage.data_ptr(), storage.nbytes()
        if size and place not in self.alive:
            self.alive.add(place)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place, size):
        self.alive.discard(place)
        self.now -= size


def _place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Made(NamedTuple):
    """What a function returned, the most bytes that its tensors took at once, and what is kept of them."""

    result: Any
    peak: int
    kept: int


def tensors_made(run: Callable, on_gpu: bool) -> Made:
    """The bytes of the tensors that `run` makes."""
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = run()
        torch.cuda.synchronize()
        peak, now = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
        return Made(result, peak - before, now - before)
    with TensorBytes() as count:
        result = run()
    return Made(result, count.peak, count.now)


def peak_bytes(run: Callable) -> int:
    """The most bytes that tensors made by `run` take at once."""
    return tensors_made(run, torch.cuda.is_available()).peak
