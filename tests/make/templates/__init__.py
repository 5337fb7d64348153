"""The workflows that the pack ships: one description each, by the name users see.

The names begin with a number, so that every system lists them in the order in which one learns.
"""

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
    "01 SD1.5 from a folder": from_folder.first,
    "02 SDXL from a folder": from_folder.sdxl,
    "03 Compare with and without": compare.describe,
    "04 Strength sweep": sweep.describe,
    "05 Prompt-aware with captions": captions.describe,
    "06 More diverse batch": diverse.describe,
    "07 Small card": from_folder.small_card,
    "08 Inpainting": inpainting.describe,
    "09 With LoRA and ControlNet": lora_controlnet.describe,
    "10 Share a style set": style_set.describe,
    "11 One batch over many runs": many_runs.describe,
    "12 Your set in few steps (MMD-DDM)": fast_set.describe,
    "13 Few steps (MMD-DDM)": few_steps.describe,
    "14 Steer towards a set (TRI-TSMC)": steer_set.describe,
    "15 Steer by your own scorer (TRI-TSMC)": own_scorer.describe,
}


def named(title: str) -> str:
    """The name of the template that has this title behind its number."""
    (name,) = (name for name in TEMPLATES if name.partition(" ")[2] == title)
    return name
