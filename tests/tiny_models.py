"""Random-weight models that ComfyUI takes for real ones: everything but the picture is real."""

import torch

WIDTH = 16  # of the prompts' tokens


def tiny_model(family: str = "SD15"):
    """A small MODEL of one family: its latent space and noise model with a small U-Net."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    torch.manual_seed(0)
    config = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 64,
        "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [1, 1],
        "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1,
        "num_heads": -1, "num_head_channels": 64, "context_dim": WIDTH, "use_spatial_transformer": True,
        "legacy": False,
        "use_linear_in_transformer": family == "SDXL", "dtype": torch.float32,
    }  # fmt: skip
    kind = comfy.model_base.BaseModel
    if family == "SDXL":
        config |= {"num_classes": "sequential", "adm_in_channels": 1536 + WIDTH}
        kind = comfy.model_base.SDXL
    supported = getattr(comfy.supported_models, family)(config)
    # With v-prediction even random weights give estimates of the size of latents.
    model = kind(supported, comfy.model_base.ModelType.V_PREDICTION, device=torch.device("cpu"))
    for parameter in model.diffusion_model.parameters():  # zero-initialised ones would draw nothing
        torch.nn.init.normal_(parameter, std=0.05)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def prompt(seed: int = 0, batch: int = 1):
    """A CONDITIONING of `batch` different prompts."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(batch, 7, WIDTH, generator=generator)
    return [[tokens, {"pooled_output": torch.randn(batch, WIDTH, generator=generator)}]]


def empty_latent(batch: int = 8, channels: int = 4, side: int = 8):
    return {"samples": torch.zeros(batch, channels, side, side)}
