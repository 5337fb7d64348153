"""Sampling a batch in groups: selects the images, noise and prompts of each group."""

from typing import Any

import torch


def group_indices(batch: int, group_size: int) -> list[list[int]]:
    """The image indices of each group; one group if `group_size` is 0."""
    size = group_size or batch
    return [list(range(i, min(i + size, batch))) for i in range(0, batch, size)]


def take(tensor: torch.Tensor, indices: list[int]) -> torch.Tensor:
    """The rows of `tensor` for images `indices`.

    Image i uses row i % n of n rows, as in ComfyUI.
    """
    return tensor if len(tensor) == 1 else tensor[[i % len(tensor) for i in indices]]


def group_latent(latent: dict[str, Any], indices: list[int]) -> dict[str, Any]:
    """The part of a LATENT with images `indices`.

    Its `batch_index` gives the images the same noise as in the whole batch.
    """
    batch_index = latent.get("batch_index") or range(len(latent["samples"]))
    part = {
        **latent,
        "samples": latent["samples"][indices],
        "batch_index": [batch_index[i] for i in indices],
    }
    if "noise_mask" in latent:
        part["noise_mask"] = take(latent["noise_mask"], indices)
    return part


def group_conditioning(conditioning: list, indices: list[int], batch: int) -> list:
    """The part of a CONDITIONING that images `indices` use.

    Each image of the batch may have its own prompt.
    """
    groups = []
    for tokens, options in conditioning:
        rows = {batch, len(tokens)}
        options = {
            name: take(value, indices)
            if isinstance(value, torch.Tensor) and value.ndim > 1 and len(value) in rows
            else value
            for name, value in options.items()
        }
        groups.append([take(tokens, indices), options])
    return groups
