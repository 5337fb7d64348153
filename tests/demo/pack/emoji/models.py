"""The emoji world as ComfyUI knows models: MODEL, CLIP, VAE, in two families."""

import json
import math

import comfy.conds
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models_base
import torch
from comfy.model_base import ModelType
from safetensors import safe_open

from ..catalog import EMOJI
from . import DENOISER_WEIGHTS
from .autoencoder import VAE
from .latent_formats import FlowFormat, NoiseFormat
from .noise_levels import NoiseDenoiser, VelocityDenoiser
from .text_encoder import load_clip

SHIFT = 2.0
"""How far the times of flow models lean towards noise, as in training."""

MEMORY = 0.3
"""Of the pictures in memory, on ComfyUI's scale, on which Stable Diffusion has 1 to 2."""


class NoiseConfig(comfy.supported_models_base.BASE):
    """Predicts noise, with the noise levels of Stable Diffusion."""

    latent_format = NoiseFormat
    unet_config = {"disable_unet_model_creation": True}
    memory_usage_factor = MEMORY
    supported_inference_dtypes = [torch.float32]


class FlowConfig(NoiseConfig):
    """Predicts velocities, with the times of Flux."""

    latent_format = FlowFormat
    sampling_settings = {"shift": math.log(SHIFT)}


class EmojiModel(comfy.model_base.BaseModel):
    """A model whose prompts have one length."""

    def extra_conds(self, **kwargs: object) -> dict[str, object]:
        # What core does with prompts of different lengths is to repeat the shorter one. Here the
        # sum of the words counts, too: such prompts are better computed one after the other.
        found = super().extra_conds(**kwargs)
        if "c_crossattn" in found:
            found["c_crossattn"] = comfy.conds.CONDRegular(kwargs["cross_attn"])
        return found


FAMILIES = dict(
    zip(EMOJI, ((NoiseConfig, ModelType.EPS), (FlowConfig, ModelType.FLUX)), strict=True)
)
"""The model like Stable Diffusion, and the one like Flux."""


def read_weights() -> tuple[dict[str, dict[str, torch.Tensor]], list[str], dict[str, int]]:
    """The weights of `words` and of `denoiser`, the vocabulary, and the denoiser's options."""
    found: dict[str, dict[str, torch.Tensor]] = {"words": {}, "denoiser": {}}
    with safe_open(DENOISER_WEIGHTS, "pt") as file:
        metadata = file.metadata()
        for key in file.keys():  # noqa: SIM118
            part, _, name = key.partition(".")
            found[part][name] = file.get_tensor(key).float()
    return found, json.loads(metadata["vocabulary"]), json.loads(metadata["options"])


def load_emoji(
    family: str,
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE of one of `FAMILIES`."""
    weights, vocabulary, options = read_weights()
    config, kind = FAMILIES[family]
    model = EmojiModel(config(config.unet_config), kind)
    if kind == ModelType.EPS:
        network = NoiseDenoiser(model.model_sampling.sigmas, **options)
    else:
        network = VelocityDenoiser(**options)
    network.load_state_dict(weights["denoiser"])
    network.requires_grad_(False)
    model.diffusion_model = network.eval().to(memory_format=torch.channels_last)
    offload_device = comfy.model_management.unet_offload_device()
    model.to(offload_device)
    load_device = comfy.model_management.get_torch_device()
    patcher = comfy.model_patcher.ModelPatcher(model, load_device, offload_device)
    clip = load_clip(vocabulary, weights["words"])
    return patcher, clip, VAE(model.latent_format)
