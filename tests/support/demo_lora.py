"""A LoRA file for a demonstration world: it always adds a word to the prompt."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from mmd_demo.catalog import WEIGHTS, WORLDS
from safetensors import safe_open
from safetensors.torch import load_file, save_file

SHAPES, EMOJI = "condition.level", "condition.words"


def write_lora(path: Path, word: str, world: str = "shapes") -> None:
    """Write it: what the network adds for that word becomes part of a bias."""
    place, bias = _emoji_bias(word) if world == "emoji" else _shapes_bias(word)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({f"diffusion_model.{place}.diff_b": bias.float().contiguous()}, str(path))


def _shapes_bias(word: str) -> tuple[str, torch.Tensor]:
    weights = load_file(WEIGHTS / "shapes.safetensors")["condition.words.weight"]
    return SHAPES, weights[:, WORLDS["shapes"].words.index(word)]


def _emoji_bias(word: str) -> tuple[str, torch.Tensor]:
    with safe_open(WEIGHTS / "emoji.safetensors", "pt") as file:
        vocabulary = json.loads(file.metadata()["vocabulary"])
        vector = file.get_tensor("words.weight")[1 + vocabulary.index(word)]
        weights = file.get_tensor(f"denoiser.{EMOJI}.weight")
    return EMOJI, weights.float() @ vector.float()
