"""What the mask of a run keeps of its latents, call by call."""

from collections.abc import Callable
from dataclasses import dataclass

from comfy.samplers import CFGGuider
from torch import Tensor

__all__ = ["RunMask"]


@dataclass(frozen=True, eq=False)
class RunMask:
    """The mask of a run.

    Arguments:
        mask: Where the run may change latents, in [0, 1], with shape `(B, *shape)`.
        latents: What it keeps elsewhere, with the same shape, without noise of earlier runs.
        sigmas: The noise schedule, with shape `(steps + 1,)`.
        changes: ComfyUI's function that changes the mask from call to call, which Differential
            Diffusion sets; or None.
        goes_on: Whether the run adds no noise: it goes on with images of another run.
    """

    mask: Tensor
    latents: Tensor
    sigmas: Tensor
    changes: Callable[..., Tensor] | None = None
    goes_on: bool = False

    def at(self, x: Tensor, sigma: float, guider: CFGGuider) -> Tensor:
        """The mask at the noise level `sigma`, with shape `(B, *shape)`."""
        if self.changes is None:
            return self.mask
        level = x.new_full((len(x),), sigma)
        others = {"model": guider, "sigmas": self.sigmas}
        return self.changes(level, self.mask, extra_options=others)

    def finished(self, samples: Tensor) -> Tensor:
        """Finished samples without the noise that an earlier run left where the mask keeps it."""
        if not self.goes_on or samples.shape != self.latents.shape:  # samplers may change the size
            return samples
        return samples.where(self.mask > 0, self.latents.to(samples))
