"""How far guidance moves x̂0, compared with how far the prompt moves it.

Classifier-free guidance (cfg) moves the estimate by p = x̂0 − x̂0(unconditional). MMD guidance moves
it further by d. The part of d along p supports the prompt or takes it back. Mode `keep_prompt`
leaves out what would take it back.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .modes import norms

__all__ = ["ByPrompt"]

ROUNDING = 1e-4  # by the sampler's step: a shorter p is rounding, as where both prompts are equal


@dataclass(frozen=True)
class ByPrompt:
    """How the prompt moved the estimates of one model call.

    Arguments:
        move: p, with shape `(B, *shape)`. It is overwritten when it is compared.
        mask: How far each number may change, in [0, 1], with the same shape; None: all may.
    """

    move: Tensor
    mask: Tensor | None = None

    def gathered(self, gather: Callable[[Tensor], Tensor]) -> "ByPrompt":
        """That of all workers."""
        return ByPrompt(gather(self.move), None if self.mask is None else gather(self.mask))

    def kept(self, displacement: Tensor, factors: Tensor) -> Tensor:
        """d without the part that takes the prompt back: d − min(0, ⟨d, p⟩ / ‖p‖²) p.

        Arguments:
            displacement: With shape `(B, *shape)`; d is `factors · displacement`. It is changed.
            factors: One for each sample, with shape `(B,)`.
        """
        p = self.move.to(displacement)
        seen = p if self.mask is None else p * self.mask.to(p)
        length = seen.flatten(1).square().sum(1).clamp_min(torch.finfo(p.dtype).tiny)
        seen = seen if self.mask is None else seen * self.mask.to(p)
        along = (displacement * seen).flatten(1).sum(1)
        share = torch.where(along * factors < 0, along / length, 0)
        return displacement.addcmul_(p, share.reshape(-1, *[1] * (p.ndim - 1)), value=-1)

    def compared(self, displacement: Tensor, factors: Tensor, step: Tensor) -> Tensor:
        """Σ‖d‖ / Σ‖p‖ and Σ⟨d, p⟩ / Σ‖p‖², with shape `(2,)`; NaN where the prompt moves nothing.

        They are sums over the batch: else images that the prompt hardly moves would count most.

        Arguments:
            displacement: With shape `(B, *shape)`; d is `factors · displacement`.
            factors: One for each sample, with shape `(B,)`.
            step: ‖x − x̂0‖ of each sample, with shape `(B,)`: the length of the sampler's step.
        """
        p, mask, d = self.move.to(displacement), self.mask, displacement
        p = p if mask is None else p.mul_(mask)
        lengths = norms(p)
        # In place, because more tensors of the size of the batch could exceed the memory.
        p = p if mask is None else p.mul_(mask)
        along = p.mul_(d).flatten(1).sum(1) * factors
        ours = norms(d if mask is None else torch.mul(d, mask, out=p)) * factors.abs()
        found = torch.stack([ours.sum() / lengths.sum(), along.sum() / lengths.square().sum()])
        return found.where(lengths.sum() > ROUNDING * step.sum(), torch.nan)
