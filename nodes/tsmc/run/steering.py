"""How a run steers the base chain: not at all, or along a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....mmd_core.tsmc import Gradient, GradientTwist, Jacobian, KernelExpansion, Twist, white
from .plan import ModelInfo

__all__ = ["Steered", "Steering", "Unsteered"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Steering:
    """What the two kinds of steering have in common.

    Attributes:
        feature: The feature in use: `gradient`, `surrogate` or `none`.
        surrogate: The surrogate of λ r that was fitted to the scores of the first batch; None if
            the run needs none.
    """

    feature: str
    surrogate: KernelExpansion | None = None

    def size(self, blocks: int) -> int:
        """p, the number of parameters of the twist, with `blocks` time blocks."""
        raise NotImplementedError

    def twist(self, model: ModelInfo, blocks: int, mask: Tensor | None) -> Twist | None:
        """The twist, multiplied by `mask` with shape `(1, *)`; None draws from the base chain."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False, kw_only=True)
class Unsteered(Steering):
    """Paths of the base chain: the model draws without steering."""

    def size(self, blocks: int) -> int:
        return 0

    def twist(self, model: ModelInfo, blocks: int, mask: Tensor | None) -> None:
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class Steered(Steering):
    """Paths that a gradient steers.

    Attributes:
        gradient: ∇f as a function of latents `(B, *)` in the space of the model, with f = λ r or
            its surrogate.
        jacobians: The estimates of ∂x̂0/∂x. Each gives one feature of the twist.
    """

    gradient: Gradient
    jacobians: Sequence[Jacobian] = (white,)

    def size(self, blocks: int) -> int:
        return blocks * len(self.jacobians)

    def twist(self, model: ModelInfo, blocks: int, mask: Tensor | None) -> Twist:
        mask = None if mask is None else mask[:1].to(model.device)
        return OneAtATime(GradientTwist(self.gradient, model.steps, blocks, mask, self.jacobians))


class OneAtATime:
    """A twist that is evaluated on one sample at a time.

    The rounding of matrix products depends on the number of rows. So this keeps the result for a
    sample independent of the other samples.
    """

    def __init__(self, twist: GradientTwist) -> None:
        self.twist, self.size = twist, twist.size

    def __call__(self, x0: Tensor, step: int) -> tuple[slice, Tensor]:
        parts = [self.twist(one, step) for one in x0.split(1)]
        return parts[0][0], torch.cat([features for _, features in parts])
