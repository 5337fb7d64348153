"""A checkpoint in the layout of SD 1.5 whose weights are random: ComfyUI loads it as a real one."""

import math

import torch

CLIP = {  # core builds it with these sizes, whatever the file holds
    "num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "vocab_size": 49408,
    "intermediate_size": 3072, "hidden_act": "quick_gelu", "max_position_embeddings": 77,
    "eos_token_id": 49407,
}  # fmt: skip
UNET = {  # recognised by its width and that of prompts; it is shallower than SD 1.5's
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320,
    "num_res_blocks": [1, 1], "channel_mult": [1, 1], "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1, "num_heads": 8,
    "context_dim": 768, "use_spatial_transformer": True, "use_linear_in_transformer": False,
    "legacy": False,
}  # fmt: skip
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
# An untrained U-Net draws latents of the size of the noise: so large must those of the VAE be, or a
# kernel as narrow as the references lie would reach nothing that is drawn.
LATENT_SCALE = 200.0


def write_checkpoint(path) -> None:
    """Writes the checkpoint, the same at every call, to a .safetensors file of 0.5 GB."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    weights = {name: draw(name, shape, generator) for name, shape in shapes().items()}
    weights["first_stage_model.quant_conv.weight"] *= LATENT_SCALE
    weights["first_stage_model.post_quant_conv.weight"] /= LATENT_SCALE
    positions = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    weights[positions] = torch.arange(CLIP["max_position_embeddings"])[None]
    save_file(weights, str(path))


def shapes() -> dict[str, torch.Size]:
    """The shape of every weight by its name in the checkpoint."""
    from comfy.clip_model import CLIPTextModel
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.ops import disable_weight_init

    with torch.device("meta"):
        parts = {
            "model.diffusion_model.": UNetModel(**UNET),
            "first_stage_model.": AutoencoderKL(ddconfig=VAE, embed_dim=4),
            "cond_stage_model.transformer.text_model.": CLIPTextModel(
                CLIP, torch.float16, "meta", disable_weight_init
            ).text_model,
        }
    return {
        prefix + name: weight.shape
        for prefix, part in parts.items()
        for name, weight in part.state_dict().items()
    }


def draw(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """A weight in half precision: random so that the signal keeps its size from layer to layer."""
    if len(shape) == 1:
        return torch.full(shape, float(name.endswith("weight")), dtype=torch.float16)
    std = 0.02 if "embedding" in name else 1 / math.sqrt(math.prod(shape[1:]))
    return torch.randn(shape, generator=generator).mul_(std).half()
