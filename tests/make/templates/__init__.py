"""The workflows that the pack ships: one description each, by the name users see, in their order."""

from mmd_tests.make.templates import (
    captions,
    compare,
    diverse,
    fast_set,
    few_steps,
    from_folder,
    inpainting,
    lora_controlnet,
    many_runs,
    own_scorer,
    steer_set,
    style_set,
    sweep,
)

TEMPLATES = {
    "MMD Guidance - SD1.5 from a folder": from_folder.first,
    "MMD Guidance - SDXL from a folder": from_folder.sdxl,
    "MMD Guidance - Prompt-aware with captions": captions.describe,
    "MMD Guidance - Small card": from_folder.small_card,
    "MMD Guidance - More diverse batch": diverse.describe,
    "MMD Guidance - Inpainting": inpainting.describe,
    "MMD Guidance - With LoRA and ControlNet": lora_controlnet.describe,
    "MMD Guidance - Share a style set": style_set.describe,
    "MMD Guidance - Compare with and without": compare.describe,
    "MMD Guidance - Strength sweep": sweep.describe,
    "MMD Guidance - One batch over many runs": many_runs.describe,
    "MMD Guidance - Steer towards a set (TRI-TSMC)": steer_set.describe,
    "MMD Guidance - Steer by your own scorer (TRI-TSMC)": own_scorer.describe,
    "MMD Guidance - Few steps (MMD-DDM)": few_steps.describe,
    "MMD Guidance - Your set in few steps (MMD-DDM)": fast_set.describe,
}
