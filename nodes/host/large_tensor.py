"""One tensor for many latents: in memory, or in a memory-mapped file if it is large."""

import contextlib
import math
import os
import shutil
import tempfile
from typing import BinaryIO

import folder_paths
import torch
from torch import Tensor

from ..base.log import log, reason

IN_MEMORY = 2**30  # bytes: larger tensors are stored in a file
PIECE = 2**22  # numbers that are processed at once


def allocate(shape: tuple[int, ...]) -> Tensor:
    """An uninitialized float32 tensor on the CPU.

    Above `IN_MEMORY` bytes, it is mapped to a temporary file. The file is deleted with the tensor
    (on Windows, at the next start of ComfyUI). If the file cannot be created, for example because
    the disk is full, the tensor is in memory.
    """
    size = 4 * math.prod(shape)
    if size > IN_MEMORY:
        try:
            return _mapped(size).view(shape)
        except (OSError, RuntimeError) as error:
            log.warning("References of %.1f GB are held in memory: %s", size / 1e9, reason(error))
    return torch.empty(shape)


def _mapped(size: int) -> Tensor:
    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    # Without a name where the system can do that, so that a killed process leaves no file.
    with tempfile.TemporaryFile(dir=folder, prefix="mmd_guidance_") as file:
        path = f"/dev/fd/{file.fileno()}"
        if os.path.exists(path):
            _reserve(file, folder, size)
            return _map(path, size)
    number, path = tempfile.mkstemp(dir=folder, prefix="mmd_guidance_", suffix=".bin")
    try:
        with open(number, "wb") as file:
            _reserve(file, folder, size)
        return _map(path, size)
    finally:
        # Windows cannot remove a file that is mapped; ComfyUI empties the folder when it starts.
        with contextlib.suppress(OSError):
            os.unlink(path)


def _map(path: str, size: int) -> Tensor:
    return torch.from_file(path, shared=True, size=size // 4, dtype=torch.float32)


def _reserve(file: BinaryIO, folder: str, size: int) -> None:
    """Reserves `size` bytes for the file now, because a full disk would later kill the process.

    Raises:
        OSError: The disk has not enough free space.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    elif shutil.disk_usage(folder).free < size:
        raise OSError("the disk with ComfyUI's temp folder is full")
    else:
        file.truncate(size)


def spread(latents: Tensor) -> tuple[float, float]:
    """Two standard deviations of latents with shape `(N, *)`.

    The first is that of all numbers. The second is that between latents, averaged over the
    elements. Works on pieces, because the latents may be larger than the memory.
    """
    n, d = len(latents), latents[0].numel()
    total, squares = torch.zeros(2, d, dtype=torch.float64)
    for piece in latents.flatten(1).split(max(1, PIECE // d)):
        piece = piece.double()
        total += piece.sum(0)
        squares += piece.square().sum(0)
    between = (squares / n - (total / n).square()).clamp_min(0).sqrt().mean()
    overall = (squares.sum() - total.sum().square() / (n * d)) / max(1, n * d - 1)
    return float(overall.clamp_min(0).sqrt()), float(between)
