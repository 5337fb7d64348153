"""Prompt features: one vector per prompt.

The captions of references and the prompts of samples have the same kind of features, so that a
kernel can compare them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from comfy.samplers import CFGGuider


def entry_feature(entry: dict[str, Any]) -> Tensor:
    """The features of the b prompts of one conditioning entry.

    The feature of a prompt is its pooled text embedding if there is one, else the mean of its token
    embeddings. If the entry has an attention mask, the mean leaves padding out.

    Returns:
        The features with shape `(b, E)`, float32 on the CPU.
    """
    pooled = entry.get("pooled_output")
    if pooled is not None:
        return pooled.detach().float().cpu().flatten(1)
    tokens = entry["cross_attn"].detach().float().cpu()  # (b, T, E)
    mask = entry.get("attention_mask")
    if mask is None:
        return tokens.mean(1)
    mask = mask.detach().float().cpu().reshape(-1, tokens.shape[1], 1)  # (b, T, 1)
    return (tokens * mask).sum(1) / mask.sum(1).clamp_min(1)


def positive_entries(guider: CFGGuider) -> list[dict[str, Any]]:
    """The positive conditioning entries of any guider.

    These are its conditioning "positive" if it has one, else its first conditioning, if any.
    """
    return guider.conds.get("positive") or next(iter(guider.conds.values()), [])


def prompt_count(entries: list[dict[str, Any]]) -> int:
    """The number P of prompts in the conditioning entries.

    Image i of a batch uses prompt i mod P.
    """
    return max(
        (len(e["cross_attn"]) for e in entries if e.get("cross_attn") is not None), default=1
    )


def batch_features(entries: list[dict[str, Any]], batch: int, sigma: float) -> Tensor | None:
    """The prompt feature of each of the `batch` images at noise level `sigma`.

    Several entries (combined, regional or scheduled prompts) are averaged, weighted by their
    strength. An entry whose timestep range excludes `sigma` does not count.

    Returns:
        The features with shape `(B, E)`; None if no entry is active.
    """
    total, weight = None, 0.0
    for entry in entries:
        start, end = entry.get("timestep_start"), entry.get("timestep_end")
        if (start is not None and sigma > start) or (end is not None and sigma < end):
            continue
        feature = entry_feature(entry)
        rows = torch.arange(batch) % feature.shape[0]  # as ComfyUI repeats prompts over the batch
        feature = feature[rows]
        strength = float(entry.get("strength", 1.0))
        total = feature * strength if total is None else total + feature * strength
        weight += strength
    return total / weight if weight else None
