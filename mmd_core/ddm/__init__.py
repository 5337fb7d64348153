"""MMD-DDM: finetunes a model for a few-step sampler with an MMD loss. Independent of ComfyUI.

Start with `training.py`.
"""

from .adjoint import Penalty, accumulate, draw
from .chain import LinearChain
from .checkpointing import checkpointed
from .config import (
    DECAYS,
    FEATURES,
    KEEP,
    DDMConfig,
)
from .lora import TARGETS, LoRA, adapter_numbers, layers
from .loss import DEFAULT_KERNEL, MMDLoss
from .training import Problem, Step, Training

__all__ = [
    "DDMConfig", "DECAYS", "DEFAULT_KERNEL", "FEATURES", "KEEP", "LinearChain", "LoRA", "MMDLoss",
    "Penalty", "Problem", "Step", "TARGETS", "Training", "accumulate", "checkpointed", "draw",
    "adapter_numbers",
    "layers",
]  # fmt: skip
