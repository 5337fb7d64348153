"""The nodes, in the order of the menu."""

from .apply_mmd_guidance import ApplyMMDGuidance
from .encode_reference_latents import EncodeReferenceLatents
from .load_reference_set import LoadReferenceSet
from .mmd_guided_ksampler import MMDGuidedKSampler
from .mmd_kernel import MMDKernel

NODES = [
    LoadReferenceSet,
    EncodeReferenceLatents,
    MMDKernel,
    ApplyMMDGuidance,
    MMDGuidedKSampler,
]
