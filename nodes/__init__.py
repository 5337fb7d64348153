"""The nodes, in the order of the menu."""

from .ddm.mmd_lora_info import MMDLoRAInfo
from .ddm.mmd_make_references import MMDMakeReferences
from .ddm.mmd_prompts import MMDPrompts
from .ddm.mmd_save_lora import MMDSaveLoRA
from .ddm.mmd_train_lora import MMDTrainLoRA
from .guidance.apply_mmd_guidance import ApplyMMDGuidance
from .guidance.mmd_guided_ksampler import MMDGuidedKSampler
from .guidance.mmd_kernel import MMDKernel
from .guidance.mmd_memory import MMDMemory
from .guidance.mmd_plot import MMDPlot
from .guidance.mmd_score import MMDScore
from .guidance.mmd_strengths import MMDStrengths
from .references.compress_references import CompressReferences
from .references.encode_reference_latents import EncodeReferenceLatents
from .references.load_reference_latents import LoadReferenceLatents
from .references.load_reference_set import LoadReferenceSet
from .references.merge_references import MergeReferences
from .references.mmd_base_images import MMDBaseImages
from .references.reference_preview import ReferencePreview
from .references.save_reference_latents import SaveReferenceLatents
from .tsmc.reward_clip_vision import TSMCRewardCLIPVision
from .tsmc.reward_image_stats import TSMCRewardImageStats
from .tsmc.reward_reference import TSMCRewardReference
from .tsmc.score_images import TSMCScoreImages
from .tsmc.tri_tsmc_sampler import TRITSMCSampler
from .tsmc.tsmc_init import TSMCInit
from .tsmc.tsmc_plot import TSMCPlot
from .tsmc.tsmc_propose import TSMCPropose
from .tsmc.tsmc_select import TSMCSelect
from .tsmc.tsmc_update import TSMCUpdate

NODES = [
    LoadReferenceSet,
    EncodeReferenceLatents,
    SaveReferenceLatents,
    LoadReferenceLatents,
    MergeReferences,
    CompressReferences,
    ReferencePreview,
    MMDBaseImages,
    MMDKernel,
    ApplyMMDGuidance,
    MMDGuidedKSampler,
    MMDMemory,
    MMDStrengths,
    MMDPlot,
    MMDScore,
    TSMCRewardReference,
    TSMCRewardCLIPVision,
    TSMCRewardImageStats,
    TSMCScoreImages,
    TRITSMCSampler,
    TSMCInit,
    TSMCPropose,
    TSMCUpdate,
    TSMCSelect,
    TSMCPlot,
    MMDPrompts,
    MMDMakeReferences,
    MMDTrainLoRA,
    MMDSaveLoRA,
    MMDLoRAInfo,
]
