"""Running out of memory is recognized on every device, and nothing else is taken for it."""

import pytest
import torch
from mmd_pack.mmd_core.comparison.full_memory import out_of_memory

FULL = [
    torch.cuda.OutOfMemoryError("Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.5 GB, max allowed: 18.13 GB)"),
    RuntimeError("XPU out of memory. Tried to allocate 3.00 GiB"),
    RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError(
        "Could not allocate tensor with 52428800 bytes. There is not enough GPU video memory available!"
    ),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"),
]
OTHERS = [
    RuntimeError("Expected all tensors to be on the same device"),
    RuntimeError("the memory format option only supports strided tensors"),
    ValueError("out of memory"),
    KeyError("memory"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_full(error):
    assert out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors(error):
    assert not out_of_memory(error)
