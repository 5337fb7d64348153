"""The VAE of a demo world: its latents are its pictures, only the number range differs."""

import torch

from .catalog import World


class PixelVAE:
    """Between pictures (B, H, W, 3) in [0, 1] and latents (B, C, H, W) in [-1, 1]."""

    latent_dim = 2
    downscale_ratio = 1
    upscale_ratio = 1
    extra_1d_channel = None
    not_video = True

    def __init__(self, world: World):
        self.latent_channels = world.channels
        self.output_channels = 3
        self.device = self.output_device = torch.device("cpu")
        self.vae_dtype = torch.float32
        # Nothing was learned, but nodes that tell VAEs apart look at their weights.
        self.first_stage_model = torch.nn.Module()
        self.first_stage_model.register_buffer("channels", torch.tensor([float(world.channels)]))

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        pixels = pixels[..., :3].movedim(-1, 1).float()
        if self.latent_channels == 1:
            pixels = pixels.mean(1, keepdim=True)
        return pixels * 2 - 1

    def decode(self, latent: torch.Tensor, **_ignored) -> torch.Tensor:
        pixels = (latent.float().cpu() / 2 + 0.5).clamp(0, 1).movedim(1, -1)
        return pixels.expand(*pixels.shape[:-1], 3).contiguous()

    def encode_tiled(self, pixels: torch.Tensor, **_ignored) -> torch.Tensor:
        return self.encode(pixels)

    def decode_tiled(self, latent: torch.Tensor, **_ignored) -> torch.Tensor:
        return self.decode(latent)

    def spacial_compression_encode(self) -> int:
        return 1

    def spacial_compression_decode(self) -> int:
        return 1

    def temporal_compression_decode(self) -> None:
        """Not a video VAE."""

    def get_sd(self) -> dict:
        return self.first_stage_model.state_dict()

    def throw_exception_if_invalid(self) -> None:
        """Always valid."""
