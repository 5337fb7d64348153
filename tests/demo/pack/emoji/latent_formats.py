"""The latents of both families, in units of their own as those of the large models are."""

import comfy.latent_formats
import torch

from ..catalog import EMOJI_CHANNELS, EMOJI_DOWNSCALE


class _EmojiFormat(comfy.latent_formats.LatentFormat):
    latent_channels = EMOJI_CHANNELS
    spacial_downscale_ratio = EMOJI_DOWNSCALE
    # For previews: least squares on training pictures (R² .9).
    latent_rgb_factors = [
        [-0.082, -0.116, 0.103],
        [-0.135, 0.146, 0.180],
        [0.318, 0.139, -0.093],
        [0.246, 0.275, 0.407],
    ]
    latent_rgb_factors_bias = [0.532, 0.437, 0.401]


class NoiseFormat(_EmojiFormat):
    """Scaled as latents of SD 1.5 are."""

    scale_factor = 0.18215


class FlowFormat(_EmojiFormat):
    """Scaled and shifted as latents of Flux are."""

    scale_factor = 0.3611
    shift_factor = 0.1159

    def process_in(self, latent: torch.Tensor) -> torch.Tensor:
        return (latent - self.shift_factor) * self.scale_factor

    def process_out(self, latent: torch.Tensor) -> torch.Tensor:
        return latent / self.scale_factor + self.shift_factor
