"""How much memory of the compute device the references may use beside ComfyUI's model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.model_management as management
from torch import Tensor

from .micro_batch import AT_ONCE

if TYPE_CHECKING:
    from comfy.model_base import BaseModel


def room(inner_model: BaseModel, noise: Tensor, transformer_options: dict[str, Any]) -> float:
    """Bytes that references may use: free memory minus what the model needs for sampling.

    Larger sets are streamed to the device. On the CPU, the result is half of the free memory.

    Arguments:
        inner_model: ComfyUI's BaseModel, which estimates its memory for a batch.
        noise: The noise of the batch, with shape `(B, C, *)`, on the compute device.
        transformer_options: May contain the micro-batch size, under `AT_ONCE`.
    """
    free = management.get_free_memory(noise.device)
    if noise.device.type == "cpu":
        return free / 2
    batch = min(len(noise), transformer_options.get(AT_ONCE, len(noise)))
    needed = inner_model.memory_required([2 * batch, *noise.shape[1:]])  # with and without prompt
    return max(0.0, free - max(needed, management.minimum_inference_memory()))
