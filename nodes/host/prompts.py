"""Prompt features: one vector per prompt, the same for captions of references and prompts being drawn."""

import torch
from torch import Tensor


def entry_feature(entry: dict) -> Tensor:
    """The feature of one conditioning entry, with shape `(b, E)`, b prompts of the entry's batch.

    The pooled text embedding where the text encoder makes one, else the mean over tokens, leaving
    padding out where an attention mask tells it.
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


def positive_entries(guider) -> list[dict]:
    """The conditioning entries that say what to draw, in whatever guider."""
    return guider.conds.get("positive") or next(iter(guider.conds.values()))


def prompt_count(entries: list[dict]) -> int:
    """P, how many prompts conditioning entries hold: image i of a batch follows prompt i mod P."""
    return max(
        (len(e["cross_attn"]) for e in entries if e.get("cross_attn") is not None), default=1
    )


def batch_features(entries: list[dict], batch: int, sigma: float) -> Tensor | None:
    """The feature of the prompt that each of the `batch` images follows at `sigma`, with shape `(B, E)`.

    Several entries (combined, regional or scheduled prompts) are averaged by their strength; an entry
    whose timestep range excludes `sigma` does not count. None when no entry is active.
    """
    total, weight = None, 0.0
    for entry in entries:
        start, end = entry.get("timestep_start"), entry.get("timestep_end")
        if (start is not None and sigma > start) or (end is not None and sigma < end):
            continue
        feature = entry_feature(entry)
        feature = feature[
            torch.arange(batch) % feature.shape[0]
        ]  # as core repeats it over the batch
        strength = float(entry.get("strength", 1.0))
        total = feature * strength if total is None else total + feature * strength
        weight += strength
    return total / weight if weight else None
