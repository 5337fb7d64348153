"""How much memory of the compute device the references may use beside ComfyUI's model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import comfy.model_management as management
from torch import Tensor

from .dynamic_vram import giving_way, is_dynamic
from .micro_batch import AT_ONCE

if TYPE_CHECKING:
    from comfy.model_base import BaseModel


COPIES = 6  # of the batch, in float32: what guidance itself needs in a call, at most


def room(inner_model: BaseModel, noise: Tensor, transformer_options: dict[str, Any]) -> float:
    """Bytes that references may use: free memory minus what the model needs for sampling.

    Larger sets are streamed to the device. On the CPU, the result is half of the free memory. With
    dynamic VRAM, weights may be on the device or not when a run begins. The result is the same in
    both cases, so that a seed draws the same image in each run.

    Arguments:
        inner_model: ComfyUI's BaseModel, which estimates its memory for a batch.
        noise: The noise of the batch, with shape `(B, C, *)`, on the compute device.
        transformer_options: May contain the micro-batch size, under `AT_ONCE`.
    """
    free = management.get_free_memory(noise.device)
    if noise.device.type == "cpu":
        return free / 2
    patcher = getattr(inner_model, "current_patcher", None)
    if is_dynamic(patcher):
        free += giving_way(noise.device) - patcher.model_size()
    batch = min(len(noise), transformer_options.get(AT_ONCE, len(noise)))
    needed = inner_model.memory_required([2 * batch, *noise.shape[1:]])  # with and without prompt
    needed = max(needed, management.minimum_inference_memory())
    return max(0.0, free - needed - COPIES * 4 * math.prod(noise.shape))
