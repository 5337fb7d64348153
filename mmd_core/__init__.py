"""Maximum Mean Discrepancy guidance in closed form; torch only, nothing of ComfyUI.

Notation, used everywhere: B samples `x_i`, N references `y_j` with weights `q_j`, D numbers per latent,
kernel `k`, bandwidth (length scale) `h`, noise level `sigma`, the model's estimate `x0` of clean samples.
"""

from .companion import FEW
from .config import BANDWIDTHS, KERNELS, MODES, GuidanceConfig, KernelConfig
from .feature_space import FEATURE_SPACES
from .guidance import Guidance
from .latents import Latents
from .memory import Memory
from .mmd import mmd2, mmd2_grad
from .prompt import PROMPT_KERNELS
from .reference import References
from .schedule import NoiseModel, Window
from .trace import RunTrace, TraceRow

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
