"""A LoRA file for the demonstration world of shapes: it always adds a word to the prompt."""

from __future__ import annotations

from pathlib import Path

from mmd_demo.catalog import WEIGHTS, WORLDS
from safetensors.torch import load_file, save_file


def write_lora(path: Path, word: str) -> None:
    """Write it: what the network adds for that word becomes part of a bias."""
    place = WORLDS["shapes"].words.index(word)
    weights = load_file(WEIGHTS / "shapes.safetensors")["condition.words.weight"]
    path.parent.mkdir(parents=True, exist_ok=True)
    bias = weights[:, place].float().contiguous()
    save_file({"diffusion_model.condition.level.diff_b": bias}, str(path))
