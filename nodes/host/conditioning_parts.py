"""ControlNets on part of a batch: each image keeps the hint that it has in the whole batch."""

import copy
import types
from collections.abc import Iterator

import torch

from .groups import take


class ControlParts:
    """The ControlNets of one run as the parts of its batch use them, made when first asked for.

    A control object remembers the hint that it prepared (scaled, perhaps encoded by a VAE) for the
    images it was asked about, so each part needs an object of its own, which lasts for the run. It is
    the same for all prompts: core sends prompts through the network together only if theirs is.
    """

    def __init__(self):
        self._parts = {}

    def part(self, control, rows: range, batch: int):
        """`control` for images `rows` of `batch`, or itself if its images are all treated alike."""
        if not any(map(differs, chain(control))):
            return control
        if (control, rows) not in self._parts:
            self._parts[control, rows] = control_part(control, rows, batch, self)
        return self._parts[control, rows]


def chain(control) -> Iterator:
    """The control object and those that were applied before it."""
    while control is not None:
        yield control
        control = control.previous_controlnet


def differs(control) -> bool:
    """Whether a control object treats the images of a batch differently."""
    hint = control.cond_hint_original
    return knows_rows(control) or (isinstance(hint, torch.Tensor) and len(hint) > 1)


def knows_rows(control) -> bool:
    """Whether it can be told which images it is asked about, as those of Advanced-ControlNet can."""
    return hasattr(control, "sub_idxs")


def control_part(control, rows: range, batch: int, parts: ControlParts):
    """A shallow copy, which shares the network and what core has set up for the run."""
    part = copy.copy(control)
    for name, value in vars(control).items():
        if isinstance(value, types.MethodType) and value.__self__ is control:
            setattr(part, name, types.MethodType(value.__func__, part))
    part.cond_hint = None
    hint = control.cond_hint_original
    if knows_rows(control):
        known = control.sub_idxs or range(batch)  # a part of a part, where nodes are chained
        part.sub_idxs = [known[i] for i in rows]
        part.full_latent_length = control.full_latent_length if control.sub_idxs else batch
        part.context_length = len(rows)
        if isinstance(hint, torch.Tensor) and len(hint) == 1:  # its T2I-Adapter would not repeat it
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
