"""The learned autoencoder as ComfyUI's VAE."""

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch
from safetensors.torch import load_file

from . import VAE_WEIGHTS
from .vae import EmojiVAE

ENCODER_NUMBERS = 64
DECODER_NUMBERS = 2048
"""How many numbers lie in memory at once for each pixel, and for each place of a latent."""


class ScaledVAE(EmojiVAE):
    """The autoencoder with latents in the units that ComfyUI's nodes see."""

    def __init__(self, latent_format: comfy.latent_formats.LatentFormat) -> None:
        super().__init__()
        self.latent_format = latent_format

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.latent_format.process_out(super().encode(pictures))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return super().decode(self.latent_format.process_in(latents))


class VAE(comfy.sd.VAE):
    """Pictures (B, H, W, 3) in [0, 1] to latents (B, 4, H/4, W/4) and back."""

    def __init__(self, latent_format: comfy.latent_formats.LatentFormat) -> None:
        # ComfyUI tells networks by their weights and knows none like ours: take its simplest
        # VAE, which has all settings, and exchange the network.
        super().__init__({"pixel_space_vae": torch.tensor(1.0)}, dtype=torch.float32)
        network = ScaledVAE(latent_format)
        weights = load_file(VAE_WEIGHTS)
        network.load_state_dict({name: weight.float() for name, weight in weights.items()})
        network.requires_grad_(False)
        self.first_stage_model = network.eval().to(memory_format=torch.channels_last)
        self.latent_channels = latent_format.latent_channels
        self.downscale_ratio = self.upscale_ratio = latent_format.spacial_downscale_ratio
        self.memory_used_encode = lambda shape, dtype: (
            ENCODER_NUMBERS * shape[2] * shape[3] * dtype.itemsize
        )
        self.memory_used_decode = lambda shape, dtype: (
            DECODER_NUMBERS * shape[2] * shape[3] * dtype.itemsize
        )
        self.size = comfy.model_management.module_size(network)
        offload_device = comfy.model_management.vae_offload_device()
        self.patcher = comfy.model_patcher.ModelPatcher(network, self.device, offload_device)
