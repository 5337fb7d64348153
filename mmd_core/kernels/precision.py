"""Matrix products in full fp32 precision, whatever setting the model's own products use."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["full_precision"]


@contextmanager
def full_precision() -> Iterator[None]:
    """Switches TF32 off on CUDA inside the `with` block, and restores the setting afterwards.

    TF32 has a mantissa of 10 bits, which is too few for distances and for kernels of inner
    products. It would not be faster either, because memory bandwidth limits these products.
    """
    matmul = torch.backends.cuda.matmul
    # torch below 2.9 has only `allow_tf32`. torch 2.9 and above raises an error if both settings
    # are used.
    name, exact = ("fp32_precision", "ieee") if _known(matmul) else ("allow_tf32", False)
    chosen = getattr(matmul, name)
    setattr(matmul, name, exact)
    try:
        yield
    finally:
        setattr(matmul, name, chosen)


def _known(matmul: "torch.backends.cuda.cuBLASModule") -> bool:
    """Whether this version of torch has the setting `fp32_precision`."""
    try:
        return isinstance(matmul.fp32_precision, str)
    except AttributeError:
        return False
