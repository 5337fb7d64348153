"""Measures what guidance did at one model call."""

import math

import torch
from torch import Tensor

from ..comparison.coupling import Coupling
from ..comparison.noise import Step
from .modes import Move
from .schedule import Course
from .trace import TraceRow

__all__ = ["NotFinite", "measured"]


class NotFinite(ValueError):
    """An estimate that is NaN or infinite. It would make the whole batch NaN.

    Attributes:
        sigma: The noise level.
        images: The samples with such an estimate, counted from 1.
    """

    def __init__(self, sigma: float, images: list[int]) -> None:
        self.sigma, self.images = sigma, images
        which = ", ".join(map(str, images))
        super().__init__(f"the estimate at sigma {sigma:g} is NaN or infinite for samples {which}")


def measured(
    sigma: float,
    course: Course,
    step: Step | None,
    move: Move,
    coupling: Coupling,
    own: Tensor,
    compared: Tensor,
    spread: Tensor,
) -> TraceRow:
    """What `move` did at one model call.

    Arguments:
        sigma: The noise level.
        course: The place in the schedule.
        step: The sampler's step; None where guidance does not act.
        move: What guidance does.
        coupling: The weights of all samples, references and finished samples.
        own: ‖x − x̂0‖ of each sample, with shape `(B,)`. An Euler step shortens it by its
            `fraction`.
        compared: What `ByPrompt.compared` found.
        spread: The spread of the references, a scalar.

    Raises:
        NotFinite: `own` is not finite.
    """
    ours = torch.zeros_like(own) if step is None else move.lengths * move.scale.abs()
    each = torch.stack([ours, ours / own.clamp_min(1e-30), own], 1)
    sizes = each.mean(0)
    before = move.start.mmd2(coupling)
    numbers = [  # read in one transfer, because each transfer makes the host wait for the GPU
        before,
        before if step is None else move.end.mmd2(coupling),
        sizes[0],
        sizes[1],
        move.start.saturated(),
        move.end.nearest().mean(),
        sizes[2],
        spread,
    ]
    found = torch.cat([torch.stack(numbers), compared.to(before)]).tolist()
    before, after, moved, relative, saturated, nearest, far, spread, *by_prompt = found
    if not math.isfinite(far):
        bad = each[:, 2].isfinite().logical_not().nonzero().flatten()
        raise NotFinite(sigma, (bad + 1).tolist())
    change = torch.tensor(moved, dtype=own.dtype) * (step.fraction / spread if step else 0)
    return TraceRow(
        sigma,
        course.progress(sigma),
        before,
        after,
        change.item(),
        move.substeps,
        relative,
        saturated,
        nearest,
        *(number if math.isfinite(number) else None for number in by_prompt),
    )
