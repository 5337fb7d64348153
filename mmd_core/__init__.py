"""Maximum Mean Discrepancy guidance in closed form. This package imports nothing of ComfyUI.

Notation: B samples `x_i`, N references `y_j` with weights `q_j`, D numbers per
latent, kernel `k`, bandwidth (length scale) `h`, noise level `sigma`, the model's estimate `x0` of
clean samples.
"""

from .comparison.latents import Latents
from .comparison.noise import NoiseModel, Window
from .comparison.score import Score, score
from .comparison.workers import DistributedWorkers
from .files.reference_file import read as read_references
from .files.reference_file import write as write_references
from .guidance.by_prompt import ByPrompt
from .guidance.companions import FEW
from .guidance.config import GuidanceConfig
from .guidance.contrast import Base
from .guidance.guidance import Guidance
from .guidance.memory import Memory
from .guidance.modes import MODES
from .guidance.schedule import Execution, Schedule
from .guidance.trace import RunTrace, TraceRow
from .kernels.config import (
    BANDWIDTHS,
    FEATURE_SPACES,
    KERNELS,
    KernelConfig,
)
from .kernels.mmd import mmd2, mmd2_grad
from .kernels.prompts import PROMPT_KERNELS
from .references.compress import Compressed, compress
from .references.merge import merge
from .references.references import References

__all__ = [
    "BANDWIDTHS",
    "Base",
    "FEATURE_SPACES",
    "FEW",
    "KERNELS",
    "MODES",
    "PROMPT_KERNELS",
    "ByPrompt",
    "Compressed",
    "DistributedWorkers",
    "Execution",
    "Guidance",
    "GuidanceConfig",
    "KernelConfig",
    "Latents",
    "Memory",
    "NoiseModel",
    "References",
    "Schedule",
    "RunTrace",
    "Score",
    "TraceRow",
    "Window",
    "compress",
    "merge",
    "mmd2",
    "mmd2_grad",
    "read_references",
    "score",
    "write_references",
]
