"""The estimate without the prompt that cfg makes in a model call."""

from typing import Any

from comfy.model_patcher import set_model_options_post_cfg_function
from torch import Tensor

from ....mmd_core import ByPrompt
from .compared_part import ComparedPart


class Unconditional:
    """Keeps the unconditional estimate of one model call.

    ComfyUI hands it to functions that follow cfg. One that changes nothing leaves everything else
    as it is, also that core calls the model only with the prompt at cfg 1.
    """

    def __init__(self) -> None:
        self.estimates: list[Tensor] = []

    def kept_by(self, model_options: dict[str, Any]) -> dict[str, Any]:
        """A copy of the model options with which a call keeps its estimate here."""
        return set_model_options_post_cfg_function(model_options.copy(), self._keep)

    def by_prompt(self, x0: Tensor, mask: Tensor | None, part: ComparedPart) -> ByPrompt | None:
        """How the prompt moved `x0`; None if the model was not called without the prompt.

        The estimate is then forgotten.

        Arguments:
            x0: The denoised estimates, with shape `(B, *shape)`.
            mask: Where the run may change images, or None.
            part: What of the latents is compared with the references.
        """
        whole = [estimate for estimate in self.estimates if estimate.shape == x0.shape]
        self.estimates = []
        if not whole:
            return None
        shares = None if mask is None else part.cut(part.share(mask))
        return ByPrompt(part.of(x0 - whole[-1]), shares)

    def _keep(self, call: dict[str, Any]) -> Tensor:
        if call.get("uncond"):  # without a negative prompt the estimate is 0
            self.estimates = [call["uncond_denoised"]]
        return call["denoised"]
