"""The autoencoder: pictures (B, 3, 64, 64) to latents (B, 4, 16, 16) and back; any multiple of 4."""

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """Residual pair of 3x3 convolutions without norm, so that a place sees only what is near it."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class Encoder(nn.Sequential):
    """Pictures to the means and log variances (B, 8, H/4, W/4) of their latents."""

    def __init__(self, latent: int, fine: int, coarse: int, fine_blocks: int, coarse_blocks: int):
        super().__init__(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, fine, 3, padding=1),
            *[Block(fine) for _ in range(fine_blocks)],
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * fine, coarse, 1),
            *[Block(coarse) for _ in range(coarse_blocks)],
            nn.SiLU(),
            nn.Conv2d(coarse, 2 * latent, 1),
        )


class Decoder(nn.Sequential):
    """Latents to pictures in -1 to 1 (not clamped)."""

    def __init__(self, latent: int, fine: int, coarse: int, fine_blocks: int, coarse_blocks: int):
        super().__init__(
            nn.Conv2d(latent, coarse, 3, padding=1),
            *[Block(coarse) for _ in range(coarse_blocks)],
            nn.Conv2d(coarse, 4 * fine, 1),
            nn.PixelShuffle(2),
            *[Block(fine) for _ in range(fine_blocks)],
            nn.Conv2d(fine, 4 * 16, 3, padding=1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(16, 3, 3, padding=1),
        )


class EmojiVAE(nn.Module):
    """Autoencoder whose latents, shifted and scaled, have mean 0 and variance 1."""

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, latent: int = 4):
        super().__init__()
        self.encoder = Encoder(latent, 32, 80, 2, 2)
        self.decoder = Decoder(latent, 48, 80, 3, 3)
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def posterior(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance of the latents as the decoder takes them."""
        mean, log_variance = self.encoder(pictures).chunk(2, 1)
        return mean, log_variance.clamp(-12, 4)

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """Normalised latents of pictures in -1 to 1."""
        return (self.posterior(pictures)[0] - self.shift) * self.scale

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures in -1 to 1 of normalised latents."""
        return self.decoder(latents / self.scale + self.shift).clamp(-1, 1)
