"""Recognizes that memory has run out: only CUDA has an error of its own for that."""

import torch

__all__ = ["out_of_memory"]

# Apple, Intel, AMD and DirectML raise a RuntimeError with one of these texts, the CPU too.
TEXTS = "out of memory", "not enough memory", "not enough gpu", "can't allocate memory"


def out_of_memory(error: BaseException) -> bool:
    """Whether the error says that a device, or main memory, is full."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    text = str(error).lower() if isinstance(error, RuntimeError) else ""
    return any(part in text for part in TEXTS)
