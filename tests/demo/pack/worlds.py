"""Each world as ComfyUI knows models: MODEL, CLIP, VAE."""

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import torch

from .catalog import WORLDS, World, load_network
from .pixel_vae import PixelVAE
from .text_encoder import WordEncoder


def _latent_format(world: World) -> type:
    """Latents are the pictures themselves: no scale, one latent pixel for each pixel."""

    class PixelFormat(comfy.latent_formats.LatentFormat):
        scale_factor = 1.0
        latent_channels = world.channels
        spacial_downscale_ratio = 1
        # For previews: a gray picture has equal parts of red, green and blue.
        latent_rgb_factors = torch.eye(3).tolist() if world.channels == 3 else [[1.0, 1.0, 1.0]]

    return PixelFormat


def _model_config(world: World):
    """What BaseModel wants to know; the network is put in afterwards."""

    class DemoConfig(comfy.supported_models_base.BASE):
        unet_config = {"disable_unet_model_creation": True}
        latent_format = _latent_format(world)
        sampling_settings = {
            "sigma_min": world.sigma_min,
            "sigma_max": world.sigma_max,
            "sigma_data": world.sigma_data,
        }
        supported_inference_dtypes = [torch.float32]

    return DemoConfig(DemoConfig.unet_config)


def load_model(world: World) -> comfy.model_patcher.ModelPatcher:
    """The denoiser as an ordinary MODEL with EDM sampling."""
    model = comfy.model_base.BaseModel(_model_config(world), comfy.model_base.ModelType.EDM)
    network = load_network(world)
    network.dtype = torch.float32  # BaseModel asks its diffusion model
    model.diffusion_model = network
    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    model.to(offload_device)
    return comfy.model_patcher.ModelPatcher(model, load_device, offload_device)


def load_world(name: str):
    """MODEL, CLIP and VAE of the world *shapes* or *digits*."""
    world = WORLDS[name]
    return load_model(world), WordEncoder(world), PixelVAE(world)
