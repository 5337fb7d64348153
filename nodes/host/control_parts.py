"""ControlNets for parts of a batch: each image uses the same hint as in the whole batch."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from comfy.controlnet import ControlBase

from .conditioning_parts import take
from .coupled_images import is_of_comfyui

# Attributes that ComfyUI's own control objects have, and that are cut as ComfyUI uses them.
CORES = frozenset(vars(ControlBase()))
DEPTH = 3  # how deep a control object is searched


class ControlParts:
    """A cache of the control objects for each part of a batch, for one sampling run.

    A control object caches its prepared hint (scaled, for some models encoded by a VAE) for the
    images of the last call. Each part therefore needs its own control object for the whole run. All
    prompts share this object, because ComfyUI evaluates prompts in one network call only if they
    have the same control object.
    """

    def __init__(self) -> None:
        self._parts: dict[tuple[ControlBase, tuple[int, ...]], ControlBase] = {}
        self._asked: set[ControlBase] = set()

    def part(self, control: ControlBase, rows: Sequence[int], batch: int) -> ControlBase:
        """A control object for images `rows` of a batch of `batch` images.

        Returns `control` itself if it and all control objects before it use one hint for all
        images.
        """
        if control in self._asked:  # it holds an object that holds it
            return control
        self._asked.add(control)
        try:
            return self._part(control, rows, batch)
        finally:
            self._asked.discard(control)

    def _part(self, control: ControlBase, rows: Sequence[int], batch: int) -> ControlBase:
        if not any(differs(each, batch, self) for each in with_previous(control)):
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


def differs(control: ControlBase, batch: int, parts: ControlParts) -> bool:
    """Whether a control object may use different hints for the images of a batch."""
    hints = torch.is_tensor(control.cond_hint_original) and len(control.cond_hint_original) > 1
    return hints or accepts_indices(control) or bool(own_parts(control, range(batch), batch, parts))


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
    vars(part).update(own_parts(control, rows, batch, parts))
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


def own_parts(
    control: ControlBase, rows: Sequence[int], batch: int, parts: ControlParts
) -> dict[str, Any]:
    """What a control object of another pack holds for images `rows`, by the attributes that differ.

    Packs keep hints in attributes of their own, or in a control object within their own. A tensor
    in the form of pictures or films is for images in turn, as ComfyUI's hints are. One with fewer
    axes is by image if it has a row for each image or each hint.
    """
    if accepts_indices(control) or is_of_comfyui(control):
        return {}
    hint = control.cond_hint_original
    counts = {batch, len(hint) if torch.is_tensor(hint) else batch} - {1}

    def cut(value: Any, depth: int = 0) -> Any:
        """The value for these images; the value itself if it is the same for all."""
        if torch.is_tensor(value) and not isinstance(value, torch.nn.Parameter):
            fits = value.ndim > 1 and (len(value) in counts or (value.ndim > 3 and len(value) > 1))
            return take(value, rows) if fits else value
        if isinstance(value, ControlBase):
            return parts.part(value, rows, batch)
        if depth > DEPTH:
            return value
        if isinstance(value, dict):
            cuts = {name: cut(held, depth + 1) for name, held in value.items()}
            return cuts if any(cuts[name] is not value[name] for name in value) else value
        if isinstance(value, (list, tuple)):
            if len(value) == batch > 1 and all(torch.is_tensor(v) and v.ndim > 2 for v in value):
                return type(value)(value[i] for i in rows)
            cuts = [cut(held, depth + 1) for held in value]
            changed = any(new is not old for new, old in zip(cuts, value, strict=True))
            if not changed:
                return value
            return type(value)(*cuts) if hasattr(value, "_fields") else type(value)(cuts)
        if _is_plain(value):
            changed = _changed(vars(value), lambda held: cut(held, depth + 1))
            if changed:
                value = copy.copy(value)
                vars(value).update(changed)
        return value

    own = {name: value for name, value in vars(control).items() if name not in CORES}
    return _changed(own, cut)


def _changed(held: dict[str, Any], cut: Callable[[Any], Any]) -> dict[str, Any]:
    """The attributes that are cut. Weights of networks are not."""
    cuts = {name: cut(value) for name, value in held.items() if "weight" not in name}
    return {name: value for name, value in cuts.items() if value is not held[name]}


def _is_plain(value: Any) -> bool:
    """Whether this is an object of another pack that only holds values."""
    if not hasattr(value, "__dict__") or callable(value) or isinstance(value, types.ModuleType):
        return False
    return not type(value).__module__.startswith("torch") and not is_of_comfyui(value)
