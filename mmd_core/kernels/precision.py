"""Matrix products with all digits of fp32, whatever was chosen for the model's."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["full_precision"]


@contextmanager
def full_precision() -> Iterator[None]:
    """Without TF32, whose ten bits are too few for distances and for kernels of products.

    It would not be faster either: these products wait for memory.
    """
    matmul = torch.backends.cuda.matmul
    # Before torch 2.9 there is nothing but the switch, which later ones refuse where both are used.
    name, exact = ("fp32_precision", "ieee") if _known(matmul) else ("allow_tf32", False)
    chosen = getattr(matmul, name)
    setattr(matmul, name, exact)
    try:
        yield
    finally:
        setattr(matmul, name, chosen)


def _known(matmul) -> bool:
    try:
        return isinstance(matmul.fp32_precision, str)
    except AttributeError:
        return False
