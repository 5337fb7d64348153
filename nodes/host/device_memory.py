"""How much of the device references may take: what ComfyUI leaves of it."""

import comfy.model_management as management
from torch import Tensor

from .micro_batch import AT_ONCE


def room(inner_model, noise: Tensor, transformer_options: dict) -> float:
    """Bytes beside the model and what it needs while it draws; beyond, references are streamed.

    Arguments:
        noise: Of the batch that is drawn, on the device.
    """
    free = management.get_free_memory(noise.device)
    if noise.device.type == "cpu":
        return free / 2
    batch = min(len(noise), transformer_options.get(AT_ONCE, len(noise)))
    needed = inner_model.memory_required([2 * batch, *noise.shape[1:]])  # with and without prompt
    return max(0.0, free - max(needed, management.minimum_inference_memory()))
