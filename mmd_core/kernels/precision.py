"""Matrix products in full fp32 precision, whatever setting the model's own products use."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

import torch

__all__ = ["full_precision"]


@contextmanager
def full_precision() -> Iterator[None]:
    """Switches TF32 off on CUDA inside the `with` block, and restores the setting afterwards.

    TF32 has a mantissa of 10 bits, which is too few for distances and for kernels of inner
    products. It would not be faster either, because memory bandwidth limits these products.

    Nothing is changed where TF32 is off already, as it is by default in ComfyUI. Otherwise the
    setting of the whole process changes: threads inside the block at the same time share it,
    products of threads outside are exact, too, only slower, and what another thread has set
    meanwhile stays.

    It cannot be avoided at a fair price. torch keeps one setting for all threads. Its guard for one
    thread (`at::NoTF32Guard`) is not offered to Python, and no product takes the precision as an
    argument. What is left changes the images of those who use TF32, and has to be called in place
    of every product, also those of gradients: fp64 (1/64 of the speed on most GPUs, and missing on
    others), or three products of numbers split in two.
    """
    _switch.off()
    try:
        yield
    finally:
        _switch.back()


class _Switch:
    """TF32 of the process: off from the first that enters to the last that leaves."""

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0
        self._restore: Callable[[], None] = _nothing

    def off(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._restore = _switched_off()

    def back(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._restore()


def _nothing() -> None:
    """Restores nothing."""


def _switched_off() -> Callable[[], None]:
    """Switches TF32 off, and returns a function that restores the setting.

    torch 2.9 and above has two settings, and raises an error, also in its own products (TunableOp),
    where they differ. So the one that the user chose is changed.
    """
    matmul = torch.backends.cuda.matmul
    try:
        allowed = matmul.allow_tf32  # sets both, but cannot be read where only the other was set
    except RuntimeError:
        if matmul.fp32_precision != "tf32":
            return _nothing
        matmul.fp32_precision = "ieee"
        return lambda: _is_off() and setattr(matmul, "fp32_precision", "tf32")
    if not allowed:
        return _nothing
    medium = _is_medium()
    matmul.allow_tf32 = False
    if medium:
        return lambda: _is_off() and torch.set_float32_matmul_precision("medium")
    return lambda: _is_off() and setattr(matmul, "allow_tf32", True)


def _is_off() -> bool:
    """Whether TF32 is still off: another thread may have changed the setting meanwhile."""
    matmul = torch.backends.cuda.matmul
    try:
        return not matmul.allow_tf32
    except RuntimeError:
        return matmul.fp32_precision != "tf32"


def _is_medium() -> bool:
    """Whether TF32 was allowed by the precision `medium`, which is another one on the CPU."""
    try:
        return torch.get_float32_matmul_precision() == "medium"
    except RuntimeError:  # the settings of CPU and GPU differ
        return False


_switch = _Switch()
