"""Maximum Mean Discrepancy guidance in closed form; torch only, nothing of ComfyUI.

Notation, used everywhere: B samples `x_i`, N references `y_j` with weights `q_j`, D numbers per latent,
kernel `k`, bandwidth (length scale) `h`, noise level `sigma`, the model's estimate `x0` of clean samples.
"""

from .comparison.latents import Latents
from .comparison.noise import NoiseModel, Window
from .guidance.companions import FEW
from .guidance.config import GuidanceConfig
from .guidance.guidance import Guidance
from .guidance.memory import Memory
from .guidance.modes import MODES
from .guidance.trace import RunTrace, TraceRow
from .kernels.config import (
    BANDWIDTHS,
    FEATURE_SPACES,
    KERNELS,
    KernelConfig,
)
from .kernels.mmd import mmd2, mmd2_grad
from .kernels.prompts import PROMPT_KERNELS
from .references.references import References

__all__ = [
    "BANDWIDTHS",
    "FEATURE_SPACES",
    "FEW",
    "KERNELS",
    "MODES",
    "PROMPT_KERNELS",
    "Guidance",
    "GuidanceConfig",
    "KernelConfig",
    "Latents",
    "Memory",
    "NoiseModel",
    "References",
    "RunTrace",
    "TraceRow",
    "Window",
    "mmd2",
    "mmd2_grad",
]
