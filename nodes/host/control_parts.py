"""ControlNets for parts of a batch: each image uses the same hint as in the whole batch."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from .conditioning_parts import take

if TYPE_CHECKING:
    from comfy.controlnet import ControlBase


class ControlParts:
    """A cache of the control objects for each part of a batch, for one sampling run.

    A control object caches its prepared hint (scaled, for some models encoded by a VAE) for the
    images of the last call. Each part therefore needs its own control object for the whole run. All
    prompts share this object, because ComfyUI evaluates prompts in one network call only if they
    have the same control object.
    """

    def __init__(self) -> None:
        self._parts: dict[tuple[ControlBase, tuple[int, ...]], ControlBase] = {}

    def part(self, control: ControlBase, rows: Sequence[int], batch: int) -> ControlBase:
        """A control object for images `rows` of a batch of `batch` images.

        Returns `control` itself if it and all control objects before it use one hint for all
        images.
        """
        if not any(map(differs, with_previous(control))):
            return control
        key = control, tuple(rows)
        if key not in self._parts:
            self._parts[key] = control_part(control, rows, batch, self)
        return self._parts[key]


def with_previous(control: ControlBase | None) -> Iterator[ControlBase]:
    """The control object, then those that were applied before it (`previous_controlnet`)."""
    while control is not None:
        yield control
        control = control.previous_controlnet


def differs(control: ControlBase) -> bool:
    """Whether a control object may use different hints for the images of a batch."""
    hint = control.cond_hint_original
    return accepts_indices(control) or (isinstance(hint, torch.Tensor) and len(hint) > 1)


def accepts_indices(control: ControlBase) -> bool:
    """Whether the object accepts image indices (`sub_idxs`), as those of Advanced-ControlNet do."""
    return hasattr(control, "sub_idxs")


def control_part(
    control: ControlBase, rows: Sequence[int], batch: int, parts: ControlParts
) -> ControlBase:
    """A shallow copy of `control` for images `rows`.

    It shares the network and the state that ComfyUI prepared.
    """
    part = copy.copy(control)
    for name, value in vars(control).items():
        if isinstance(value, types.MethodType) and value.__self__ is control:
            setattr(part, name, types.MethodType(value.__func__, part))
    part.cond_hint = None
    hint = control.cond_hint_original
    if accepts_indices(control):
        indices = control.sub_idxs or range(batch)  # set if micro-batch nodes are chained
        part.sub_idxs = [indices[i] for i in rows]
        part.full_latent_length = control.full_latent_length if control.sub_idxs else batch
        part.context_length = len(rows)
        # The T2I-Adapter of Advanced-ControlNet does not repeat a single hint.
        if isinstance(hint, torch.Tensor) and len(hint) == 1:
            part.cond_hint_original = hint.expand(part.full_latent_length, *hint.shape[1:])
    elif isinstance(hint, torch.Tensor) and len(hint) > 1:
        hints = [i % len(hint) for i in rows]
        part.cond_hint_original = hint[hints]
        part.extra_concat_orig = [take(extra, hints) for extra in control.extra_concat_orig]
    if control.previous_controlnet is not None:
        part.previous_controlnet = parts.part(control.previous_controlnet, rows, batch)
    clones = getattr(control, "multigpu_clones", {})
    part.multigpu_clones = {device: parts.part(c, rows, batch) for device, c in clones.items()}
    return part
