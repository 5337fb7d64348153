"""The nodes, in the order of the menu."""

from .apply_mmd_guidance import ApplyMMDGuidance
from .compress_references import CompressReferences
from .encode_reference_latents import EncodeReferenceLatents
from .load_reference_latents import LoadReferenceLatents
from .load_reference_set import LoadReferenceSet
from .merge_references import MergeReferences
from .mmd_guided_ksampler import MMDGuidedKSampler
from .mmd_kernel import MMDKernel
from .mmd_memory import MMDMemory
from .mmd_plot import MMDPlot
from .mmd_score import MMDScore
from .mmd_strengths import MMDStrengths
from .reference_preview import ReferencePreview
from .save_reference_latents import SaveReferenceLatents

NODES = [
    LoadReferenceSet,
    EncodeReferenceLatents,
    SaveReferenceLatents,
    LoadReferenceLatents,
    MergeReferences,
    CompressReferences,
    ReferencePreview,
    MMDKernel,
    ApplyMMDGuidance,
    MMDGuidedKSampler,
    MMDMemory,
    MMDStrengths,
    MMDPlot,
    MMDScore,
]
