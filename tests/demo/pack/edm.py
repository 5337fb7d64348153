"""EDM preconditioning for training and judging without ComfyUI, which brings its own."""

import torch


def denoise(network, x: torch.Tensor, sigma: torch.Tensor, words: torch.Tensor, sigma_data: float):
    """The estimate of the clean picture (B, C, H, W) for noise levels sigma (B,), words (B, E)."""
    s = sigma.view(-1, 1, 1, 1)
    scale = (s * s + sigma_data * sigma_data).sqrt()
    output = network(x / scale, sigma.log() / 4, words[:, None])
    return x * (sigma_data / scale) ** 2 + output * (s * sigma_data / scale)


def training_loss(network, clean, words, sigma, noise, sigma_data: float) -> torch.Tensor:
    """Mean squared error in the units of the network's output, so every noise level weighs one."""
    s = sigma.view(-1, 1, 1, 1)
    weight = (s * s + sigma_data**2) / (s * sigma_data) ** 2
    error = denoise(network, clean + s * noise, sigma, words, sigma_data) - clean
    return (weight * error * error).mean()


def karras_sigmas(steps: int, low: float, high: float, rho: float = 7.0) -> torch.Tensor:
    """Noise levels (steps + 1,) from high to low, then zero."""
    ramp = torch.linspace(0, 1, steps)
    sigmas = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([sigmas, torch.zeros(1)])


@torch.no_grad()
def sample(network, noise, words, sigma_data: float, sigmas: torch.Tensor) -> torch.Tensor:
    """Deterministic Euler sampling of (B, C, H, W) from unit noise of that shape."""
    x = noise * sigmas[0]
    for now, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        clean = denoise(network, x, now.expand(len(x)), words, sigma_data)
        x = clean + (x - clean) * (after / now)
    return x
