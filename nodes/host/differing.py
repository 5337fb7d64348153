"""Whether the images of a batch have the same conditioning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from comfy.controlnet import ControlBase

from .conditioning_parts import BY_IMAGE
from .control_parts import ControlParts, own_parts, with_previous

__all__ = ["differing"]


def differing(entries: list[dict] | None, batch: int) -> str | None:
    """What differs between the images of a batch, by its name in the conditioning; None: nothing.

    Arguments:
        entries: The conditioning entries of one prompt, prepared for a run of `batch` images.
    """
    for entry in entries or ():
        found = [(name, entry.get(name)) for name in BY_IMAGE]
        for name, cond in entry["model_conds"].items():
            tensors = cond.cond if isinstance(cond.cond, list) else [cond.cond]
            found += [(name, tensor) for tensor in tensors]
        for control in with_previous(entry.get("control")):
            found.append(("control", control.cond_hint_original))
            if _own_differ(control, batch):
                return "control"
        for name, tensor in found:
            if torch.is_tensor(tensor) and tensor.ndim > 1 and _differ(tensor[:batch]):
                return name
    return None


def _differ(rows: torch.Tensor) -> bool:
    return bool((rows != rows[:1]).any())


def _own_differ(control: ControlBase, batch: int) -> bool:
    """Whether a control object of another pack holds different things for the images."""
    parts = ControlParts()
    first, *others = (list(_tensors(own_parts(control, [i], batch, parts))) for i in range(batch))
    return any(not all(map(torch.equal, first, other)) for other in others)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, ControlBase):
        value = value.cond_hint_original
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for held in value:
            yield from _tensors(held)
