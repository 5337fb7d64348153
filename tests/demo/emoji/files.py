"""Writing files at once, so that whoever reads never sees half of one."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn


def write_at_once(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a temporary file, then give it its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.part{path.suffix}")
    write(temporary)
    os.replace(temporary, path)


def save_half(network: nn.Module, path: Path, metadata: dict[str, str] | None = None) -> None:
    """The weights as half precision safetensors."""
    state = {name: weight.half().contiguous() for name, weight in network.state_dict().items()}
    write_at_once(path, lambda part: save_file(state, part, metadata))


def save_pictures(rows: list[torch.Tensor], path: Path) -> None:
    """Rows of pictures (B, 3, H, W) in -1 to 1, one below the other."""
    lines = [torch.cat(list(row), 2) for row in rows]
    pixels = torch.cat(lines, 1).add(1).mul(127.5).round().clamp(0, 255).byte()
    write_at_once(path, Image.fromarray(pixels.permute(1, 2, 0).numpy()).save)
