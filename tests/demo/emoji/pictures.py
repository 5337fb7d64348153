"""The pictures of `emoji.npz` as tensors, and how they are varied."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

SPLITS = ("train", "val_pair", "val_name", "style_never_seen")


def read_table(cache: Path) -> dict[str, np.ndarray]:
    """All columns of the file, its pictures excepted."""
    with np.load(cache / "emoji.npz") as file:
        return {name: file[name] for name in file.files if name != "pictures"}


def read_pictures(cache: Path, rows: np.ndarray) -> torch.Tensor:
    """The pictures of some rows (numbers or a mask) as uint8 (N, 3, 64, 64)."""
    with np.load(cache / "emoji.npz") as file:
        pixels = file["pictures"][rows]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def to_float(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pixels as numbers in -1 to 1."""
    return pixels.float() / 127.5 - 1


def shift_pixels(pixels: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """Pictures moved by some pixels, on white."""
    height, width = pixels.shape[-2:]
    reach = max(abs(down), abs(right))
    wide = F.pad(pixels, (reach,) * 4, value=255)
    top, left = reach - down, reach - right
    return wide[..., top : top + height, left : left + width]
