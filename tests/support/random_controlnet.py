"""A ControlNet and a LoRA with random weights for tests/random_checkpoint.py: ComfyUI's own layout."""

import torch
from mmd_tests.support.random_checkpoint import UNET, draw

LORA_LAYERS = {  # in the layout of kohya's trainers: (out, in) of the layer
    "lora_unet_down_blocks_0_attentions_0_proj_in": (320, 320),
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
}
RANK = 4


def write_controlnet(path) -> None:
    """Writes a ControlNet, as deep as the random checkpoint's U-Net."""
    from comfy.cldm.cldm import ControlNet
    from safetensors.torch import save_file

    config = {name: value for name, value in UNET.items() if name != "out_channels"}
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in ControlNet(**config, hint_channels=3).state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: draw(name, shape, generator) for name, shape in shapes.items()}, str(path))


def write_lora(path) -> None:
    """Writes a LoRA that changes a layer of the U-Net and one of the text encoder."""
    from safetensors.torch import save_file

    generator, weights = torch.Generator().manual_seed(2), {}
    for name, (wide, narrow) in LORA_LAYERS.items():
        kernel = (1, 1) if "unet" in name else ()
        for part, shape in (("down", (RANK, narrow)), ("up", (wide, RANK))):
            weights[f"{name}.lora_{part}.weight"] = draw(part, shape + kernel, generator)
        weights[f"{name}.alpha"] = torch.tensor(float(RANK))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, str(path))
