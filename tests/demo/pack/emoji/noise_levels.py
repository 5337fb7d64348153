"""The learned denoiser as the samplers of two families of models call it."""

import comfy.ldm.common_dit
import torch

from .denoiser import Denoiser


class VelocityDenoiser(Denoiser):
    """The denoiser as the network of a flow model such as Flux.

    Maps noisy latents (1 - t) x + t n (B, 4, H, W), times t (B,) and words (B, L, E) to velocities
    n - x.
    """

    dtype = torch.float32  # ComfyUI asks the network for it

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor,
        **_ignored: object,
    ) -> torch.Tensor:
        return self.velocity(x, timesteps, context)

    def velocity(self, x: torch.Tensor, time: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Velocities of latents of any height and width; areas may have odd ones."""
        height, width = x.shape[-2:]
        even = comfy.ldm.common_dit.pad_to_patch_size(x, (2, 2), "replicate")
        return super().forward(even, time, words)[..., :height, :width]


class NoiseDenoiser(VelocityDenoiser):
    """The denoiser as the network of a model such as Stable Diffusion.

    Maps noisy latents (x + σ n) / √(1 + σ²), numbers of noise levels and words to noises n.

    Arguments:
        sigmas: The noise level σ of each number, increasing.
    """

    sigmas: torch.Tensor

    def __init__(self, sigmas: torch.Tensor, **options: int) -> None:
        super().__init__(**options)
        self.register_buffer("sigmas", sigmas.clone(), persistent=False)

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor,
        **_ignored: object,
    ) -> torch.Tensor:
        # (x + σ n) / (1 + σ) is the flow's (1 - t) x + t n at t = σ / (1 + σ), and there
        # (1 - t) x + t n + (1 - t) (n - x) = n.
        sigma = self.sigmas[timesteps.round().long()]
        in_shape = sigma[:, None, None, None]
        flow_x = x * (1 + in_shape**2).sqrt() / (1 + in_shape)
        velocity = self.velocity(flow_x, sigma / (1 + sigma), context)
        return flow_x + velocity / (1 + in_shape)
