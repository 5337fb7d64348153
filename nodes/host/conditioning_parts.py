"""What some images of a batch use of its conditioning: the same as in the whole batch.

Groups, micro-batches, references to be drawn and TRI-TSMC all cut conditioning with `conds_part`.
It works on what ComfyUI has prepared for a run of the whole batch. There, whatever differs between
images is a control object or a tensor with one row for each image: prompts, hints, masks, latents
to edit or to continue, pictures.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

import comfy.conds
import torch

if TYPE_CHECKING:
    from comfy.conds import CONDRegular

    from .control_parts import ControlParts

__all__ = ["BY_IMAGE", "conds_part", "rows_of", "take"]

# Options with one row for each image. `batch_features` reads all but the mask.
BY_IMAGE = ("mask", "cross_attn", "pooled_output", "attention_mask")


def take(tensor: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """The rows of `tensor` for images `rows`. Image i uses row i % n of n rows, as in ComfyUI."""
    return tensor if len(tensor) == 1 else tensor[[i % len(tensor) for i in rows]]


def rows_of(tensor: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """As `take`; a view where that is possible."""
    if isinstance(rows, range) and rows.step == 1 and rows.stop <= len(tensor):
        # Indexing with a list would synchronize with the device.
        return tensor[rows.start : rows.stop]
    return take(tensor, rows)


def conds_part(
    entries: list[dict] | None, rows: Sequence[int], batch: int, controls: ControlParts
) -> list[dict] | None:
    """Copies of the conditioning entries of one prompt, for images `rows` of `batch` images.

    Raises:
        ValueError: An entry holds something that cannot be divided among images.
    """
    return None if entries is None else [entry_part(e, rows, batch, controls) for e in entries]


def entry_part(entry: dict, rows: Sequence[int], batch: int, controls: ControlParts) -> dict:
    """A copy of one conditioning entry, reduced to images `rows`.

    ComfyUI repeats n < `batch` rows of a tensor over the batch, so image i uses row i % n.
    """
    part = {
        **entry,
        # Caches that use this id as their key (EasyCache) must not mix the images of different
        # parts.
        "uuid": uuid.uuid5(uuid.NAMESPACE_OID, f"{entry['uuid']} {rows}"),
        "model_conds": {n: cond_part(n, c, rows) for n, c in entry["model_conds"].items()},
    }
    for name in BY_IMAGE:
        if torch.is_tensor(entry.get(name)) and entry[name].ndim > 1:
            part[name] = rows_of(entry[name], rows)
    if entry.get("control") is not None:
        part["control"] = controls.part(entry["control"], rows, batch)
    return part


def cond_part(name: str, cond: CONDRegular, rows: Sequence[int]) -> CONDRegular:
    """The conditioning `name` for images `rows`, of the same class.

    Constants are returned as they are.

    Raises:
        ValueError: It consists of something else than tensors.
    """
    if isinstance(cond, comfy.conds.CONDConstant):
        return cond
    if torch.is_tensor(cond.cond):
        return cond._copy_with(rows_of(cond.cond, rows))
    if isinstance(cond.cond, list) and all(map(torch.is_tensor, cond.cond)):  # CONDList
        return cond._copy_with([rows_of(tensor, rows) for tensor in cond.cond])
    raise ValueError(
        f"the conditioning has an entry {name!r} ({type(cond).__name__}) that cannot be divided "
        "among the images of a batch"
    )
