"""What a model's σ and noise mean, for all methods of this pack."""

import torch

from ...mmd_core import NoiseModel

__all__ = ["noise_model"]

PROBE = 0.5  # the σ at which the model is asked
DIGITS = 6  # of the answer: the rest is rounding


def noise_model(sampling: torch.nn.Module) -> NoiseModel | None:
    """The noise of a model; None if it is none that is known, or if the model adds none.

    The model itself is asked how it makes noisy latents, so that `noise_scale` (HiDream-O1) and
    noise models of other packs are read too. Models that map image to image (Lotus) add no noise.

    Arguments:
        sampling: ComfyUI's `model_sampling`.
    """
    sigmas = getattr(sampling, "sigmas", None)
    one = torch.ones(1, 1, device=None if sigmas is None else sigmas.device)

    def noisy(noise: float, latent: float) -> float:
        sigma = torch.full_like(one[0], PROBE)
        return round(float(sampling.noise_scaling(sigma, noise * one, latent * one, False)), DIGITS)

    scale, signal = noisy(1.0, 0.0) / PROBE, noisy(0.0, 1.0)
    if scale <= 0 or signal not in (1, 1 - PROBE):
        return None
    return NoiseModel(
        flow_matching=signal < 1,
        sigma_data=float(getattr(sampling, "sigma_data", 1.0)),
        scale=scale,
    )
