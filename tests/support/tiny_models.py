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
    kind = getattr(comfy.model_base, family, comfy.model_base.BaseModel)
    if family == "SDXL":
        config |= {"num_classes": "sequential", "adm_in_channels": 1536 + WIDTH}
    if family == "SD15_instructpix2pix":
        config["in_channels"] = 8  # the picture to edit is part of the input
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


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers, the same ones for a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def empty_latent(batch: int = 8, channels: int = 4, side: int = 8):
    return {"samples": torch.zeros(batch, channels, side, side)}


# ---- one small network of each architecture, with the noise model that its family really has

FAMILIES = ("SD15", "SD20", "SDXL", "SD3", "Flux", "WAN21_T2V")
CONTEXT = {"SD20": 1024}  # numbers of a token; elsewhere WIDTH
_UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32,
    "num_res_blocks": [1], "channel_mult": [1], "transformer_depth": [0],
    "transformer_depth_output": [0, 1], "transformer_depth_middle": 1,
    "num_heads": -1, "num_head_channels": 32, "context_dim": WIDTH, "use_spatial_transformer": True,
    "legacy": False, "use_linear_in_transformer": False,
}  # fmt: skip
# Core gives these families heads of 64.
_WIDE = {**_UNET, "model_channels": 64, "use_linear_in_transformer": True}
_NETWORKS = {
    "SD15": _UNET,
    "SD20": {**_WIDE, "context_dim": CONTEXT["SD20"]},
    "SDXL": {**_WIDE, "num_classes": "sequential", "adm_in_channels": 1536 + WIDTH},
    "SD3": {
        "input_size": None, "patch_size": 2, "in_channels": 16, "depth": 1, "num_blocks": 2,
        "adm_in_channels": WIDTH, "pos_embed_scaling_factor": None, "pos_embed_max_size": 8,
        "num_patches": 64, "context_embedder_config": {
            "target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": 64},
        },
    },
    "Flux": {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": WIDTH,
        "context_in_dim": WIDTH, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1,
        "depth_single_blocks": 1, "axes_dim": [8, 12, 12], "theta": 10000, "patch_size": 2,
        "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
    },
    "WAN21_T2V": {
        "image_model": "wan2.1", "model_type": "t2v", "dim": 64, "ffn_dim": 128, "freq_dim": 64,
        "text_dim": WIDTH, "num_heads": 2, "num_layers": 2,
    },
}  # fmt: skip


def tiny_family(family: str):
    """A small random MODEL with the architecture, latent format and noise model of one of `FAMILIES`."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    torch.manual_seed(0)
    config = {**_NETWORKS[family], "dtype": torch.float32}
    supported = getattr(comfy.supported_models, family)(config)
    cpu = torch.device("cpu")
    if family == "SD20":  # core tells v-prediction by the weights of the checkpoint
        v_prediction = comfy.model_base.ModelType.V_PREDICTION
        model = comfy.model_base.BaseModel(supported, v_prediction, device=cpu)
    else:
        model = supported.get_model({}, device=cpu)
    network = model.diffusion_model
    for tensor in (*network.parameters(), *network.buffers()):  # some are empty, some zero
        torch.nn.init.normal_(tensor, std=0.05)
    name = "_forward" if hasattr(network, "_forward") else "forward"  # within core's wrappers
    answer = _with_expectation(getattr(network, name), model.model_sampling, model.model_type.name)
    setattr(network, name, answer)
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


def _with_expectation(forward, sampling, kind: str):
    """Adds what a network that knows latents of N(0, 1) would answer, so that these are drawn."""

    def answer(x, timesteps, *args, **options):
        output = forward(x, timesteps, *args, **options)
        t = timesteps.reshape(-1, *[1] * (x.ndim - 1))
        if kind == "EPS":
            sigma = sampling.sigma(t)
            return output + x * sigma / (sigma.square() + 1).sqrt()
        if kind in ("FLOW", "FLUX"):
            sigma = t / getattr(sampling, "multiplier", 1.0)
            return output + x * (2 * sigma - 1) / (sigma.square() + (1 - sigma).square())
        return output  # v-prediction: it is 0

    return answer


def gaussian_family(family: str):
    """A MODEL of the family that knows nothing but N(0, 1), number by number: everything about it has a closed form."""
    model = tiny_family(family)
    network = model.model.diffusion_model
    name = "_forward" if hasattr(network, "_forward") else "forward"
    sampling, kind = model.model.model_sampling, model.model.model_type.name
    nothing = _with_expectation(lambda x, *args, **options: torch.zeros_like(x), sampling, kind)
    setattr(network, name, nothing)
    return model


def family_prompt(family: str, seed: int):
    """A CONDITIONING that `tiny_family` takes."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(1, 7, CONTEXT.get(family, WIDTH), generator=generator)
    return [[tokens, {"pooled_output": torch.randn(1, WIDTH, generator=generator)}]]


def family_latent(family: str, batch: int = 8, side: int = 4):
    """An empty LATENT of the family's shape; video models get one frame."""
    shape = {"SD3": (16,), "Flux": (16,), "WAN21_T2V": (16, 1)}.get(family, (4,))
    return {"samples": torch.zeros(batch, *shape, side, side)}


def picture_and_sound_model():
    """A MODEL that draws films with their sound: a network for the film, and none for the sound."""
    import comfy.conds
    import comfy.latent_formats

    class FilmAndSound(comfy.latent_formats.LatentFormat):
        latent_channels, latent_dimensions = 16, 3
        latent_rgb_factors = [[0.1, 0.0, -0.1]] * 16
        latent_rgb_factors_bias = [0.0, 0.0, 0.0]

    model = tiny_family("WAN21_T2V")
    network = model.model.diffusion_model
    of_film = network.forward

    def forward(x, *args, **options):
        if isinstance(x, list):
            return [of_film(x[0], *args, **options), x[1] / 2]
        return of_film(x, *args, **options)

    def extra_conds(cross_attn, latent_shapes, **options):
        tokens = {"c_crossattn": comfy.conds.CONDRegular(cross_attn)}
        kinds = {"latent_shapes": comfy.conds.CONDConstant(latent_shapes)}
        return {**tokens, **kinds} if len(latent_shapes) > 1 else tokens

    network.forward, model.model.extra_conds = forward, extra_conds
    model.model.latent_format = FilmAndSound()
    return model


def film_and_sound(batch: int = 8, frames: int = 1, side: int = 4):
    """An empty LATENT for it."""
    import comfy.nested_tensor

    film, sound = torch.zeros(batch, 16, frames, side, side), torch.zeros(batch, 8, 10)
    return {"samples": comfy.nested_tensor.NestedTensor([film, sound])}
