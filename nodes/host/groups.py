"""Drawing a batch in groups: which images, noise and prompts belong to each."""

import torch


def group_indices(batch: int, group_size: int) -> list[list[int]]:
    """The images of each group; a single group if `group_size` is 0."""
    size = group_size or batch
    return [list(range(i, min(i + size, batch))) for i in range(0, batch, size)]


def take(tensor: torch.Tensor, indices: list[int]) -> torch.Tensor:
    """The rows that images `indices` use of a tensor that ComfyUI repeats over the batch."""
    return tensor if len(tensor) == 1 else tensor[[i % len(tensor) for i in indices]]


def group_latent(latent: dict, indices: list[int]) -> dict:
    """The part of a LATENT that holds images `indices`, which keep the noise they have in the batch."""
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
    """The part of a CONDITIONING that images `indices` use: prompts may differ within the batch."""
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
